# Two commands: `make demo` runs every stage on a small corpus, `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test pytest soak test-latest lint typecheck install clean help

help:
	@echo "make demo       every stage on a small corpus, ends with runs/demo/report.html"
	@echo "make test       lint, types and tests (under 15 minutes on 2 cores)"
	@echo "make soak       the long tests: every kill point, many rounds, every PyAV"
	@echo "make test-latest  the tests with the newest releases of everything, without constraints"

demo: install
	$(BIN)/vtok demo --out runs/demo

test: lint
	$(MAKE) --no-print-directory -j 2 typecheck pytest

pytest: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" -n 2 --dist loadgroup --no-loadscope-reorder

soak: install
	$(BIN)/python -m pytest -m soak --timeout=3600

# torch stays: the newest one would bring 3 GB of CUDA.
test-latest:
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
		'torch==2.13.0' -e '.[dev]'
	.venv-latest/bin/python -m vtok doctor
	OMP_NUM_THREADS=1 .venv-latest/bin/python -m pytest -m "not soak" -n 2 --dist loadgroup --no-loadscope-reorder

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
	rm -rf $(VENV) .venv-latest runs .mypy_cache .ruff_cache .pytest_cache
