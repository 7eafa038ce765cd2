# Everything a developer needs; `make help` lists it. A bare Debian with Python 3.11 or newer, git
# and make is enough: two virtual environments are made on first use and kept until what they are
# made from changes.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SERVER_VENV := .cache/bugsink-venv

# A stamp names its Python, so that `make test PYTHON=python3.12` is not served by 3.11's.
READY := $(VENV)/.ready-$(notdir $(PYTHON))
PEERS_READY := $(VENV)/.peers-$(notdir $(PYTHON))
SERVER_READY := $(SERVER_VENV)/.ready-$(notdir $(PYTHON))
PIP_INSTALL := -m pip --quiet --disable-pip-version-check --no-input install

.DELETE_ON_ERROR:
.PHONY: help demo test check lint types bench faults clean

help:  ## List the targets
	@echo "make TARGET [PYTHON=python3.12] [ARGS='more for pytest']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) $(SERVER_READY)  ## Capture while a real server is down, kill -9, list, flush, compare
	@$(BIN)/python -m examples.demo

test: $(READY) $(SERVER_READY)  ## All tests but the long fault tests
	@RAVEN_SPOOL_BUGSINK_VENV=$(CURDIR)/$(SERVER_VENV) $(BIN)/pytest -q -n 5 --dist loadgroup --no-loadscope-reorder -m 'not soak' $(ARGS)

check: lint types test  ## What CI runs

lint: $(READY)  ## Style and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check --diff

types: $(READY)  ## The type checker, strict
	@$(BIN)/mypy

bench: $(PEERS_READY)  ## Each benchmark, one after another
	@for program in bench/[a-z]*.py; do echo "$$program"; $(BIN)/python "$$program" || exit 1; done

# Only a whole run without a failure is published: one with ARGS is for looking.
faults: $(READY) $(SERVER_READY)  ## The long fault tests; fills docs/reliability.md
	@rm -f .cache/evidence.jsonl
	@RAVEN_SPOOL_BUGSINK_VENV=$(CURDIR)/$(SERVER_VENV) RAVEN_SPOOL_EVIDENCE=$(CURDIR)/.cache/evidence.jsonl \
		$(BIN)/pytest -q -n 2 --dist loadgroup --no-loadscope-reorder -m 'soak or evidence' --junitxml=.cache/faults.xml $(ARGS)
	@$(if $(ARGS),,$(BIN)/python bench/_page.py --evidence .cache/evidence.jsonl --tests .cache/faults.xml)

clean:  ## Remove all that was made here, the virtual environments too
	@rm -rf $(VENV) .cache build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml tools/make-venv
	@echo "installing raven_spool and its development tools into $(VENV)"
	@PYTHON='$(PYTHON)' tools/make-venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(PEERS_READY): $(READY)
	@echo "installing what bench/reliability.py compares with"
	@$(BIN)/python $(PIP_INSTALL) --editable '.[peers]'
	@touch $@

# After the first one: what Debian lacks for both is then there already, also under `make -j`.
$(SERVER_READY): tools/bugsink-requirements.txt tools/make-venv | $(READY)
	@echo "installing a Bugsink server for the tests into $(SERVER_VENV)"
	@PYTHON='$(PYTHON)' tools/make-venv $(SERVER_VENV)
	@$(SERVER_VENV)/bin/python $(PIP_INSTALL) --requirement tools/bugsink-requirements.txt
	@touch $@
