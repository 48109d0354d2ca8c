# One virtual environment for everything. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check bench bench-reference clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

# pip before 23.1 would run seqeval's setup.py by itself, which no longer works
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --use-pep517 -c constraints.txt -e '.[dev]'
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

bench: size = small
bench-reference: size = reference
bench: install  ## the same step here and in its peers, and memory against length (minutes)
bench-reference: install  ## the same at the size of mBERT (slow)
bench bench-reference:
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[benchmarks]'
	$(BIN)/python benchmarks/peers.py --size $(size) --out runs/$@/peers.json
	$(BIN)/python benchmarks/memory.py --out runs/$@/memory.json
	$(BIN)/python benchmarks/vocabulary.py --out runs/$@/vocabulary.json
	$(BIN)/python benchmarks/picture.py --peers runs/$@/peers.json --memory runs/$@/memory.json --out runs/$@/picture.png

clean:  ## what was built or run, except the virtual environment
	rm -rf build dist runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
