# Each target makes its own virtual environment when there is none, and installs what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: serve test conformance bench docs clean

serve: $(VENV)/.ready-all certs/localhost.pem
	$(BIN)/kyoukai run examples/side_by_side/config.yaml

test: $(VENV)/.ready-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

# Needs Go, once, for h2spec; Chromium; and Python 2.7 for Autobahn's test suite, which is left out
# where there is none.
conformance: $(VENV)/.ready-all
	$(BIN)/python conformance/run.py

bench: $(VENV)/.ready-bench
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.ready-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build conformance/bin dist docs/_build .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The main example's certificate; whoever has one keeps it.
certs/localhost.pem: | $(VENV)/.ready-all
	$(BIN)/kyoukai cert certs

# One stamp for each extra, older than the packaging files when it must be installed again.
$(VENV)/.ready-%: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@
