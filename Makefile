PORT ?= 8000
# The first Python that is neither too old nor too new; where there is none, install.py says so.
ifndef PYTHON
PYTHON := $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done),python3)
endif
BIN := .venv/bin
LOCK := --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe

.PHONY: help run install test test-slow bench lint lock screenshots

help:  ## Show this list
	@sed -nE 's/^([a-z-]+):.*## /\1	/p' Makefile | expand -t 14

run: install  ## Start the site, its worker and its broker (PORT=8000)
	@$(BIN)/python -m fer_site.start --port $(PORT)

install:  ## Install the locked requirements into .venv
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11, 3.12 or 3.13 is needed, and there is no $(PYTHON)."; exit 1; }
	@$(PYTHON) install.py

test: lint  ## Check style and types, then run every quick test, several at once
	@# One thread each: torch would else start as many as there are cores, in every one of them.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile

test-slow:  ## Run the tests that take minutes, and write docs/reliability.md
	@$(PYTHON) install.py --dev
	@$(BIN)/pytest -q -m slow --docs

bench: install  ## Measure speed beside references (BENCH_JSON=FILE writes the figures)
	@$(BIN)/python -m fer_site.bench

screenshots:  ## Make the pictures of the docs anew, from the real site
	@$(PYTHON) install.py --dev
	@$(BIN)/python -m fer_site.screenshots

lint:  ## Check style, types and the direction of dependencies
	@$(PYTHON) install.py --dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lock:  ## Write requirements*.txt anew from requirements*.in
	@$(PYTHON) install.py --dev
	$(BIN)/pip-compile $(LOCK) requirements.in
	# Torch asks for these on Linux alone, and pip-compile drops the condition.
	sed -i -E 's/^((cuda|nvidia|triton)[a-z0-9-]*==[^ ]+) \\$$/\1 ; sys_platform == "linux" \\/' requirements.txt
	$(BIN)/pip-compile $(LOCK) requirements-dev.in
