# `make run` plays a whole weekly round against a local tournament; `make test` checks everything; `make bench` measures
# it. Each sets up its environment on first use and needs nothing but python3 (3.11 or newer) and make.
# PIP_FLAGS goes to pip as it is: the README says how it brings a CPU build of torch.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BENCH := .venv-bench
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
export ERAFLOW_HOME ?= $(CURDIR)/.eraflow

.PHONY: run test bench bench-full clean

run: $(VENV)/.installed
	$(VENV)/bin/eraflow rehearse

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n 2 --dist worksteal

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks

bench-full: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks --full

$(VENV)/bin/python $(BENCH)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("eraflow needs Python 3.11 or newer; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D)/..

# Editable, so that the command always runs this checkout; marked only when the installation is complete.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

# Apart from the product's: it holds what eraflow is compared with.
$(BENCH)/.installed: $(BENCH)/bin/python pyproject.toml constraints.txt benchmarks/requirements.txt
	$(BENCH)/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) --constraint constraints.txt \
		--requirement benchmarks/requirements.txt --editable .
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
