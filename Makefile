# Needs only Python 3.11 or newer, and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# TESTS=tests.crypto runs a part of the suite only.
TESTS ?= tests

.PHONY: help run test faults lint lock bench clean
.DELETE_ON_ERROR:

help:
	@echo "make run    start a server with a throwaway CA in ./var and enroll a simulated Mac"
	@echo "make test   run the test suite"
	@echo "make faults run the part of it that means harm: crashes, attacks, broken input, leaks"
	@echo "make lint   check style and types"
	@echo "make lock   renew the lists of what containers install, requirements*.lock"
	@echo "make bench  print the performance figures"
	@echo "make clean  remove everything that these made"

run: .venv/.installed
	@exec $(BIN)/python -m nanomdm.sim.demo --directory var

test: .venv/.installed
	@$(BIN)/python -m twisted.trial $(TESTS)

# The daemon is killed 50 times on each database here, 5 times in "make test".
faults: export FAULTS_KILLS ?= 50
faults: .venv/.installed
	@$(BIN)/python -m twisted.trial tests.faults

lint: .venv/.linters
	@$(BIN)/ruff check nanomdm twisted tests bench .ci/audit
	@$(BIN)/ruff format --check nanomdm twisted tests bench .ci/audit
	@$(BIN)/mypy --strict nanomdm

# For every Python from 3.11 and every machine: the hashes are those of all files of a version.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock"
BUILD_REQUIREMENTS := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

lock: .venv/.linters
	@$(LOCK) --extra mysql --extra pgsql --output-file requirements.lock setup.cfg
	@$(BIN)/python -c '$(BUILD_REQUIREMENTS)' | $(LOCK) --output-file requirements-build.lock -

bench: .venv/.installed
	@$(BIN)/python -m bench

# Editable: the code of this checkout runs, never an older copy of it.
.venv/.installed: setup.cfg pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing into .venv (a minute, only when setup.cfg changes) ..."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --editable '.[test]'
	@touch $@

.venv/.linters: .venv/.installed
	@echo "Installing the linters into .venv ..."
	@$(PIP) install --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv var build dist *.egg-info .mypy_cache .ruff_cache _trial_temp* twisted/plugins/dropin.cache
	find nanomdm twisted tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
