# make demo   predicts a real table and says where its reports are      make test   lint and the whole suite
PYTEST_WORKERS ?= 2
BENCH_FLAGS ?= --quick
FUZZ_SECONDS ?= 60

PY := .venv/bin/python
export PYTHON
# The same text encoding in every locale.
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs bench claims fuzz lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | while IFS="$$(printf '\t')" read -r name text; do \
	  printf '  make %-7s %s\n' "$$name" "$$text"; done

setup:  ## make .venv from requirements.lock (PYTHON=... names another interpreter)
	@sh tools/setup.sh

demo: setup  ## predict classes and numbers of a real table with missing values, and write the reports
	@.venv/bin/foreknow predict examples/penguins.csv --target species --out demo
	@.venv/bin/foreknow predict examples/penguins.csv --target body_mass_g --folds 3 --out demo/body_mass
	@test -s demo/report.html && test -s demo/body_mass/report.html && \
	  echo "The reports are demo/report.html and demo/body_mass/report.html: open them in a browser."

lint: setup  ## formatting, lint, types, and the rule that dependencies point one way
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@MYPYPATH=src $(PY) -m mypy
	@.venv/bin/lint-imports --no-logo

# One thread a worker: two workers that each start threads on every core only get in each other's way.
test: lint  ## lint, then the whole suite as CI runs it
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PYTEST_WORKERS)

claims: setup  ## the papers' central claims in small; slow
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m claim --timeout 0 || [ $$? -eq 5 ]

fuzz: setup  ## fuzz every reader of strangers' files for FUZZ_SECONDS each
	@set -e; for target in tests/fuzz/fuzz_*.py; do [ -e "$$target" ] || continue; \
	  echo "== $$target"; $(PY) "$$target" -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; done

bench: setup  ## run every benchmark in turn (BENCH_FLAGS= for the full sizes)
	@set -e; for script in benchmarks/*.py; do [ -e "$$script" ] || continue; \
	  echo "== $$script"; $(PY) "$$script" $(BENCH_FLAGS); done

docs: setup  ## bring README.md up to date with the evidence, and build the documentation into site/
	@$(PY) docs/generate.py --readme
	@$(PY) docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "The documentation is site/index.html."

lock: setup  ## resolve newest allowed versions afresh and rewrite requirements.lock
	@$(PY) -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq --disable-pip-version-check \
	  torch==2.13.0 --editable '.[train,frames,polars,ray,studies,control,rl,text,images,onnx,mcmc,pde,bayes,bo,stopping,curves,dev,docs]'
	@build/lock/bin/python tools/lock.py > build/requirements.lock
	@mv build/requirements.lock requirements.lock

clean:  ## remove what the other targets made, except .venv
	@rm -rf build dist site demo docs/catalogue .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
