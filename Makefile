# The two commands of the README are `make demo` and `make test`; both work on a fresh clone.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
SITE_READY := .venv/.site

.PHONY: help install demo test check bench bench-quick profile interop docs
.DEFAULT_GOAL := help

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## Make .venv with cleft and its tested dependencies

# torch goes first: later packages then find the pinned build instead of asking for another
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[train,dev]'
	touch $@

demo: $(READY) ## Run the whole chain on a generated volume; ends with demo/demo.png
	$(BIN)/cleft demo -o demo

test: $(READY) ## Run the tests
	$(BIN)/pytest -q

check: $(READY) ## Format, lint, types, layers, and whether the docs are current
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_commands.py --check
	$(BIN)/python docs/generate_layers.py --check

bench: $(READY) ## Measure side by side, in half an hour: benchmarks.json, docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks --page docs/benchmarks.md

bench-quick: $(READY) ## The same on smaller volumes, in five minutes; writes no page
	$(BIN)/python -m tests.benchmarks --quick

profile: $(READY) ## Where the time of a prediction and of a training step goes
	$(BIN)/python -m tests.benchmarks "where the time goes"

interop: $(READY) ## Let other libraries read what cleft writes; installs them elsewhere
	$(BIN)/python tests/interop/check.py

docs: $(SITE_READY) ## Write the generated pages and build the site, in site/
	$(BIN)/python docs/generate_commands.py
	$(BIN)/python docs/generate_layers.py
	$(BIN)/sphinx-build -q -E -W --keep-going docs site

$(SITE_READY): $(READY)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@
