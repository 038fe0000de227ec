PYTHON ?= python3
VENV := .venv
# Tests that run at once: one more than two cores, since many wait for processes.
WORKERS ?= 3
BIN := $(VENV)/bin
# What some tests need of the system; they are skipped without it.
INSTALL := PYTHON=$(PYTHON) sh tests/install.sh
# Extensions of DeepSpeed's whose tests are skipped unless they are compiled.
EXTENSIONS := from deepspeed.ops.op_builder import *; [builder().load() for builder in (AsyncIOBuilder, CPUAdamBuilder)]

.PHONY: .venv pretrain check test test-full test-slurm test-lowest gpu bench bench-tools lint docs clean before-test before-test-full \
	before-test-slurm

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

# What a developer runs at every change: a case or two of each test, and nothing that starts several processes.
check: lint
	PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest --few-cases -n $(WORKERS) --dist worksteal $(ARGS)

before-test:
	@echo "make test: some 18 minutes on two cores, and the first time some 3 minutes before to install .venv (2 GB)."
	@echo "As root it installs Debian's chromium, fonts-liberation, g++, libaio-dev and python3-dev where they are missing;"
	@echo "where it may not or cannot, the tests that need them are skipped."

test: before-test .venv
	@$(INSTALL) browser compiler
	PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

before-test-full:
	@echo "make test-full: some hours on two cores; installs what make test and make test-slurm do, and compiles two extensions."

# All that there is, Slurm's tests too.
test-full: before-test-full .venv
	@$(INSTALL) browser compiler slurm
	-PATH="$(abspath $(BIN)):$$PATH" python -c "$(EXTENSIONS)"
	PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest -m "full or not full" --timeout 1800 $(ARGS)

before-test-slurm:
	@echo "make test-slurm: about 5 minutes on two cores; as root it installs Debian's slurm-wlm and munge where they are missing;"
	@echo "where it may not or cannot, all its tests are skipped."

# On a Slurm of the tests' own; without one, and where none may be installed, they are skipped.
test-slurm: before-test-slurm .venv
	@$(INSTALL) slurm
	PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest tests/slurm -m "slurm and not full" -n $(WORKERS) --dist worksteal $(ARGS)

# The lowest releases that pyproject.toml allows, in an environment of their own (7 GB with CUDA's libraries).
LOWEST_TESTS ?= tests/pipeline tests/data_prep tests/distributed/test_rotary.py tests/distributed/test_running.py \
	tests/end_to_end/test_gpu.py
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv setuptools wheel
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --output-file .venv-lowest/lowest.txt pyproject.toml
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/lowest.txt torch
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/lowest.txt --editable ".[monitors,mpi]" \
		datasketch pytest pytest-timeout pytest-xdist regex
	REHEARSE_GPU=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal $(LOWEST_TESTS) $(ARGS)

# Whether this machine's GPUs are well, and how fast: SECONDS in all, on the terminal and into bench/on_a_gpu.md
SECONDS ?= 900
gpu: .venv
	@$(BIN)/python -m tests.benchmarks.on_a_gpu --seconds $(SECONDS) $(ARGS)

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
	$(BIN)/lint-imports
	$(BIN)/mypy

# The documentation, into site/; a broken link or a page that is nowhere listed is an error.
docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .venv-bench .venv-lowest bench build site *.egg-info .pytest_cache .ruff_cache
