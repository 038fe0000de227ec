PYTHON ?= python3
VENV := .venv
# Tests that run at once: one more than two cores, since many wait for processes.
WORKERS ?= 3
BIN := $(VENV)/bin
# What some tests want of the system; they are skipped without it.
BROWSER := sh tests/install.sh "the report in a browser" chromium -- chromium fonts-liberation
SLURM := sh tests/install.sh "Slurm" munged slurmctld slurmd srun -- slurm-wlm munge

.PHONY: .venv pretrain test test-full test-slurm bench bench-tools lint clean

# The stamp comes last: a half-installed environment is not taken for whole.
.venv: $(VENV)/installed

$(VENV)/installed: constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# ARGS: further arguments, for instance ARGS="--recipe launch/recipes/nai.yaml"
pretrain: .venv
	$(BIN)/deepspeed launch/pretrain.py --ds_config ds_configs/zero3.json $(ARGS)

test: .venv
	$(BROWSER)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# All that there is, Slurm's tests too.
test-full: .venv
	$(BROWSER)
	$(SLURM)
	$(BIN)/python -m pytest -m "full or not full" --timeout 1800 $(ARGS)

# On a Slurm of the tests' own; without one, and where none may be installed, they are skipped.
test-slurm: .venv
	$(SLURM)
	$(BIN)/python -m pytest tests/slurm -m "slurm and not full" -n $(WORKERS) --dist worksteal $(ARGS)

# Ratios of one run, into bench/; say nothing on a busy machine. ARGS: for instance ARGS="--parts growth paper"
# TEXT: a file or a glob of text to prepare, for instance TEXT='/data/books/*.jsonl'; made-up text without it
bench: .venv
	$(BIN)/python -m tests.benchmarks --out bench $(if $(TEXT),--text '$(TEXT)') $(ARGS)

# What the benchmarks compare with and the project does not use, in an environment of its own.
bench-tools:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --constraint constraints.txt torch
	.venv-bench/bin/pip install --quiet --requirement tests/benchmarks/theirs/requirements.txt

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .venv-bench bench build *.egg-info .pytest_cache .ruff_cache
