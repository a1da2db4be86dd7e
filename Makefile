# Two commands: `make demo` runs every stage on a small corpus, `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test pytest soak lint typecheck install clean help

help:
	@echo "make demo       every stage on a small corpus, ends with runs/demo/report.html"
	@echo "make test       lint, types and tests (under 15 minutes on 2 cores)"
	@echo "make soak       the long tests: every kill point, many rounds"

demo: install
	$(BIN)/vtok demo --out runs/demo

test: lint
	$(MAKE) --no-print-directory -j 2 typecheck pytest

pytest: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" -n 2 --dist loadgroup --no-loadscope-reorder

soak: install
	$(BIN)/python -m pytest -m soak --timeout=3600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install
	$(BIN)/mypy

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
