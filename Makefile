# Two commands do everything: `make demo` and `make test`. Both prepare .venv on first use and work offline afterwards.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --durations=15

.PHONY: help venv demo test coverage slow soak check bench lock clean

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

venv: $(STAMP)  ## Prepare .venv with the fttune command and the development tools

demo: $(STAMP)  ## Search on real handwritten digits, then compare the winner with training from scratch
	$(BIN)/fttune search studies/digits.yaml
	$(BIN)/python benchmarks/transfer_vs_scratch.py
	@echo "Compare the trials in MLflow: $(BIN)/fttune ui"

# One thread of torch's per process: the processes use the cores.
test: export OMP_NUM_THREADS = 1
test: $(STAMP)  ## Run the tests
	$(PYTEST) -n auto --maxprocesses=8 --dist=worksteal -m "not slow and not gpu" $(MORE)

coverage:  ## Run the tests and show which lines they leave out; that takes a third longer
	$(MAKE) test MORE="--cov --cov-report=term --cov-fail-under=90"

slow: $(STAMP)  ## Run the slow tests
	$(PYTEST) -m slow

soak: export OMP_NUM_THREADS = 1
soak: $(STAMP)  ## Kill studies until 1,000 kills are on record in .soak/ (Ctrl-C stops, the same command goes on)
	$(BIN)/python -m tests.faults.soak
	$(PYTEST) -m slow tests/faults

check: $(STAMP)  ## Format, lint, types, import floors, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: $(STAMP)  ## Run the benchmarks
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python -m benchmarks.study_vs_plain --trials 6 --epochs 2 --images 120
	$(BIN)/python -m benchmarks.time_to_best --tasks digits --seeds 2
	$(BIN)/python -m benchmarks.gpu

lock: $(STAMP)  ## Resolve requirements.lock anew
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--custom-compile-command "make lock" --upgrade pyproject.toml -o requirements.lock
	echo pip-audit | VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --upgrade - -o .ci/audit.lock

clean:  ## Remove .venv and the generated folder
	rm -rf $(VENV) mlruns
