# fliplet_ratelimit: exact API rate limits, enforced inside the database

EXTENSION = fliplet_ratelimit fliplet_ratelimit_router
MODULE_big = fliplet_ratelimit
DATA = src/fliplet_ratelimit--1.0.sql src/fliplet_ratelimit_router--1.0.sql
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION = $(sort $(patsubst test/isolation/specs/%.spec,%,$(wildcard test/isolation/specs/*.spec)))
REGRESS_OPTS = --encoding=UTF8 --no-locale --load-extension=fliplet_ratelimit
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=fliplet_ratelimit
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

PG_CONFIG ?= pg_config

# The server's headers are not ours to warn about.
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server)
PG_CFLAGS = -Wall -Wextra

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

# Formatting is checked, not argued.
PG_BSD_INDENT ?= pg_bsd_indent
INDENT_FILES = $(wildcard src/*.c src/*.h)

.PHONY: format check-format
format check-format:
	scripts/indent $@ $(INDENT_FILES)

# What is distributed: the committed files, as a zip for PGXN and as a tarball.
# PGXN wants versions of three numbers.
DISTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1.0.0/p" fliplet_ratelimit.control | cut -d . -f 1-3)
DISTNAME = fliplet_ratelimit-$(DISTVERSION)

.PHONY: dist
dist:
	git archive --prefix=$(DISTNAME)/ --output=$(DISTNAME).zip HEAD
	git archive --prefix=$(DISTNAME)/ --output=$(DISTNAME).tar.gz HEAD
