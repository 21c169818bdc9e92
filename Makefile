# streamsink: builds with PGXS.  "make help" lists the targets.
#
# check, demo and setup work before anything is installed: they call scripts
# that install what is missing and come back here.  So PGXS is read only when a
# target needs it.

EXTENSION = streamsink
MODULE_big = streamsink
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA = $(sort sql/streamsink--$(EXTVERSION).sql $(wildcard sql/streamsink--*.sql))
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" streamsink.control)
PGFILEDESC = "streamsink - reads Redis streams into tables"

# One test a line; test/layers checks that every file of test/sql and
# test/specs is listed here and has its expected output.
REGRESS = \
	install \
	entry_id \
	define \
	mapping \
	conflict \
	errors \
	transform \
	refuse \
	dead_letters \
	dead_letter_limits \
	auto_target \
	outbox \
	privileges \
	hygiene
ISOLATION = \
	create_same_name \
	stop_start \
	retry_dead_letters \
	alter_apply

# Those that call functions which only a test build has.
REGRESS_TEST_BUILD = \
	ledger \
	bulk \
	guess \
	overrun \
	shortcut \
	trouble
ifeq ($(STREAMSINK_TEST),1)
REGRESS += $(REGRESS_TEST_BUILD)
endif

# pg_regress looks for ./sql before test/sql: no test may be called streamsink.
REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test --outputdir=.

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config

# ---------------------------------------------------------------------------
# Targets that scripts carry out
# ---------------------------------------------------------------------------

HOUSE = help setup check check-regress check-isolation check-tap check-layers \
	check-format check-debian13 format demo bench soak mutants torture
HOUSE_GOALS := $(filter $(HOUSE),$(MAKECMDGOALS))

ifneq ($(HOUSE_GOALS),)

.PHONY: $(MAKECMDGOALS)

help:
	@echo 'make                  build'
	@echo 'make install          install into the PostgreSQL of $$PG_CONFIG'
	@echo 'make installcheck     SQL tests against a running server'
	@echo 'make demo             see it work, with servers of its own'
	@echo 'make check            everything, with servers of its own'
	@echo 'make check-regress    the SQL tests only'
	@echo 'make check-isolation  the concurrency tests only'
	@echo 'make check-tap        the tests with real Redis servers; TESTS="test/t/..." picks some'
	@echo 'make check-layers     rules about the source'
	@echo 'make check-format     the formatter agrees'
	@echo 'make check-debian13   the examples with TimescaleDB, in a Debian 13 of its own (root, 4 minutes)'
	@echo 'make format           run the formatter'
	@echo 'make bench            measure it beside COPY and other workers; QUICK=1 in two minutes'
	@echo 'make mutants          wrong changes to the protocol: a test must fail for each; MUTANTS="name ..." picks some'
	@echo 'make soak             100,000 failing batches: memory and log stay bounded; SOAK_BATCHES=N for fewer'
	@echo 'make torture          faults of all kinds together, SECONDS=60; SEED=n repeats a schedule, KEEP=1 keeps the folder'
	@echo 'make setup            install what the above need (Debian, Ubuntu)'
	@echo 'variables: PG_CONFIG, WERROR=1, STREAMSINK_TEST=1 (fault points; never in production)'

setup:
	@test/setup.sh
check:
	@test/run all
check-regress check-isolation check-tap check-layers check-format:
	@test/run $(patsubst check-%,%,$@) $(TESTS)
check-debian13:
	@test/debian13 $(TESTS)
format:
	clang-format -i src/*.c src/*.h
demo:
	@examples/sensor-writer/demo
bench:
	@test/bench/run
mutants:
	@test/mutants/run $(MUTANTS)
soak:
	@STREAMSINK_TAP_SECONDS=7200 test/run tap test/soak/errors.pl
torture:
	@TORTURE_SECONDS='$(or $(SECONDS),60)' SEED='$(SEED)' test/torture/run $(ARGS)

# What else stands on the command line, in a make of its own.
OTHER_GOALS := $(filter-out $(HOUSE),$(MAKECMDGOALS))
ifneq ($(OTHER_GOALS),)
$(OTHER_GOALS):
	$(MAKE) $@
endif

# ---------------------------------------------------------------------------
# Building
# ---------------------------------------------------------------------------

else

LIBS = hiredis libcjson
find_missing = for t in $(PG_CONFIG) $(PKG_CONFIG); do command -v $$t >/dev/null || echo $$t; done; \
	for l in $(LIBS); do $(PKG_CONFIG) --exists $$l 2>/dev/null || echo $$l; done
TOOLS_MISSING := $(shell $(find_missing))

ifneq ($(TOOLS_MISSING),)

# A fresh machine: get what is needed (NO_SETUP=1: only say so), then again.
ifeq ($(MAKECMDGOALS),)
.DEFAULT_GOAL := all
endif
.PHONY: all $(MAKECMDGOALS)
all $(MAKECMDGOALS): | tools
	@missing=$$($(find_missing)); \
	if [ -z "$$missing" ]; \
	then $(MAKE) $@; \
	else echo "still not found:" $$missing >&2; exit 1; fi
.PHONY: tools
tools:
	@echo 'not found: $(TOOLS_MISSING) (Debian has libhiredis-dev and libcjson-dev; make setup installs what is missing)'
ifdef NO_SETUP
	@exit 1
else
	@test/setup.sh build
endif

else

LIBS_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(LIBS))
LIBS_LIBS := $(shell $(PKG_CONFIG) --libs $(LIBS))

PG_CPPFLAGS = -Isrc $(LIBS_CFLAGS) -DSTREAMSINK_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -fvisibility=hidden
SHLIB_LINK = -Wl,--as-needed $(LIBS_LIBS)

# Less than -Wextra: what PostgreSQL's own headers and conventions trip over.
WARNINGS = -Wall -Wextra -Wmissing-prototypes -Wpointer-arith -Wvla \
	-Wdeclaration-after-statement -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-cast-function-type
PG_CFLAGS += $(WARNINGS)
ifeq ($(WERROR),1)
PG_CFLAGS += -Werror
endif

# Fault points: a build for tests.
ifeq ($(STREAMSINK_TEST),1)
PG_CPPFLAGS += -DSTREAMSINK_TEST
endif

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS knows no dependencies on headers.
$(OBJS): $(wildcard src/*.h) Makefile

# Compile only, as another compiler sees it.
SYNTAX_CC = clang
.PHONY: syntax $(OBJS:.o=.syntax)
syntax: $(OBJS:.o=.syntax)
$(OBJS:.o=.syntax): %.syntax: %.c
	$(SYNTAX_CC) -std=gnu11 -fsyntax-only -O2 -fno-strict-aliasing -fwrapv -fPIC $(PG_CFLAGS) -Werror \
		-isystem $(INCLUDE_SERVER) $(filter-out -I$(INCLUDE_SERVER),$(CPPFLAGS)) $<
INCLUDE_SERVER = $(shell $(PG_CONFIG) --includedir-server)

# For scripts: the value of a variable.
print-%:
	@echo '$($*)'

endif
endif
