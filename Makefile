# worldloop: two commands on a bare machine (git, make, Python 3.11, pip): `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
export WORLDLOOP_HOME ?= $(CURDIR)/.worldloop
export DAGSTER_HOME ?= $(WORLDLOOP_HOME)/dagster

.PHONY: run dev test campaigns check bench golden marts-sql snapshots docs doctor clean help

run: $(READY) ## a small data set, from the atlas to a release (5 places x 3 clips)
	$(BIN)/worldloop run

dev: $(READY) ## the Dagster UI on http://127.0.0.1:3000, with daemon and sensors
	$(BIN)/worldloop dev

# Two workers on two cores: threads of torch only get in their way.
test: export OMP_NUM_THREADS := 1
test: $(READY_DEV) ## the tests
	$(BIN)/python -m pytest -m "not gpu and not cloud and not campaign" -n 2

campaigns: export OMP_NUM_THREADS := 1
campaigns: $(READY_DEV) ## whole rounds of real trainers, killed and poisoned; about half an hour
	$(BIN)/python -m pytest -m campaign

check: $(READY_DEV) ## format, lint, import contracts, types, dbt, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	cd dbt && ../$(BIN)/dbt parse --profiles-dir . --quiet
	$(BIN)/worldloop init
	$(BIN)/dagster definitions validate -w workspace.yaml

bench: $(READY_DEV) ## CPU seconds and ratios of the main paths
	$(BIN)/python -m orchestration.bench

golden: $(READY_DEV) ## write tests/golden again; review the diff
	$(BIN)/python -m tests.golden.formats.v4.make_golden
	$(BIN)/python -m tests.golden.formats.v5.make_golden
	$(BIN)/python -m tests.golden.make_snapshots
	$(BIN)/python -m tests.golden.make_scenes

marts-sql: $(READY) ## the SQL of the marts for BigQuery, Athena and Fabric; review the diff
	$(BIN)/python -m orchestration.marts_sql

snapshots: golden

doctor: $(READY) ## what this machine can run, and what is missing
	$(BIN)/worldloop doctor

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(READY): $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about a minute, and several hundred MB to download (README says which)"
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet -c constraints.txt -e .
	touch $@

$(READY_DEV): $(READY)
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean: ## remove the environment; data in .worldloop stays
	rm -rf $(VENV) build *.egg-info

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'
