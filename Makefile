# Everything a person needs: `make demo` on a fresh machine sets itself up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder
SEED ?= 1
CORES ?= 2
DEMO := results/demo
POPULATION := results/demo-population
SLURM_DEMO := results/slurm-demo

export PYTHONNOUSERSITE := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install bundle demo slurm-demo slurm-test embedded-model test test-fast check format docs docs-site clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## cohortvol and all it needs, into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "cohortvol needs Python 3.11 or newer; name one with 'make PYTHON=/path/to/python3'" >&2; \
		exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,slurm]'
	@touch $@

demo: $(READY)  ## simulate 48 scans, some broken, run the whole workflow on them, show the result
	$(BIN)/cohortvol simulate --out $(DEMO)/source --n 48 --seed $(SEED) --broken \
		--processes $(CORES)
	$(BIN)/snakemake --cores $(CORES) --quiet rules --config \
		manifest=$(DEMO)/source/manifest.csv results=$(DEMO) bad_rows=quarantine shard_size=16 \
		'report={title: "Demo: 48 simulated scans", planted: $(DEMO)/source/planted.csv}'
	$(BIN)/cohortvol simulate --tables-only --n 8672 --seed $(SEED) --results $(POPULATION)
	$(BIN)/cohortvol assemble --results $(POPULATION) --model simulated
	$(BIN)/cohortvol analyse --volumes $(POPULATION)/volumes.parquet \
		--scans $(POPULATION)/scans.parquet --out $(POPULATION)/analyse
	$(BIN)/cohortvol report --analyse $(POPULATION)/analyse \
		--volumes $(POPULATION)/volumes.parquet --scans $(POPULATION)/scans.parquet \
		--planted $(POPULATION)/planted.csv --title "Demo: 8,672 simulated subjects, tables only" \
		--out $(POPULATION)/report
	@echo
	@$(BIN)/cohortvol compare --results $(POPULATION) --planted $(POPULATION)/planted.csv
	@$(BIN)/cohortvol compare --results $(DEMO) --source $(DEMO)/source \
		--planted $(DEMO)/source/planted.csv
	@$(BIN)/cohortvol status --results $(DEMO) || test $$? -eq 3
	@echo
	@echo "Reports: $(DEMO)/report/index.html  $(POPULATION)/report/index.html"

slurm-demo: $(READY)  ## the demo's scans through --profile slurm, on a real Slurm that this starts (Debian, root)
	test -e $(DEMO)/volumes.parquet || $(MAKE) demo
	$(BIN)/python tests/slurm/lab.py run -- $(BIN)/snakemake --profile slurm --quiet rules --config \
		manifest=$(DEMO)/source/manifest.csv results=$(SLURM_DEMO) bad_rows=quarantine shard_size=16 \
		'segment={threads: $(CORES), device: cpu}' \
		'report={title: "Demo: 48 simulated scans", planted: $(DEMO)/source/planted.csv}'
	@for table in volumes.parquet scans.parquet analyse/slopes.parquet analyse/analyse.json; do \
		cmp $(DEMO)/$$table $(SLURM_DEMO)/$$table && echo "$$table: byte for byte as on one machine" \
		|| exit 1; done

embedded-model: $(READY)  ## train the embedded model again: make embedded-model CHAOS=folder (hours)
	@test -n "$(CHAOS)" || { echo "name the folder of labelled scans: make embedded-model CHAOS=..." >&2; exit 1; }
	$(BIN)/cohortvol training-pairs --labelled $(CHAOS) --out training/pairs \
		--per-scan 20 --simulated 400 --processes $(CORES)
	$(BIN)/cohortvol train --recipe models/embedded-v2.yaml --pairs training/pairs \
		--work training/work --out training/embedded-v2 --processes $(CORES)

test: $(READY)  ## all tests, without network
	$(PYTEST)

test-fast: $(READY)  ## the tests that are quick, for the edit loop
	$(PYTEST) -m 'not slow'

slurm-test: $(READY)  ## the tests that need a cluster, on a real Slurm that this starts (Debian, root)
	$(BIN)/python tests/slurm/lab.py run -- $(BIN)/python -m pytest tests/slurm

check: $(READY)  ## what pre-commit and CI run beside the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(READY)  ## put Python and Snakemake files into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

bundle: $(READY)  ## dist/bundle: wheels, models and workflow for a machine without internet
	$(BIN)/cohortvol bundle --out dist/bundle

docs: $(READY)  ## the pages of docs/ that are written from the code: tables, settings, reasons
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/settings.py
	$(BIN)/python docs/reasons.py

docs-site: $(READY)  ## dist/docs/index.html: the documentation as a site, which opens offline
	@$(BIN)/python -c 'import furo, myst_parser, sphinx' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs dist/docs
	@echo "dist/docs/index.html"

clean:  ## remove the demo, caches and build leftovers; .venv and other results stay
	rm -rf $(DEMO) $(POPULATION) $(SLURM_DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
