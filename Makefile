# Two commands for a newcomer: `make chat` and `make test`. Each sets up everything it needs in
# its own .venv; nothing global is touched.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: chat test lint readme transcripts clean setup setup-test

chat: setup
	@$(BIN)/rwkvedit chat $(ARGS)

test: setup-test
	$(BIN)/python -m pytest $(ARGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/pyright

transcripts: setup-test
	$(BIN)/rwkvedit replay transcripts/*.txt

setup: $(VENV)/.chat
setup-test: $(VENV)/.test
.PHONY: setup-dev
setup-dev: $(VENV)/.dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "rwkvedit needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.chat: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,study,transformers]'
	@touch $@ $(VENV)/.chat

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,study,transformers]'
	@touch $@ $(VENV)/.chat $(VENV)/.test

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

readme: setup
	$(BIN)/python tests/readme.py
