# `make run` plays a whole weekly round against a local tournament; `make test` checks everything.
# Each sets up .venv on first use and needs nothing but python3 (3.11 or newer) and make.
# PIP_FLAGS goes to pip as it is: the README says how it brings a CPU build of torch.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
export ERAFLOW_HOME ?= $(CURDIR)/.eraflow

.PHONY: run test clean

run: $(VENV)/.installed
	$(VENV)/bin/eraflow rehearse

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -n 2 --dist worksteal

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("eraflow needs Python 3.11 or newer; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Editable, so that the command always runs this checkout; marked only when the installation is complete.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
