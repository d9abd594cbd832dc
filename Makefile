# From a fresh clone, with Python 3.11 or newer, a C++ compiler and make.
# `make help` lists the commands; every variable below can be given to them.
PYTHON ?= python3
VENV ?= .venv
# The quickstart's data: auto is MNIST where tensorflow-datasets has it prepared
# (in DATA_DIR, or its own default folder) or can download it, and otherwise the
# digits that come with scikit-learn.
DATA ?= auto
DATA_DIR ?=
EPOCHS ?= 15
# Processes that the tests run in, one for each core or less.
JOBS ?= 2
PYTEST = $(VENV_PYTHON) -m pytest -q -n $(JOBS) --dist loadfile

VENV_PYTHON := $(VENV)/bin/python
BUILD_INFO := keras_adder/_build_info.json
EMULATION := build/cmake/libkeras_adder_cuda_emulated.so
SOURCES := $(shell find tf_ops -type f)

export TF_CPP_MIN_LOG_LEVEL ?= 2

# TensorFlow announces oneDNN before it reads any setting that could keep it
# quiet. These lines of the error stream are left out, and no others.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
quietly = { $(1) 2>&1 1>&3 | sed -u \
	-e '/log messages before absl::InitializeLog/d' \
	-e '/oneDNN custom operations are on/d' >&2; } 3>&1

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all lint build clean
.DELETE_ON_ERROR:

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' Makefile | \
		while read -r name what; do printf 'make %-12s%s\n' "$$name" "$$what"; done

quickstart: build ## Train a small AdderNet, export it, load it elsewhere
	@echo "Training LeNet-5 without multiplications for $(EPOCHS) epochs."
	@$(call quietly,$(VENV_PYTHON) examples/train_mnist.py --data $(DATA) \
		--epochs $(EPOCHS) --runs runs/quickstart-$(EPOCHS) \
		$(if $(DATA_DIR),--data-dir $(DATA_DIR)))

test: lint ## Check style and types, and run the tests of everyday use
	@echo "Running the tests."
	@$(call quietly,$(PYTEST))

test-all: test ## Also build for and run those that take long
	@echo "Building for the other tests."
	@$(VENV_PYTHON) tests/builds.py
	@echo "Running the other tests."
	@$(call quietly,$(PYTEST) -m slow)

lint: build ## Check the style of the code, and its types
	@echo "Checking style and types."
	@$(VENV_PYTHON) -m ruff check --quiet
	@$(VENV_PYTHON) -m ruff format --check --quiet
	@find tf_ops tests benchmarks -name '*.h' -o -name '*.c' \
		-o -name '*.cc' -o -name '*.cu' | \
		xargs $(VENV)/bin/clang-format --dry-run -Werror
	@$(VENV_PYTHON) -m mypy

build: $(VENV)/.built ## Create the environment and compile the ops

clean: ## Delete the environment and all that was built
	@echo "Deleting $(VENV) and all that was built."
	@rm -rf $(VENV) build dist *.egg-info keras_adder/*.so $(BUILD_INFO)

# Editable: a change of Python code is seen at once, and of the rest below.
$(VENV)/.built: $(VENV)/.installed setup.py pyproject.toml $(SOURCES) \
		$(BUILD_INFO) $(EMULATION)
	@echo "Compiling the ops (a minute or two the first time)."
	@$(VENV_PYTHON) -m pip install -qq --no-build-isolation --no-deps -e .
	@$(VENV)/bin/cmake --build build/cmake \
		--target keras_adder_cuda_emulated > /dev/null
	@touch $@

# Where there is none, or another environment has built since: build.
$(BUILD_INFO) $(EMULATION):

$(VENV)/.installed: constraints.txt $(VENV)/.created
	@echo "Installing TensorFlow and all else at the versions of constraints.txt."
	@$(VENV_PYTHON) -m pip install -qq --no-deps -r constraints.txt
	@touch $@

$(VENV)/.created:
	@echo "Creating the environment $(VENV)."
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"keras_adder needs Python 3.11 or newer: make PYTHON=/path/of/one")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@
