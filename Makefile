# Every target creates what it needs in .venv; nothing has to be installed first but Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ROOMS  := engines harness reference_engine reports results workloads

.DEFAULT_GOAL := help
.PHONY: help demo test check dev bench proto clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 10

demo: $(VENV)/.reference  ## set up, run the quickstart workload on the bundled engine, leave an HTML report
	$(BIN)/llmbench run quickstart --allow-invalid

test: dev  ## set up, pass the tests
	$(BIN)/pytest

check: dev  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: dev  ## the benchmarks: pytest-benchmark, ratios measured side by side
	$(BIN)/pytest tests/benchmarks -n 0 --benchmark-enable --benchmark-only

proto: dev  ## the descriptor of the bundled server's .proto, after a change of it
	$(BIN)/python -m grpc_tools.protoc -I reference_engine/server \
	  --descriptor_set_out=reference_engine/server/generation.binpb generation.proto

dev: $(VENV)/.dev .dev/llmbench  ## an editable install with everything a contributor needs

clean:  ## remove what the other targets made
	rm -rf $(VENV) .dev build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llmbench needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.reference: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[reference]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.reference

# mypy and pyright read sources from a folder tree that looks like the imports do.
.dev/llmbench: pyproject.toml
	@mkdir -p $@
	@for room in $(ROOMS); do ln -sfn ../../$$room $@/$$room; done
	@for file in __init__.py __main__.py py.typed; do ln -sfn ../../harness/_llmbench/$$file $@/$$file; done
	@touch $@
