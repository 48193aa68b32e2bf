# The front door: `make help`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP  := $(VENV)/.stamp

# What `make serve` serves.
DEMO     := examples/demo_model
MODEL    ?= $(DEMO)/base
ADAPTERS ?= $(DEMO)/adapters
SERVE    ?= $(if $(filter $(DEMO)/base,$(MODEL)),--model-name demo)

# Where tests are that need a GPU; the others' imports are not wanted on its machine.
GPU_TESTS ?= tests/kernels tests/parity tests/unit/worker_engine tests/unit/serve_benchmark
# There, PYTHON has its own torch and Triton; WHEELS=dir, filled by `make gpu-wheels`, has what else it lacks.
GPU_PYTHON := 3.12
GPU_SITE   := $(VENV)/gpu-site
GPU_PATH   := $(if $(WHEELS),$(GPU_SITE):).
GPU_READY  := $(if $(WHEELS),$(GPU_SITE)/.stamp)

.DEFAULT_GOAL := help
.PHONY: help demo test sim test-gpu gpu-wheels lint format protos serve up down bench bench-gpu demo-model clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Two environments in one folder: what running needs, and what developing adds.
$(STAMP)-local: pyproject.toml constraints.txt
	@echo "making the environment in $(VENV) (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --constraint constraints.txt torch
	@$(PIP) install --constraint constraints.txt --editable '.[local]'
	@touch $@

$(STAMP)-dev: $(STAMP)-local
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)-local ## Start every service here, serve 17 demo adapters and check each answer
	@$(BIN)/python -m examples.demo

test: $(STAMP)-dev ## Run all tests of this machine
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

gpu-wheels: $(STAMP)-local ## Download what a GPU machine without a network lacks into WHEELS=dir
	@$(PIP) download --no-deps --only-binary :all: --python-version $(GPU_PYTHON) --constraint constraints.txt \
		--requirement deploy/wheels/gpu.txt --dest $(or $(WHEELS),$(error say where: WHEELS=dir))

$(GPU_SITE)/.stamp: $(wildcard $(WHEELS)/*.whl)
	@$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target $(GPU_SITE) $(WHEELS)/*.whl
	@touch $@

# On a GPU machine that may have no network: with the Python that has torch and Triton there, not the environment here.
# Its pytest may lack the plugins that pyproject.toml sets options of, so strict configuration is off.
test-gpu: $(GPU_READY) ## Run the tests that need a GPU, with PYTHON's own torch and Triton (and WHEELS=dir)
	@PYTHONPATH=$(GPU_PATH) $(PYTHON) -m pytest --override-ini addopts=-ra -m gpu $(GPU_TESTS)

sim: $(STAMP)-dev ## Run the control plane's core in virtual time with faults (SEEDS='1 2'; SHOW=--show prints all)
	@PYTHONPATH=. $(BIN)/python -m tests.sim $(SEEDS) $(SHOW)

lint: $(STAMP)-dev ## Style, types, import contracts, and that generated code is fresh
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo
	@PATH="$(abspath $(BIN)):$$PATH" deploy/protos.sh --check

format: $(STAMP)-dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

protos: $(STAMP)-dev ## Generate multitude/v1 from protos/
	@PATH="$(abspath $(BIN)):$$PATH" deploy/protos.sh

serve: $(STAMP)-local ## Serve MODEL=dir with ADAPTERS=dir on this machine (SERVE='more options')
	@$(BIN)/multitude serve $(MODEL) --adapters $(ADAPTERS) $(SERVE)

up: ## Start the services with docker compose
	docker compose up --build --detach --wait

down: ## Stop what `make up` started
	docker compose down

bench: $(STAMP)-dev ## Run the CPU benchmarks into benchmarks/results
	@$(BIN)/python -m benchmarks

bench-gpu: $(GPU_READY) ## Measure on a GPU, as test-gpu: kernels (beside PEERS=dir), serving, rooflines, soak
	@status=0; \
	run() { echo "benchmarks.$$*"; PYTHONPATH=$(GPU_PATH) $(PYTHON) -m benchmarks.$$* || status=1; }; \
	run kernels $(if $(PEERS),--peers $(PEERS)) $(BENCH); \
	serve() { run serve --out benchmarks/results $$*; }; \
	serve --setup S1 --adapters 0 100 2000 --decode 1 32 256 --cold; \
	serve --setup S1 --adapters 100 --variant --peer peft; \
	serve --setup M2 --adapters 0 200 --decode 1 32 256 --cold --max-running 1024 --max-step-tokens 4096; \
	serve --setup S2 --adapters 0 2000 --host-gib 24; \
	serve --setup S1-rank4 --adapters 0 10000 --requests 3000 --host-all; \
	serve --setup S1 --adapters 100 --rate 20 --duration 60; \
	serve --setup S2 --adapters 5 200 --requests 300 --pool-gib 24 --variant unified static; \
	serve --setup S1 --adapters 2000 --requests 200 --variant unified bmm no-prefetch; \
	serve --setup S4 --adapters 100 --requests 100 --variant unified bmm; \
	serve --setup S4 --adapters 100 --requests 200 --pool-gib 24 --variant unified static; \
	serve --setup S1 --level stack --adapters 100; \
	run roofline --setup S1 --out benchmarks/results; \
	run roofline --setup M2 --out benchmarks/results; \
	run soak --out benchmarks/results; \
	exit $$status

demo-model: $(STAMP)-dev ## Train the demo model and its adapters again
	@$(BIN)/python -m examples.demo_model.train

clean: ## Remove the environment and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
