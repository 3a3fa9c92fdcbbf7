# Every target sets itself up: the virtual environment is made once and again only when what it is made from changed.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The tested versions; `make ... CONSTRAINTS=` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PINS := $(addprefix -c ,$(CONSTRAINTS))
# uv does not read pip's find-links; hand a local wheel folder on to it.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Packages are installed uncompiled; let the first import keep its bytecode, or every process compiles them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint format bench docs wheel clean
help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; again only when pyproject.toml or constraints.txt changes)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python $(PINS) -e ".[dev]"; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PINS) -e ".[dev]"; \
	fi
	@touch $@

setup: $(STAMP)  ## make the virtual environment

demo: $(STAMP)  ## train a small ResNet with BNDL on handwritten digits (about a minute) and look at what it knows
	$(BIN)/python scripts/demo.py --output_dir outputs/demo

test: $(STAMP)  ## run the test suite (offline, about five minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## compare decision layers on frozen features of the digits (FEATURES=FILE for your own)
	$(BIN)/python scripts/benchmarks/heads.py heads $(if $(FEATURES),--features $(FEATURES),--epochs 200) --output outputs/bench/heads.json

docs: $(STAMP)  ## build the documentation site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel:  ## build the wheel in dist/, install it into an empty environment and use it there
	rm -rf dist build/empty
	@if command -v uv >/dev/null 2>&1; then \
		uv build --quiet --wheel --out-dir dist && \
		uv venv --quiet --python $(PYTHON) build/empty && \
		uv pip install --quiet --python build/empty/bin/python $(PINS) dist/*.whl; \
	else \
		$(PYTHON) -m venv build/empty && \
		build/empty/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist . && \
		build/empty/bin/python -m pip install --quiet --no-compile $(PINS) dist/*.whl; \
	fi
	cd build && empty/bin/python -I ../tests/use_installed.py

clean:  ## remove the virtual environment and everything produced
	rm -rf $(VENV) build dist outputs site .pytest_cache .ruff_cache .mypy_cache
