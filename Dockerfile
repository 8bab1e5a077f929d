# weir in two stages: one that compiles, one that only runs.
#
#   docker build -t weir .
#   docker run -p 5432:5432 -p 6379:6379 -v $PWD/weir.ini:/etc/weir/weir.ini:ro weir
#
# What is installed, in both stages, is said in tests/packages.txt alone.
FROM debian:12-slim AS build
WORKDIR /src
COPY tests/setup.sh tests/packages.txt tests/
RUN tests/setup.sh build
COPY . .
RUN make -j"$(nproc)" && strip -o /weir build/plain/weir && /weir -V

FROM debian:12-slim
COPY tests/setup.sh tests/packages.txt /tmp/setup/
RUN /tmp/setup/setup.sh run && rm -rf /tmp/setup /var/lib/apt/lists/* && mkdir /etc/weir
COPY --from=build /weir /usr/local/bin/weir
COPY LICENSE /usr/share/doc/weir/
# A library the list forgot shows here, not at the first start.
RUN weir -V

# Ports above 1023, nothing written to disk: no privilege is needed, so none is
# kept.  The configuration and its certificates must be readable by nobody.
USER nobody:nogroup
EXPOSE 5432 6379 9091
STOPSIGNAL SIGTERM
# No HEALTHCHECK: it would need a client in the image.  Ask GET /healthz on
# admin_listen from outside, as fly.toml does.
ENTRYPOINT ["/usr/local/bin/weir", "-c", "/etc/weir/weir.ini"]
