# make demo   a whole audit, and where its report is      make check   style, types, layers, sizes, README
# make test   the tests, in minutes                       make bench   the figures of benchmarks/
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-done
# A worker a core, each of one thread: more threads than cores make torch many times slower.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
PARALLEL := -n $(WORKERS) --dist loadfile
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-gpu test-all check bench format lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Expected Python 3.11 or newer, got %s. Set PYTHON=python3.11." % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/audit demo

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not ray"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/test_project.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --extra dev --extra onnx --extra hf \
	    --override requirements.overrides pyproject.toml requirements.in --output-file requirements.lock

clean:
	rm -rf .venv audit-runs dist build
