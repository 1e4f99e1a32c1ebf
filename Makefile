# `make run` plays a whole weekly round against a local tournament; `make test` checks everything; `make bench` measures
# it; `make soak` plays weeks in which everything goes wrong. Each sets up its environment on first use and needs nothing but python3 (3.11 or newer) and make.
# PIP_FLAGS goes to pip as it is: the README says how it brings a CPU build of torch.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BENCH := .venv-bench
THROWAWAY := build
PIP := -m pip --disable-pip-version-check
export ERAFLOW_HOME ?= $(CURDIR)/.eraflow

.PHONY: run test bench bench-full soak soak-full lock audit clean

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

# Every point at which a round can be stopped, then weeks of faults.
soak: $(VENV)/.installed-dev
	$(VENV)/bin/pytest -q -n 2 --dist worksteal -m "exhaustive or not exhaustive" tests/behaviour/test_crash_points.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.soak --at-once 2

# A year of them, which can be stopped and goes on where it was.
soak-full: $(VENV)/.installed-dev
	$(VENV)/bin/pytest -q -n 2 --dist worksteal -m "exhaustive or not exhaustive" tests/behaviour/test_crash_points.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.soak --weeks 52 --branches 9 --prefect-every 4 --at-once 2 \
		--home build/soak

$(VENV)/bin/python $(BENCH)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("eraflow needs Python 3.11 or newer; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D)/..

# What a lock holds is installed by hash, from wheels alone: to build a source archive pip would fetch tools without one.
# torch has no hash, as its build is the user's choice; it finds the rest in place and brings only its CUDA companions.
# eraflow itself comes last, built by the lock's setuptools; editable, so that the command always runs this checkout.
# $(1) is the environment, $(2) the lock, $(3) what comes with torch. Marked only when the installation is complete.
define install
	$(1)/bin/python $(PIP) install --quiet --require-hashes --no-deps --only-binary :all: $(PIP_FLAGS) --requirement $(2)
	$(1)/bin/python $(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt torch $(3)
	$(1)/bin/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(1)/bin/python $(PIP) check
endef

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt requirements.lock
	$(call install,$(VENV),requirements.lock)
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt requirements-dev.lock
	$(call install,$(VENV),requirements-dev.lock)
	touch $@ $(VENV)/.installed

# Apart from the product's: it holds what eraflow is compared with.
$(BENCH)/.installed: $(BENCH)/bin/python pyproject.toml constraints.txt benchmarks/requirements.txt benchmarks/requirements.lock
	$(call install,$(BENCH),benchmarks/requirements.lock,--constraint benchmarks/requirements.txt torchvision)
	touch $@

# torch and all that must fit its build; pip is in every environment before anything is installed (fastai names it).
UNLOCKED := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit pip $(addprefix nvidia-,cublas \
	cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 \
	nvjitlink nvshmem-cu13 nvtx)
COMPILE := $(THROWAWAY)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --constraint constraints.txt $(addprefix --no-emit-package ,$(UNLOCKED)) \
	--custom-compile-command 'make lock'

# The versions of constraints.txt with the hashes of all their archives, for every system and Python that eraflow runs on.
lock:
	$(PYTHON) -m venv $(THROWAWAY)/lock
	$(THROWAWAY)/lock/bin/python $(PIP) install --quiet uv==0.13.9
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-dev.lock --extra dev pyproject.toml
	$(COMPILE) --output-file benchmarks/requirements.lock pyproject.toml benchmarks/requirements.txt

# Known vulnerabilities of the locked versions and of torch. A release that the advisories do not know means that they
# are not there, and that the audit did not run.
UNREACHED := could not be audited|Could not connect|Max retries exceeded
audit:
	$(PYTHON) -m venv $(THROWAWAY)/audit
	$(THROWAWAY)/audit/bin/python $(PIP) install --quiet pip-audit==2.10.1
	@said=$(THROWAWAY)/audit/said.txt; \
	if $(THROWAWAY)/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement constraints.txt > $$said 2>&1; then tail -n 1 $$said; \
	elif grep -qE '$(UNREACHED)' $$said; then tail -n 1 $$said; echo 'not run: no advisory service can be reached'; \
	else cat $$said; exit 1; fi

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
