VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test quality docs bench bench-count results model-cards hub-faults soak compatibility

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

setup: $(VENV)/.installed ## Make .venv with the tested versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cr-hf needs Python 3.11 or newer: make setup PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline,report,images,test,dev]"
	@touch $@

demo: setup ## Train on embedded data with a real encoder, offline; print metrics and a prediction
	@$(BIN)/cr-hf train recipes/demo.yaml output_dir=runs/demo --overwrite
	@$(BIN)/cr-hf predict runs/demo "A gorgeous, witty film ."

test: setup ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

docs: setup ## Build the documentation site in build/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

quality: setup ## Check style, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Where the data sets are; without it, take `data.dir=...` away and they come from the Hub.
DATA ?= ../shared/data
# Where the cards of the publishable folders say that the model is.
NAMESPACE ?= your-name
runs/sst5_frozen/results.json: | setup
	rm -f $(@D)/study.json
	$(BIN)/cr-hf train recipes/sst5_frozen.yaml data.dir=$(DATA)/sst5 backbone=offline output_dir=$(@D) --overwrite
	cp experiments/results/sst5_study.json $(@D)/study.json
runs/yelp_minilm/results.json: | setup
	$(BIN)/cr-hf train recipes/yelp_minilm.yaml data.dir=$(DATA)/yelp5 backbone=offline output_dir=$(@D) --overwrite \
	  'data.label_names=[1 star, 2 stars, 3 stars, 4 stars, 5 stars]'

# No licence is given for weights learned from Yelp's reviews, which are for academic use.
published/%: runs/%/results.json
	$(BIN)/cr-hf publish runs/$* $(NAMESPACE)/$* --dry-run --head-only $(if $(filter sst5%,$*),--license apache-2.0) --folder runs/published/$*
	$(BIN)/python -m experiments.model_cards runs/published/$* --namespace $(NAMESPACE)

model-cards: published/sst5_frozen published/yelp_minilm ## Train, write publishable folders to runs/published, render the cards

hub-faults: setup ## Try every fault of publishing, and write experiments/results/hub_faults.json
	$(BIN)/python tests/support/hub_faults.py experiments/results/hub_faults.json

compatibility: setup ## Write the tables of docs/compatibility.md from the lines that tests/test_compatibility.py tries
	PYTHONPATH=tests:tests/support:. $(BIN)/python tests/test_compatibility.py

results: setup ## Write RESULTS.md, the tables of README.md and docs/ and the pictures from the committed results
	$(BIN)/python -m experiments.make_results
	$(BIN)/python -m experiments.stability

soak: setup ## Try to break it for an hour, and write experiments/results/soak.json
	OMP_NUM_THREADS=1 ONEDNN_PRIMITIVE_CACHE_CAPACITY=16 PYTHONPATH=tests $(BIN)/python tests/support/soak.py

bench: setup ## Install the peers, measure, and write benchmarks/results
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-count: setup ## Count instructions of tiny workloads with valgrind, and fail where one grew by more than 10 %
	$(BIN)/python benchmarks/count_instructions.py
