# make help lists the targets. Everything happens in .venv, which `make setup` fills once per change of its inputs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format test-engines bench-cli bench-server fuzz-server bench-capacity bench-client bench-kills bench-memory clean bench-quality

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "deploytool needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (once; a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## Bring the packaged MiniLM up, prove it, load it, report, take it down
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh

test: setup lint ## Lint, type-check and run the test suite
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not engines and not slow and not alone"

test-slow: setup ## Run the tests that take long, then, one by one, those that want the machine for themselves
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow and not engines"
	@$(BIN)/python -m pytest -q -m "alone and not engines"

test-engines: setup ## Run the tests against real engines (installs docker.io, openssh-server and SGLang for the CPU, 2.8 GB, once)
	@bash tests/engines/docker/setup.sh
	@bash tests/engines/ssh/setup.sh
	@bash tests/engines/sglang/setup.sh .engines/sglang
	@DEPLOYTOOL_SGLANG_VENV="$(CURDIR)/.engines/sglang" $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m engines

bench-server: setup ## The SentenceTransformers server beside its offline limit and a hand-written one (half an hour)
	@$(BIN)/python benchmarks/server.py

fuzz-server: setup ## Mutated requests against the server: make fuzz-server COUNT=20000
	@$(BIN)/python benchmarks/server_fuzz.py --count $(or $(COUNT),20000)

bench-cli: setup ## How long --help, ps and plan take beside a bare interpreter
	@$(BIN)/python benchmarks/cli_start.py

bench-quality: setup ## Published retrieval figures, reproduced: make bench-quality BEIR=FOLDER-OF-SETS
	@test -n "$(BEIR)" || { echo "say where the sets are: make bench-quality BEIR=FOLDER" >&2; exit 2; }
	@$(BIN)/python benchmarks/quality.py "$(BEIR)"

bench-capacity: setup ## The capacity search beside a full grid: the answer, and how many requests it took
	@$(BIN)/python benchmarks/capacity.py

bench-memory: setup ## Memory estimates beside NVML, on the card of this machine, with random weights
	@$(BIN)/python benchmarks/gpu_memory.py

bench-kills: setup ## SIGKILL tool and server at 100 random points each, and what is left (half an hour; N=... for fewer)
	@$(BIN)/python benchmarks/kills.py $(or $(N),100)

bench-client: setup ## What the load generator can do and how true it is, beside wrk and plain Locust
	@$(BIN)/python benchmarks/client.py

lint: setup ## ruff (format and lint) and mypy --strict
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

format: setup ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

clean: ## Remove what the targets made
	rm -rf $(VENV) .engines dist build .mypy_cache* .ruff_cache .pytest_cache demo-report.html
