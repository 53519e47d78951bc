VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test quality bench

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

setup: $(VENV)/.installed ## Make .venv with the tested versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cr-hf needs Python 3.11 or newer: make setup PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline,test,dev]"
	@touch $@

demo: setup ## Train on embedded data with a real encoder, offline; print metrics and a prediction
	$(BIN)/cr-hf train recipes/demo.yaml output_dir=runs/demo --overwrite
	$(BIN)/cr-hf predict runs/demo "A gorgeous, witty film ."

test: setup ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2

quality: setup ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## Measure, and write benchmarks/results
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done
