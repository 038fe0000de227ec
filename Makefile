PYTHON ?= python3
VENV := .venv
# Tests that run at once.
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: .venv pretrain test test-full lint clean

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
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-full: .venv
	$(BIN)/python -m pytest -m "full or not full" --timeout 1800 $(ARGS)

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
