.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help setup demo test test-airflow test-faults bench-judge bench-pages bench-shift pictures lint schema constraints

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## create .venv with everything (done by every other target, too)
	@python3 scripts/bootstrap.py

demo: setup  ## release a good and two bad versions on a real Airflow; CI=1 ends by itself
	@PYTHONPATH=include:plugins $(PY) -m demo $(if $(CI),--ci)

lint: setup  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy

# Two at a time; the rest measures seconds of real processes, or starts an Airflow, and has the machine to itself.
SIDE_BY_SIDE := $(addprefix tests/,bench contracts control core dags faults hooks ledger metrics notices operators security ui)

test: setup lint  ## everything: lint, core, contracts, a real Airflow end to end
	@$(PY) -m pytest -n 2 --dist worksteal $(SIDE_BY_SIDE)
	@$(PY) -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

schema: setup  ## refresh include/release.schema.json from the model
	@PYTHONPATH=plugins $(PY) -m canary_release.core.release_schema > .release.schema.new && mv .release.schema.new include/release.schema.json

bench-judge: setup  ## the judge beside other tools' rules, on simulated traffic
	@PYTHONPATH=include:plugins $(PY) -m bench --markdown docs/judge-bench.md

bench-shift: setup  ## shift latency and lost requests of every load balancer, into the README's table
	@CANARY_SHIFT_FIGURES=$(CURDIR)/.shift-figures.json $(PY) -m pytest -q -m figures tests/contracts
	@PYTHONPATH=include:plugins $(PY) -m bench.shift_table .shift-figures.json README.md

test-airflow: setup  ## what needs a real Airflow, a browser or a store of its own; some minutes
	@$(PY) -m pytest -m "not faults and not figures" tests/end_to_end tests/browser tests/contracts/test_sources.py

pictures: setup  ## take the pictures of the pages in docs/pictures anew
	@$(PY) -m pytest -q -m figures tests/browser

bench-pages: setup  ## how long the pages take with 300 services and 10,000 past rollouts, on SQLite and PostgreSQL
	@$(PY) -m pytest -q -s -m figures tests/ui

test-faults: setup  ## kill, stop and cut off real processes; about 25 minutes; writes docs/faults.md
	@CANARY_FAULT_RESULTS=$(CURDIR)/.fault-results.json $(PY) -m pytest -m "faults or not faults" tests/faults tests/faults_real tests/security/test_generated_input.py tests/security/test_conf_is_data.py tests/ledger/test_ledger.py tests/ui/test_every_route.py
	@$(PY) include/faults/report.py .fault-results.json docs/faults.md

constraints: setup  ## pin again what requirements-dev.txt names
	@.venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --no-header --no-annotate --no-emit-index-url requirements-dev.txt -o constraints.txt
