# The whole interface for people: `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all lint bench chaos package lock

# Hundreds of processes start in the tests: without cached byte code each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION = $(shell sed -n 's/^ARG UV_VERSION=//p' infra/Dockerfile)
READY := $(VENV)/.ready
# Three processes: tests also wait. tests/conftest.py gives all tests with a Ray to one of them.
PYTEST := $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY) ## Make .venv with everything that development, tests and the demo need

# Everything comes from the lock; the project itself is an editable install without dependencies.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "viewfinder needs Python 3.11 or newer; '$(PYTHON)' is older. Name another: make PYTHON=python3.12"; exit 2; }
	@echo "Making $(VENV) (about 6 GB, most of it PyTorch) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --requirement requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --build-constraints requirements.lock --editable .
	@$(BIN)/python -m compileall -q viewfinder jobs serve demo
	@$(BIN)/viewfinder models prepare demo || echo "The demo will run on torch."
	@touch $@

demo: setup ## Index the sample images and serve them (ONCE=1 stops after three queries)
	@$(BIN)/viewfinder models prepare demo > /dev/null || echo "The demo will run on torch."
	@$(BIN)/python demo/run.py $(if $(ONCE),--once)

test: setup lint ## What CI runs: lint, then all tests except the long ones (about 12 minutes on two cores)
	@$(PYTEST)

test-fast: setup ## Tests without Ray, browser, faults or model loading (less than a minute)
	@$(PYTEST) -m "not slow and not cluster and not browser and not chaos and not full"

test-all: setup lint ## Every test, before a release (about an hour)
	@$(PYTEST) -m ""

lint: setup ## ruff, ruff format, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## Benchmarks against the usual alternatives (GPU=1: those that need a GPU); writes benchmarks/out/results.json
	@$(BIN)/python -m benchmarks $(if $(GPU),gpu_pipeline gpu_images_per_s pipeline_efficiency_gpu)

chaos: setup ## Inject faults into S3, Qdrant, Ray and the service; print what each cost
	@$(BIN)/pytest -m chaos

package: setup ## Build the wheel and the source archive into dist/ and check them
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation
	@$(BIN)/twine check --strict dist/*

lock: ## Resolve requirements.lock again
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes \
	  --extra all --extra dev pyproject.toml --output-file requirements.lock
