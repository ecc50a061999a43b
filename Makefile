# `make demo` and `make test` do all the set-up they need. Run `make help` for the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
EXTRA ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
# Where pip finds PyTorch's CPU wheels, unless it sees them by itself: the index that PyTorch's "Get started" page
# gives for pip, Linux, CPU. Empty by default.
TORCH_CPU_INDEX ?=
DEMO_FLAGS ?=
TEST_FLAGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
INDEX := $(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX))
PROTOS := $(shell find protos -name '*.proto')
SHELL_SCRIPTS := .ci/run requirements/lock.sh tests/deploy/get-tools.sh
# Lints of the deployment that `make deploy-tools` brings; where one is missing, the tests that need it skip.
TOOLS := $(VENV)/tools
# Two at a time, whatever the machine has: a vLLM engine takes 2 GiB. A file's tests share its engine.
SIDE_BY_SIDE := -n 2 --dist loadfile
RUN_TESTS := PATH="$(abspath $(TOOLS)):$$PATH" $(BIN)/python -m pytest

.PHONY: help
help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.installed ## Make the virtual environment (EXTRA=cpu or gpu).

$(VENV)/.installed: requirements/$(EXTRA).txt pyproject.toml
	@echo "Installing into $(VENV) (about three minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) $(INDEX) -r requirements/$(EXTRA).txt || \
		{ echo "error: if pip found no torch ...+cpu: set TORCH_CPU_INDEX, see README.md" >&2; exit 1; }
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

.PHONY: demo
demo: setup ## Train a tiny policy with TreeRL on this machine, and show what it learned.
	@$(BIN)/treerl demo $(DEMO_FLAGS)

.PHONY: test
test: $(VENV)/.installed-dev ## Run all tests but those that need a Docker engine.
	@$(RUN_TESTS) $(SIDE_BY_SIDE) $(TEST_FLAGS)

.PHONY: test-deploy
test-deploy: $(VENV)/.installed-dev deploy-tools ## Lint containers and charts; with a Docker engine, run and break a whole stack.
	@TREERL_TEST_DOCKER=1 $(RUN_TESTS) -s tests/unit/deploy tests/deploy $(TEST_FLAGS)

.PHONY: deploy-tools
deploy-tools: ## Get the lints of the deployment that no package index has with the others (checkov, promtool).
	@tests/deploy/get-tools.sh $(TOOLS) $(PYTHON)

.PHONY: monitoring
monitoring: $(VENV)/.installed-dev ## Generate dashboards, alerts and docs/metrics.md from the metrics.
	@$(BIN)/python -m monitoring

.PHONY: check
check: $(VENV)/.installed-dev ## Lint, type-check, and check that generated code is up to date.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/hadolint docker/*.Dockerfile
	@$(MAKE) --no-print-directory protos OUT=$(VENV)/drift
	diff -r --exclude=__pycache__ gen $(VENV)/drift || \
		{ echo "error: gen/ differs from protos/; run make protos and commit" >&2; exit 1; }

OUT ?= gen
.PHONY: protos
protos: $(VENV)/.installed-dev ## Generate gen/ from protos/.
	@rm -rf $(OUT)
	@mkdir -p $(OUT)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
		--python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)

.PHONY: bench
bench: setup ## Measure the sampler, the verifier and the trainer on this machine.
	@$(BIN)/treerl bench sampler
	@$(BIN)/treerl bench verifier
	@$(BIN)/treerl bench trainer

.PHONY: lock
lock: ## Resolve requirements/*.txt anew (needs uv).
	requirements/lock.sh

.PHONY: clean
clean: ## Remove what the other targets made, runs excepted.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
