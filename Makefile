PYTHON ?= python3.11
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints.txt
# Tests start hundreds of processes: without bytecode each compiles torch and the toolboxes again.
unexport PYTHONDONTWRITEBYTECODE
# Bytecode is made on first use: much of what is installed is never imported.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -q
# mmcv and others ask for opencv-python, which needs libGL. The headless build is the same module
# without it: put there last, it wins.
HEADLESS := $(PIP) --no-deps --force-reinstall opencv-python-headless
# The classic stack has an environment and pins of its own.
CLASSIC := .venv-classic
CLASSIC_PINS := $(CURDIR)/requirements/classic.txt
CLASSIC_PIP := $(CLASSIC)/bin/python -m pip install --disable-pip-version-check --no-compile -q
DEMO_CONFIG := configs/digits/resnet8_fixnorm_1xb64-20e_digits.py
DEMO_REPORT := work_dirs/resnet8_fixnorm_1xb64-20e_digits_search/report.html

# The unit tests of every part, without what trains for long or starts one process after another: the whole searches of
# tests/search, the regimes, the shipped configs, the tools and the end-to-end tests. `make test` runs those.
QUICK := $(addprefix tests/,analysis cli cls convert core det engine peers search seg test_docstrings.py test_walls.py)
QUICK_WITHOUT := $(patsubst %,--ignore-glob='*/test_*%*.py',driver kills ledger makespan ray slurm)

.PHONY: help env demo test test-quick test-classic lint types docs dist notes clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/all  ## the complete environment, with mmdet, mmseg and mmcv's ops, into .venv

demo: $(VENV)/cls data/digits  ## the main job on the default data set, from nothing, with a report
	$(BIN)/python -m mmfixnorm search run $(DEMO_CONFIG) --workers 2
	@echo "The report: $(abspath $(DEMO_REPORT))"

test: $(VENV)/all  ## the whole test suite, with the complete environment
	@$(BIN)/python -c 'import mmcv.ops' || \
	  { echo "mmcv's ops are missing: rm $(VENV)/all, then make test again" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test-quick: $(VENV)/all  ## the fast unit tests of every part, in less than 3 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow' $(QUICK) $(QUICK_WITHOUT)

test-classic: $(CLASSIC)/all  ## the suite without slow tests on OpenMMLab's last releases, with torch 2.1
	OMP_NUM_THREADS=1 $(CLASSIC)/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow'

lint: $(VENV)/dev  ## ruff: mistakes, and the format of every file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev  ## mypy on the package, the benchmarks and the tools
	$(BIN)/mypy

docs: $(VENV)/all  ## the site of docs/, into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

dist: $(VENV)/dev  ## the source distribution and the wheel, into dist/
	$(BIN)/python -m build --no-isolation

notes:  ## the notes for the release of this version, from the changelog
	@$(PYTHON) docs/release_notes.py

data/digits: | $(VENV)/cls
	$(BIN)/python tools/dataset_converters/digits.py --out $@

# The environment, in three steps; each leaves a stamp.
$(VENV)/cls: $(filter-out %/test.txt %/onedl.txt %/analysis.txt %/peers.txt %/docs.txt %/classic.txt,$(wildcard requirements/*.txt)) setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/build.txt
	$(PIP) -r requirements/torch.txt
	$(PIP) --no-cache-dir --no-deps onedl-mmcv  # an isolated build sees no torch: no ops, seconds
	$(PIP) -r requirements/cls.txt -r requirements/data.txt -r requirements/runtime.txt
	$(HEADLESS)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/cls requirements/test.txt
	$(PIP) -r requirements/test.txt
	@touch $@

$(VENV)/all: $(VENV)/dev requirements/onedl.txt requirements/install_mmcv_ops.sh
	PYTHON=$(BIN)/python requirements/install_mmcv_ops.sh
	$(PIP) -r requirements/onedl.txt
	$(HEADLESS)
	@touch $@

$(CLASSIC)/all: export PIP_CONSTRAINT := $(CLASSIC_PINS)
$(CLASSIC)/all: $(CLASSIC_PINS) requirements/install_mmcv_ops.sh setup.py
	$(PYTHON) -m venv $(CLASSIC)
	$(CLASSIC_PIP) setuptools wheel ninja
	$(CLASSIC_PIP) torch torchvision numpy
	grep -v '^mmcv==' $(CLASSIC_PINS) > $(CLASSIC)/without_mmcv.txt  # what mmcv imports, with which its ops are tried
	$(CLASSIC_PIP) -r $(CLASSIC)/without_mmcv.txt
	$(CLASSIC_PIP) --no-deps --force-reinstall opencv-python-headless
	PINS=$(CLASSIC_PINS) PYTHON=$(CLASSIC)/bin/python requirements/install_mmcv_ops.sh
	$(CLASSIC_PIP) --no-deps --no-build-isolation -e .
	@touch $@

clean:  ## what builds and tools left; .venv, data/ and work_dirs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
