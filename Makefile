.PHONY: demo test check lint bench bench-peers clean
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin
# Where `make bench-peers` writes its table and plot; the kept ones are docs/speed.
SPEED ?= runs/speed
# numba and OpenMP follow torch: results depend on the number of threads, so it is always said.
export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')

demo: .venv/ready
	$(BIN)/monosem demo

# Two workers of one thread each: a test is too small to share among threads.
test: .venv/ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/pyrefly check

bench: .venv/ready
	$(BIN)/python bench/step.py
	$(BIN)/python bench/record.py
	$(BIN)/python bench/aux.py
	$(BIN)/python bench/density.py
	$(BIN)/python bench/end_to_end.py

bench-peers: .venv-peers/ready
	mkdir -p runs
	$(PEERS)/python bench/peers.py --d-model 512 --n-latents 16384 --k 64 --batch 2048 --json > runs/peers-512.json
	$(PEERS)/python bench/peers.py --d-model 2048 --n-latents 32768 --k 64 --batch 1024 --json > runs/peers-2048.json
	$(PEERS)/python bench/table.py runs/peers-512.json runs/peers-2048.json --write $(SPEED)
	cat $(SPEED).md

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("monosem needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,plots,dev]'
	touch $@

# Other libraries disagree about what they need, so their list is installed as it stands.
.venv-peers/ready: pyproject.toml constraints.txt bench/peers/constraints.txt
	$(PYTHON) -m venv --clear .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,plots]'
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement bench/peers/constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-peers
