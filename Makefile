# make              the proxy, build/plain/weir
# make demo         PostgreSQL + Redis + weir in a private folder, driven and shown
# make test         lint + unit + fuzz replay + threads + integration: what a commit must pass
# make unit         cmocka, one binary a module       make integration  pytest, ARGS='-k tenant'
# make replay       fuzz targets over their corpora   make threads      threaded unit tests, TSan
# make lint         what a compiler cannot know       make bench        the figures in README
# make fuzz T=conf  libFuzzer on one target, SECONDS=60
# make bench-redis  the Redis figures: direct, nutcracker, weir
# make bench-crdt   small INSERTs of many clients: direct, PgBouncer, weir
# make soak         the leak test of make test for an hour, SECONDS=3600, and
#                   200 Redis clients that do everything, STORM=600, and random
#                   clients while all goes wrong, CHAOS=300 seconds of each way
# make regress      PostgreSQL's own regression suite, directly and through weir: minutes
# make redis-suite  Redis's own test suite, directly and through weir: minutes
# Any of them with SAN=address,undefined (or thread) builds into its own folder.
# V=1 shows the commands.  demo, test, bench, fuzz and soak first install what is
# missing: tests/setup.sh, from the one list tests/packages.txt.

NAME   := weir
comma  := ,
B      := build/$(if $(SAN),$(subst $(comma),-,$(SAN)),plain)
PKGS   := libevent openssl jansson libpq
# libpg_query has no file for pkg-config.
FOUND  := $(shell pkg-config --exists $(PKGS) 2>/dev/null && \
            echo $(if $(wildcard /usr/include/pg_query.h /usr/local/include/pg_query.h),yes))
JOBS   := $(shell nproc)

# Of sanitizers only the lines are asked; their debug information would be a fifth of the work.
CFLAGS ?= $(if $(SAN),-Og -g1,-O2 -g -D_FORTIFY_SOURCE=2)
FLAGS  := -std=c11 -D_GNU_SOURCE -I. $(if $(FOUND),$(shell pkg-config --cflags $(PKGS))) \
          -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
          -Wpointer-arith -Wvla -Wswitch-enum -Wformat=2 -fno-common \
          -fstack-protector-strong -pthread -MMD -MP
LINK   := -pthread -Wl,-z,relro,-z,now -Wl,--as-needed
LIBS   := $(if $(FOUND),$(shell pkg-config --libs $(PKGS)) -lpg_query)
ifdef SAN
GOLD   := $(shell command -v ld.gold)
FLAGS  += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
# Many binaries, each with all of weir in it: gold takes a third of the time,
# and less where it may leave out what is never called.
LINK   += -fsanitize=$(SAN) $(if $(GOLD),-fuse-ld=gold)
endif
CALLED  = $(if $(GOLD),-Wl$(comma)--start-lib $1 -Wl$(comma)--end-lib,$1)
# TSan wants its shadow where address randomisation may have put something else.
RUN    := timeout 600 $(if $(findstring thread,$(SAN)),$(shell setarch -R true 2>/dev/null && echo setarch -R))

SRC  := $(foreach d,protocol conf tls pool proxy,$(wildcard $d/*.c))
OBJ  := $(SRC:%.c=$B/%.o)
CORE := $(filter-out $B/proxy/main.o,$(OBJ))
UNIT := $(patsubst %.c,$B/%,$(or $(ONLY),$(wildcard tests/test_*.c)))
FUZZ := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
Q    := $(if $V,,@)
# A sub-make of its own, parallel unless already told.
MORE  = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

all: $B/$(NAME)
$B/$(NAME): $(OBJ)
	@echo "  link  $@"
	$Q$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/tests/test_%: $B/tests/test_%.o $(CORE)
	@echo "  link  $@"
	$Q$(CC) $(LINK) $(LDFLAGS) -o $@ $< $(call CALLED,$(CORE)) $(LIBS) -lcmocka
$B/bench/bench_%: bench/bench_%.c Makefile
	@mkdir -p $(@D); echo "  cc    $@"
	$Q$(CC) $(FLAGS) $(CFLAGS) -o $@ $< $(LIBS) -lhiredis
$B/bench/bench_floor: $B/bench/bench_floor.o $(filter $B/protocol/%,$(OBJ))
	@echo "  link  $@"
	$Q$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/bench/%.so: bench/%.c Makefile
	@mkdir -p $(@D); echo "  cc    $@"
	$Q$(CC) $(FLAGS) -O2 -shared -fPIC -o $@ $<
$B/replay_%: $B/tests/fuzz/fuzz_%.o $B/tests/fuzz/replay.o $(CORE)
	@echo "  link  $@"
	$Q$(CC) $(LINK) $(LDFLAGS) -o $@ $< $B/tests/fuzz/replay.o $(call CALLED,$(CORE)) $(LIBS)
$B/%.o: %.c Makefile $(if $(FOUND),,libraries)
	@mkdir -p $(@D); echo "  cc    $@"
	$Q$(CC) $(FLAGS) $(CFLAGS) -c -o $@ $<
libraries:
	@echo "weir's libraries are not installed: tests/setup.sh build" >&2; exit 1
objects: $(OBJ)
	@:

unit: $(UNIT:%=run-%)
$(UNIT:%=run-%): run-%: %
	@$(RUN) $<
replay: $(FUZZ:%=replay-%)
$(FUZZ:%=replay-%): replay-%: $B/replay_%
	@$(RUN) $< tests/fuzz/corpus/$*/*
sanitized:
	+@$(MORE) unit replay SAN=address,undefined
threads:
	+@$(MORE) unit SAN=thread ONLY="$$(grep -l pthread_ tests/test_*.c | xargs)"
lint:
	+@$(MORE) objects SAN=
	@tests/lint.sh build/plain
integration: $B/$(NAME)
	@tests/integration/run.sh $B/$(NAME) $(ARGS)

regress: $B/$(NAME)
	@tests/regress.sh $B/$(NAME) $(ARGS)
redis-suite: $B/$(NAME)
	@tests/redis_suite.sh $B/$(NAME) $(ARGS)

# Two steps, because what setup installs is looked for when a Makefile is read.
# -O: what one test says stays together.  -k: a failed one leaves the others their say.
# Servers that wait for each other leave a third of the machine to compilers.
demo test bench bench-redis bench-crdt fuzz soak:
	@tests/setup.sh build $(patsubst soak,test,$(patsubst bench-%,bench,$@))
	@$(MAKE) --no-print-directory $@-now
test-now:
	+@$(MORE)
	+@$(MORE) -k -O integration lint sanitized threads
demo-now:
	+@$(MORE) $B/$(NAME)
	@KEEP=$(KEEP) bench/demo.sh $B/$(NAME)
bench-now:
	+@$(MORE) $B/$(NAME)
	@bench/run.sh $B/$(NAME) $(ARGS)
bench-redis-now:
	+@$(MORE) $B/$(NAME) $B/bench/bench_redis $B/bench/bench_floor
	@BENCH_REDIS=$B/bench bench/redis.sh $B/$(NAME) $(ARGS)
bench-crdt-now:
	+@$(MORE) $B/$(NAME) $B/bench/bench_crdt $B/bench/slow_fsync.so
	@BENCH_CRDT=$B/bench bench/crdt.sh $B/$(NAME) $(ARGS)
fuzz-now:
	@[ -f "tests/fuzz/fuzz_$T.c" ] || { echo "make fuzz T=one of: $(FUZZ)"; exit 1; }
	@mkdir -p build/fuzz/found/$T
	clang $(filter-out -Werror -MMD -MP,$(FLAGS)) -O1 -g \
	    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o build/fuzz/$T \
	    tests/fuzz/fuzz_$T.c $(filter-out proxy/main.c,$(SRC)) $(LIBS)
	build/fuzz/$T -max_total_time=$(or $(SECONDS),60) -artifact_prefix=build/fuzz/$T- \
	    build/fuzz/found/$T tests/fuzz/corpus/$T
soak-now:
	+@$(MORE) $B/$(NAME)
	@WEIR_LEAK=$(or $(SECONDS),3600) WEIR_STORM=$(or $(STORM),600) \
	    LIMIT=$$(($(or $(SECONDS),3600) + 2 * $(or $(STORM),600) + 3600)) \
	    tests/integration/run.sh $B/$(NAME) -n0 -s -k "test_leak or test_redis_storm" $(ARGS)
	@WEIR_SOAK=$(or $(CHAOS),300) WEIR_CHAOS=$(or $(CHAOS),300) LIMIT=$$((20 * $(or $(CHAOS),300) + 3600)) \
	    tests/integration/run.sh $B/$(NAME) -n0 -s -k "test_chaos or test_redis_random" $(ARGS)
clean:
	rm -rf build

.PHONY: all libraries objects unit replay sanitized threads lint integration regress redis-suite \
        clean $(UNIT:%=run-%) $(FUZZ:%=replay-%) \
        $(foreach t,demo test bench bench-redis bench-crdt fuzz soak,$t $t-now)
.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
