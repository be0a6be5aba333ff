# `make demo` and `make test` need nothing but Python 3.11 or newer: each makes .venv, installs once, and runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# A checkout on PYTHONPATH would hide what is installed.
unexport PYTHONPATH
# Two processes of one thread each are faster than two of two on two cores.
OFFLINE := HF_HUB_OFFLINE=1
ONE_THREAD := OMP_NUM_THREADS=1
WORKERS ?= 2


# glibc would give memory back to the kernel between steps and take it again page by page.
MALLOC := MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000

.PHONY: help app demo bench rivals docs test lint types unit slow browser format clean
.DEFAULT_GOAL := help

help: ## Say what can be made.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/.installed-bench ## Draw the same prompts plain and accelerated: outputs/demo/demo.png, report.json, a table.
	$(OFFLINE) $(ONE_THREAD) $(BIN)/dit-accel demo

app: $(VENV)/.installed-app ## Open the explorer: speed against quality, on the embedded pipelines.
	$(OFFLINE) $(BIN)/dit-accel app

bench: $(VENV)/.installed-bench ## Measure speed on an otherwise idle machine: reports in benchmarks/results/.
	$(OFFLINE) $(MALLOC) $(BIN)/python benchmarks/speed.py
	$(OFFLINE) $(MALLOC) $(BIN)/python benchmarks/speed.py --images 1

rivals: $(VENV)/.installed-bench ## A first look at all rivals on an otherwise idle machine: reports in benchmarks/results/.
	$(OFFLINE) $(MALLOC) $(BIN)/python benchmarks/rivals --quick --steps 20

docs: $(VENV)/.installed-dev ## Write every figure, table and plot of the pages anew from reports and code; measures nothing.
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python benchmarks/rivals page
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python benchmarks/pages

test: lint types unit ## Lint, types and tests.

lint: $(VENV)/.installed-dev ## Style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A type checker can follow neither the mapped folders nor the path shim, so it checks the package as it is installed.
types: $(VENV)/.installed-dev ## Types, of the built package.
	rm -rf build
	$(PIP) --no-deps --no-build-isolation --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p dit_accel

unit: $(VENV)/.installed-dev ## Tests, but for the slowest.
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

slow: $(VENV)/.installed-dev ## The slowest tests: whole processes that are killed, shared out, and gone on with.
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

browser: $(VENV)/.installed-dev ## Tests of the explorer in Chromium, which is installed where that is possible.
	@sh tests/app/install_chromium.sh
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest tests/app

format: $(VENV)/.installed-dev ## Rewrite the code in the common style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built, but not .venv.
	rm -rf build dist outputs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Installed anew only when what is to be installed has changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dit-accel[$*] into $(VENV): several minutes the first time"
	$(PIP) -c constraints.txt -e ".[$*]"
	@touch $@
