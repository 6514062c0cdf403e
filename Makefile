# Two commands set everything up: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := methods benchmarks paper_tables launch

.PHONY: demo demo-all test test-fast test-slurm lint tables report bench clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/python launch/sweep.py --table 2 --profile demo

# Everything that CI runs. The SLURM tests mostly wait for daemons, so they run beside the others.
test: .venv/installed-test lint
	$(BIN)/python -m pytest -n 4 --dist loadfile $(TESTS)

# What a change needs while one works on it: no cluster, no full-size model, no browser.
test-fast: .venv/installed-test lint
	$(BIN)/python -m pytest --ignore tests/slurm -m "not slow" -n 2 --dist loadfile $(TESTS)

test-slurm: .venv/installed-test
	$(BIN)/python -m pytest tests/slurm -n 2 --dist loadfile

lint: .venv/installed-test build/types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p rlrr_bench

# Everything in the demo profile; Table 4's ViT-L and ViT-H are the demo ViT, Table 5's the demo Swin.
demo-all: .venv/installed
	for table in 2 3 4 5 6 fig2; do \
	  $(BIN)/rlrr-bench sweep --table $$table --profile demo $(SWEEP) || exit; done
	$(BIN)/rlrr-bench tables --profile demo
	$(BIN)/rlrr-bench report --profile demo

tables: .venv/installed
	$(BIN)/rlrr-bench tables

report: .venv/installed
	$(BIN)/rlrr-bench report

bench: .venv/installed
	$(BIN)/rlrr-bench bench

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

# The type checker sees the packages where an installation has them.
build/types: Makefile
	mkdir -p build/types/rlrr_bench
	ln -sfn $(CURDIR)/rlrr_bench/*.py $(addprefix $(CURDIR)/,$(PACKAGES)) build/types/rlrr_bench/
	touch $@

clean:
	rm -rf .venv build data results/demo paper_tables/out
