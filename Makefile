# The whole interface for people: `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint bench chaos lock

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY) ## Make .venv with everything that development, tests and the demo need

# Everything comes from the lock; the project itself goes in as an editable install, without its dependencies again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "viewfinder needs Python 3.11 or newer; '$(PYTHON)' is older. Name another: make PYTHON=python3.12"; exit 2; }
	@echo "Making $(VENV) (about 6 GB, most of it PyTorch) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --requirement requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: setup ## Index the sample pictures and serve them (ONCE=1 stops after three queries)
	@$(BIN)/python demo/run.py $(if $(ONCE),--once)

test: setup lint ## What CI does: ruff, mypy, pytest
	@$(BIN)/pytest

test-fast: setup ## The quick tests: no cluster, no browser, no faults
	@$(BIN)/pytest -m "not cluster and not browser and not chaos and not slow and not long"

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup ## Measure against what people would use instead (GPU=1: what needs a GPU); writes benchmarks/out/results.json
	@$(BIN)/python -m benchmarks $(if $(GPU),gpu_pipeline gpu_pictures_per_s pipeline_efficiency_gpu)

chaos: setup ## Inject faults into S3, Qdrant, Ray and the service; tells what each cost
	@$(BIN)/pytest -m chaos

lock: ## Resolve requirements.lock anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	  --extra all --extra dev pyproject.toml --output-file requirements.lock
