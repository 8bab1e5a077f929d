# make              the proxy, build/plain/weir
# make demo         PostgreSQL + Redis + weir in a private folder, driven and shown
# make test         lint + unit + fuzz replay + integration: all a commit must pass
# make unit         cmocka, one binary a module       make integration   pytest
# make replay       fuzz targets over their corpora   make lint          the rules
# make bench        the numbers in README             make fuzz T=conf   libFuzzer
# Any of them with SAN=address,undefined (or thread) builds into its own folder.

NAME   := weir
comma  := ,
B      := build/$(if $(SAN),$(subst $(comma),-,$(SAN)),plain)
PKGS   := libevent openssl libpq hiredis inih

CFLAGS ?= -O2 -g
CFLAGS += -std=c11 -D_GNU_SOURCE -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null) \
          -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
          -Wpointer-arith -Wvla -Wswitch-enum -Wformat=2 -fno-common \
          -fstack-protector-strong -pthread -MMD -MP
LDFLAGS += -pthread
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null)
ifdef SAN
CFLAGS  += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SAN)
endif

SRC  := $(foreach d,protocol conf tls pool proxy,$(wildcard $d/*.c))
OBJ  := $(SRC:%.c=$B/%.o)
CORE := $(filter-out $B/proxy/main.o,$(OBJ))
UNIT := $(patsubst %.c,$B/%,$(wildcard tests/test_*.c))
FUZZ := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

all: $B/$(NAME)
$B/$(NAME): $(OBJ)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$B/tests/test_%: $B/tests/test_%.o $(CORE)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka
$B/replay_%: $B/tests/fuzz/fuzz_%.o $B/tests/fuzz/replay.o $(CORE)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$B/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

unit: $(UNIT)
	@set -e; for t in $^; do $$t; done
replay: $(FUZZ:%=$B/replay_%)
	@set -e; for f in $(FUZZ); do $B/replay_$$f tests/fuzz/corpus/$$f/*; done
clean:
	rm -rf build

.PHONY: all unit replay clean
.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
