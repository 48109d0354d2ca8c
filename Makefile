# One virtual environment for everything. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed  ## the virtual environment, with the tested versions

quickstart: install  ## distil a real encoder, fine-tune it, and write its page (minutes on 2 cores)
	. $(BIN)/activate && python recipes/quickstart/run.py

test: install  ## the test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

check: install  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## the same step here and in TextBrewer, side by side (minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[benchmarks]'
	mkdir -p runs && $(BIN)/python benchmarks/peers.py --out runs/peers.json

clean:  ## what was built or run, except the virtual environment
	rm -rf build dist runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
