# Every target works on a fresh clone by itself: it makes .venv first when that is missing or out of date.
PY ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.stamp

# One thread a process: two processes on two cores with two torch threads each are four times slower,
# and the thread count changes the last bits of every sum.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-browser lab bench notebooks clean
help:
	@echo "make demo          a split model in one minute (the first run installs for some minutes)"
	@echo "make lab           JupyterLab with the demos and the course"
	@echo "make test          style, types, unit tests and every notebook cell"
	@echo "make test-browser  the panels in a real browser"
	@echo "make bench         speed and bytes"
	@echo "make notebooks     execute, strip and verify every notebook"
	@echo "make clean         remove .venv and caches"

# torch goes in alone and first, so that the solver settles the largest wheel once; torchvision is never needed.
# Nothing is byte-compiled ahead: that takes as long as the rest, and Python does it for what is imported.
$(STAMP): pyproject.toml constraints.txt
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[all]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/lsplit demo

test: export HF_HUB_OFFLINE := 1
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-browser: export HF_HUB_OFFLINE := 1
test-browser: $(STAMP)
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -y -q --no-install-recommends chromium; \
	  else echo "chromium is missing: install it (Debian: apt-get install chromium)"; exit 1; fi; fi
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m browser tests/browser

lab: $(STAMP)
	$(BIN)/lsplit lab

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

notebooks: $(STAMP)
	$(BIN)/python scripts/refresh_notebooks.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
