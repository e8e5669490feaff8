# The commands of this repository; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -o errexit -o nounset -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.trainyard-stamp
OUTPUT ?= runs

.PHONY: help init check generate test demo corpora cluster-binaries constraints clean

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

init: $(STAMP) ## Create .venv with everything that is pinned in constraints.txt (4.7 GB, once).

$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || tools/create_venv $(VENV)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/python -m uv pip install --python $(BIN)/python --constraints constraints.txt --editable '.[operator,trainer,dev]'
	@touch $@

check: init ## Lint, format, types, import borders, and that generated files are up to date.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy tools tests/support
	@MYPYPATH=api:operator:trainer:benchmarks $(BIN)/mypy benchmarks tests/cluster --exclude tests/cluster/test_
	@$(BIN)/lint-imports
	@$(BIN)/python -m trainyard_api.generate --check
	@$(BIN)/python -m tools.chart --check

generate: init ## Write the files that derive from others: CRD, docs, parts of the chart, manifests/install.yaml.
	@$(BIN)/python -m trainyard_api.generate
	@$(BIN)/python -m tools.chart

test: check cluster-binaries ## All checks, then all tests.
	@$(BIN)/pytest --durations=25

demo: init ## Pretrain a small BERT on the State of the Union addresses with 2 processes, and show its report.
	@corpus=$$($(BIN)/python -m tools.fetch_corpora) && \
	$(BIN)/trainyard run manifests/samples/quickstart.yaml --output $(OUTPUT) --mount "$$corpus:/data/sotu" && \
	$(BIN)/trainyard status $(OUTPUT)/quickstart && \
	echo "The report: $$($(BIN)/trainyard report $(OUTPUT)/quickstart)"

corpora: init ## Fetch the corpora of tests and examples into the cache and print their folders.
	@$(BIN)/python -m tools.fetch_corpora sotu spam-assassin brown

cluster-binaries: init ## Build the Kubernetes of the tests into the cache (a quarter of an hour, once).
	@$(BIN)/python -m tests.cluster.build

constraints: init ## Resolve constraints.txt again from pyproject.toml.
	@$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
	    --no-emit-index-url --no-annotate --custom-compile-command 'make constraints' --output-file constraints.txt

clean: ## Remove caches and build outputs; .venv and runs stay.
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find api operator trainer tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
