.PHONY: demo test check bench clean
PYTHON ?= python3
BIN := .venv/bin
# numba and OpenMP follow torch: results depend on the number of threads, so it is always said.
export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')

demo: .venv/ready
	$(BIN)/monosem demo

test: .venv/ready lint
	$(BIN)/python -m pytest

check: .venv/ready lint
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/pyrefly check

bench: .venv/ready
	$(BIN)/python bench/step.py
	$(BIN)/python bench/record.py
	$(BIN)/python bench/aux.py
	$(BIN)/python bench/density.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("monosem needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,plots,dev]'
	touch $@

clean:
	rm -rf .venv
