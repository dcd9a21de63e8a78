# One command sets up, one checks, one tests; CI runs exactly these. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet

# Ultralytics wants OpenCV with windows, which does not load on a machine without libGL.
CAN_SEE := $(BIN)/python -c 'import cv2' 2>/dev/null || $(PIP) --force-reinstall --no-deps opencv-python-headless

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.demo ## train a YOLO with the block on embedded data, on the CPU, and report it
	@$(BIN)/coordcbam demo

test: $(VENV)/.dev ## the test-suite, without what takes long
	@$(BIN)/python -m pytest -n 2 -m "not long"

test-all: $(VENV)/.dev ## the whole test-suite, as CI runs it
	@$(BIN)/python -m pytest -n 2

check: $(VENV)/.dev ## formatting, lint, types, architecture and doctests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q -n 2 -p no:randomly --doctest-modules --doctest-ignore-import-errors src tests/test_public_names.py

reliability: $(VENV)/.dev ## the reliability table, figure by figure (ARGS=--json)
	@$(BIN)/python tests/reliability/run.py $(ARGS)

hosts: $(VENV)/.dev ## what holds in the hosts, counted: model files, weights, formats, processes (about 5 minutes)
	@$(BIN)/python tests/hosts/run.py $(ARGS)

test-hosts: $(VENV)/.dev ## the host's tests with older releases of Ultralytics, and a table
	@$(BIN)/python tests/hosts/releases.py $(ARGS)

mutants: $(VENV)/.dev ## plant every listed fault and see whether the tests notice
	@$(BIN)/python tests/mutants/run.py $(ARGS)

stress: $(VENV)/.dev ## attention blocks, rescues and controls in a net without normalisation (about 6 minutes)
	@$(BIN)/python -m evidence.stress $(ARGS)

bench: $(VENV)/.dev ## what the block costs beside other attention blocks (ARGS=--quick)
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(VENV)/.dev ## write the generated documentation: the table of options
	@$(BIN)/python docs/make_options.py

setup: $(VENV)/.dev ## only install

clean: ## remove the environment and every cache
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build

# A stamp per set of packages: nothing is installed twice, and pip's own cache keeps the downloads.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml setup.py | $(VENV)/bin/python
	@echo "installing PyTorch and Ultralytics into $(VENV): about 6 GB, once"
	@$(PIP) -e ".[demo]"
	@$(CAN_SEE)
	@touch $@

$(VENV)/.dev: pyproject.toml setup.py | $(VENV)/bin/python
	@echo "installing the development environment into $(VENV)"
	@$(PIP) -e ".[dev]"
	@$(CAN_SEE)
	@touch $@ $(VENV)/.demo

.PHONY: help demo test test-all check reliability test-hosts hosts mutants stress bench docs setup clean
