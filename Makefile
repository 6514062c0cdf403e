# Two commands set everything up: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-all test tables report bench clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/python launch/sweep.py --table 2 --profile demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --ignore tests/slurm -n auto --maxprocesses 4
	$(BIN)/python -m pytest tests/slurm

# Everything in the demo profile; Table 4's ViT-L and ViT-H are the demo ViT, Table 5's the demo Swin.
demo-all: .venv/installed
	for table in 2 3 4 5 6 fig2; do \
	  $(BIN)/python launch/sweep.py --table $$table --profile demo $(SWEEP) || exit; done
	$(BIN)/python -m paper_tables.build --profile demo
	$(BIN)/python -m paper_tables.report --profile demo

tables: .venv/installed
	$(BIN)/python -m paper_tables.build

report: .venv/installed
	$(BIN)/python -m paper_tables.report

bench: .venv/installed
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m launch.bench
	$(BIN)/python -m paper_tables.bench

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf .venv data results/demo paper_tables/out
