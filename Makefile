# Set-up and the usual jobs. Every target makes what it needs; `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt
DATA = ../shared/data
ifneq ($(wildcard $(DATA)),)
export DSOPS_TEST_DATA ?= $(abspath $(DATA))
endif

.PHONY: demo test test-fast lint bench docs clean

demo: $(VENV)/.core
	rm -rf demo
	$(BIN)/dsops demo demo

test: $(VENV)/.test
	$(BIN)/pytest --numprocesses auto

test-fast: $(VENV)/.test
	$(BIN)/pytest --numprocesses auto -m "not server"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	rm -rf build/lint
	$(BIN)/python -m pip install --quiet --no-deps --target build/lint .
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p datasetops
	cd build/lint && $(abspath $(BIN))/lint-imports --config ../../.importlinter

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.core
	$(BIN)/python docs/make_cli.py

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) --editable '.[transformers,test]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) --editable '.[transformers,test,lint]'
	touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) --editable '.[transformers,bench]'
	touch $@

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
