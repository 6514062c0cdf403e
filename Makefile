# Two commands set everything up: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test tables clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/python launch/sweep.py --table 2 --profile demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

tables: .venv/installed
	$(BIN)/python -m paper_tables.build

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf .venv data results/demo paper_tables/out
