# Everything runs in .venv, made from uv.lock with nothing but git, make and Python >= 3.11.
# With uv at hand the same works as `uv run ...`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Keep in step with the dev group in pyproject.toml.
UV_VERSION := 0.13.9
LOCKED := pyproject.toml client/pyproject.toml server/pyproject.toml uv.lock

export PATH := $(CURDIR)/$(BIN):$(CURDIR)/.cache/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(VENV)/.runtime ## Place 1000 orders, kill the service in the middle, audit orders against the ledger
	orderflow-server demo

.PHONY: run
run: $(VENV)/.runtime ## Serve on 127.0.0.1:50051 with SQLite and a simulated gateway, until Ctrl-C
	exec orderflow-server serve

.PHONY: test
test: $(VENV)/.dev ## Run the test suite
	pytest -n auto

.PHONY: check
check: $(VENV)/.dev ## Format, lint, types, layers, contract
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-cache
	python tools/contract.py lint
	python tools/contract.py breaking
	python tools/contract.py check-stubs

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what ruff can
	ruff check --fix-only --quiet .
	ruff format .

.PHONY: stubs
stubs: $(VENV)/.dev ## Generate the stubs in client/ from proto/
	python tools/contract.py stubs

.PHONY: certs
certs: $(VENV)/.dev ## Make certificates and tokens for development, in .certs
	python tools/certs.py

.PHONY: dashboards
dashboards: $(VENV)/.dev ## Write Grafana's dashboards from tools/boards, Kubernetes' rules from Prometheus'
	python tools/dashboards.py
	python tools/kubernetes_rules.py

.PHONY: e2e
e2e: $(VENV)/.dev ## End-to-end tests: real processes, the demo, grpcurl where Go is present
	tools/grpcurl.sh
	tools/prometheus.sh
	tools/collector.sh
	tools/jaeger.sh
	tools/compose.sh
	tools/kustomize.sh
	pytest -m e2e tests

.PHONY: stack
stack: $(VENV)/.dev ## Run docker-compose.yml without docker, place orders, find their traces and metrics
	tools/prometheus.sh
	tools/collector.sh
	tools/jaeger.sh
	python tools/stack.py

.PHONY: image-test
image-test: ## Build the image without docker, as root with buildah, and see it serve
	tools/image.sh

.PHONY: chaos
chaos: $(VENV)/.dev ## Every scenario of chaos, a page of plots in .cache/chaos.html; 20 000 orders while all fails (15 minutes)
	tools/prometheus.sh
	orderflow-server chaos all --report .cache/chaos.html
	pytest -m chaos -s tests/chaos

.PHONY: bench
bench: $(VENV)/.dev ## Measure everything against peers and bounds, with pictures (14 minutes)
	python bench/run.py

.PHONY: bench-quick
bench-quick: $(VENV)/.dev ## The ratios only, with wide bounds (a minute)
	python bench/run.py --quick

.PHONY: clean
clean: ## Remove the environment and every cache
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; say which with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is needed (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# --inexact: what the other target installed stays.
$(VENV)/.runtime: $(BIN)/uv $(LOCKED)
	$(BIN)/uv sync --quiet --locked --no-dev --inexact
	@touch $@

$(VENV)/.dev: $(BIN)/uv $(LOCKED)
	$(BIN)/uv sync --quiet --locked
	@touch $@ $(VENV)/.runtime
