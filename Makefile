# Tidegate. `make` alone lists the targets; `make demo` and `make test` need nothing but Python 3.11 or newer and pip.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --build-constraints requirements/build.txt
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILD = docker build --build-arg VERSION=$(VERSION) --build-arg COMMIT=$$(git rev-parse HEAD)

# Without bytecode every process compiles its imports anew, which takes longer than many a step.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format bench compile image lock clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.core ## Live through the whole loop on real flights, on this machine
	@$(BIN)/python -O -m examples.flights.demo

test: $(VENV)/.test ## Run every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.test ## Check style and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## Check types, strictly
	$(BIN)/mypy

format: $(VENV)/.test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test ## Run every benchmark; tables on the terminal, JSON in build/benchmarks
	@mkdir -p build/benchmarks
	@for name in benchmarks/*/__main__.py; do \
	    name=$$(basename $$(dirname $$name)); \
	    echo "== $$name"; \
	    $(BIN)/python -m benchmarks.$$name --json build/benchmarks/$$name.json || exit 1; \
	done

compile: $(VENV)/.core ## Compile the pipelines to Kubeflow's IR, in pipelines/compiled
	$(BIN)/python -m pipelines compile

image: ## Build the container images (needs Docker)
	$(BUILD) --file images/cpu.Dockerfile --target server --tag tidegate/server:$(VERSION) .
	$(BUILD) --file images/cpu.Dockerfile --target steps --tag tidegate/steps:$(VERSION) .
	$(BUILD) --file images/gpu.Dockerfile --target server --tag tidegate/server-gpu:$(VERSION) .
	$(BUILD) --file images/gpu.Dockerfile --target steps --tag tidegate/steps-gpu:$(VERSION) .
	$(BUILD) --file images/project.Dockerfile --build-arg BASE=tidegate/steps:$(VERSION) --tag tidegate/project:$(VERSION) .

lock: $(VENV)/.bootstrap ## Resolve the requirements anew, with hashes
	for name in bootstrap build core; do $(LOCK) requirements/$$name.in --output-file requirements/$$name.txt || exit 1; done
	for name in steps steps-gpu server server-gpu test; do \
	    $(LOCK) requirements/$$name.in --constraints requirements/core.txt --output-file requirements/$$name.txt || exit 1; \
	done
	$(LOCK) requirements/frameworks.in --constraints requirements/core.txt --constraints requirements/test.txt \
	    --overrides requirements/without-torch.in --output-file requirements/frameworks.txt
	$(LOCK) requirements/torch.in --output-file requirements/torch-cuda.txt

clean: ## Remove everything that was built or run here
	rm -rf $(VENV) .tidegate build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.bootstrap: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/it")'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/bootstrap.txt
	@touch $@

$(VENV)/.core: $(VENV)/.bootstrap requirements/core.txt requirements/build.txt pyproject.toml
	@echo "installing the locked requirements (about 1.2 GB)"
	@$(UV) --require-hashes --requirement requirements/core.txt
	@$(UV) --no-deps --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core requirements/test.txt requirements/frameworks.txt requirements/torch-cpu.txt
	@echo "installing the locked test requirements, and the frameworks whose models are packaged (about 2 GB)"
	@$(UV) --require-hashes --requirement requirements/test.txt
	@$(UV) --require-hashes --no-deps --requirement requirements/frameworks.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	    --requirement requirements/torch-cpu.txt 2> /dev/null || $(UV) --require-hashes --requirement requirements/torch-cuda.txt
	@touch $@
