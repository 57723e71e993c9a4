# Every target sets up .venv itself when it is missing or older than pyproject.toml and constraints.txt.
# `make check` is everything CI runs. Options go through ARGS: make test ARGS="tests/unit -k retry"

VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
# Test processes at once: one more than the two cores this is meant for, because tests of real processes wait half of the time.
# A file's tests stay in one process, because they share engines and hosts. `make test JOBS=0` uses none.
JOBS ?= 3
# The stamp names this directory: a copied checkout has an environment that still points at the original.
STAMP := $(VENV)/.ready-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)
DOCS := $(wildcard scripts/docs.py)
# Tests that run a second time, without live bodies. Those left out compare life and replay by themselves.
REPLAYED := tests/sdk tests/examples/test_flows.py tests/e2e/test_groups_e2e.py tests/e2e/test_compensation.py \
	--ignore=tests/sdk/test_programs.py --ignore=tests/sdk/test_group_trees.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test replay check static lint types imports stubs docs docs-check wheel proto format soak bench bench-peers lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Create or refresh .venv with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh $(VENV)
	@rm -f $(VENV)/.ready-* && touch $@

demo: $(STAMP) ## Analyse real Python sources on two hosts, then kill host and engine and watch the run complete
	@$(PY) examples/census/demo.py $(ARGS)

test: $(STAMP) ## Run the tests
	@$(PY) -m pytest -m 'not benchmark' -n $(JOBS) --dist loadfile $(ARGS)

replay: $(STAMP) ## Run tests of flows with no body kept, so that every release is reached by replay
	@$(PY) -m pytest -m 'not benchmark' -n $(JOBS) --dist loadfile --always-evict $(REPLAYED) $(ARGS)

check: static replay test ## Everything CI checks: static checks, then the tests

static: lint types imports stubs docs-check ## All checks that run no tests

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(STAMP)
	@$(PY) -m mypy

imports: $(STAMP)
	@$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()'

stubs: $(STAMP)
	@$(PY) scripts/proto.py --check

docs-check: $(STAMP)
	@$(if $(DOCS),$(PY) $(DOCS) --check,:)

wheel: $(STAMP) ## Build the wheel, install it bare into an empty environment and check what it loads
	@$(PY) scripts/check_wheel.py

proto: $(STAMP) ## Generate the committed protobuf stubs from proto/
	@$(PY) scripts/proto.py

docs: $(STAMP) ## Generate docs/reference from the code
	@$(PY) scripts/docs.py

format: $(STAMP) ## Format the code and apply the safe fixes
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

soak: $(STAMP) ## Play random histories of the simulator; ARGS says for how many seconds (default 600)
	@$(PY) -m tests.simulation --soak $(if $(ARGS),$(ARGS),600)

bench: $(STAMP) ## Measure throughput, latency and memory; ARGS=--help lists what
	@$(PY) -m benchmarks $(ARGS)

bench-peers: $(STAMP) ## Install the engines that `make bench ARGS="peers --peers"` measures beside ours, into .peers
	@$(PY) -m benchmarks.peers install

lock: $(STAMP) ## Resolve all dependencies anew and write constraints.txt
	@sh scripts/lock.sh $(PY)

clean: ## Remove the environment and all caches
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
