# Every target creates the environment in .venv first, if it is not there.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
STUDY ?= studies/laptop.yaml
OUT ?= runs/$(notdir $(basename $(STUDY)))

.PHONY: help setup study smoke test slow lint types check bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

setup: $(READY)  ## create the environment in .venv

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "palimpsest needs Python 3.11 or newer; give one as PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

study: $(READY)  ## run STUDY (studies/laptop.yaml) into OUT and print the path of its report
	$(BIN)/palimpsest study run $(STUDY) --out $(OUT)

smoke: $(READY)  ## the whole study in miniature, in under 90 seconds
	$(BIN)/palimpsest study run studies/smoke.yaml --out runs/smoke

test: $(READY)  ## laws, units, parity and the smoke study
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow and not gpu'

slow: $(READY)  ## tests that take minutes: 100 interruptions, a needle at 1M tokens
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not gpu'

lint: $(READY)  ## format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)  ## types of src
	$(BIN)/pyright

check: lint types test  ## everything that a change must pass

bench: $(READY)  ## speed of the parallel form against the definition
	$(BIN)/palimpsest bench

clean:  ## remove the environment and caches, not the runs
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build src/*.egg-info
