# The commands for people who have just cloned tfdist. Each makes what it needs, once.
#
#   make train                      trains on handwritten digits, as two workers on this machine
#   make train ARGS="--epochs=3"    the same with flags of scripts/train.py
#   make test                       the tests, in under ten minutes on two cores
#   make test-all                   those, and the slow ones that CI runs
#   make test-table                 every slow one, about an hour
#   make check                      lint and types
#   make clean                      removes builds and caches; the environment stays
#
# PYTHON  the Python 3.10 to 3.13 that the environment is made with
# VENV    the folder of the environment; one that is there is used as it is
# EXTRA   the TensorFlow to install, cpu, gpu or tpu, where none can be imported yet
# ARGS    further arguments: of scripts/train.py, or of pytest

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
ARGS ?=

RUN := $(VENV)/bin/python
READY := $(VENV)/.ready-$(EXTRA)
PYTEST := $(RUN) -m pytest tests
PYTEST_SLOW := $(RUN) -m pytest -m slow --durations=15 -o timeout=900 -o faulthandler_timeout=1200
# Slow tests that CI runs.
SLOW := tests/test_packaging.py tests/test_verification.py

.PHONY: train test test-all test-table check clean
.NOTPARALLEL:
.DEFAULT_GOAL := train

train: $(READY)
	$(RUN) -m tfdist.launch --workers=2 scripts/train.py --device=cpu $(ARGS)

test: $(READY),test
	$(PYTEST) -m "not slow" --durations=15 $(ARGS)

test-all: test
	$(PYTEST_SLOW) $(SLOW) $(ARGS)

# Every slow row of every file, the parity table on four replicas and three workers among them:
# about an hour on two cores.
test-table: $(READY),test
	$(PYTEST_SLOW) tests $(ARGS)

check: $(READY),test
	$(RUN) -m ruff check .
	$(RUN) -m mypy tfdist scripts

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find tfdist tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is installed again when the requirements change. The stamps lie inside the
# environment, so that they go with it.
$(VENV)/.ready-%: setup.cfg pyproject.toml
	@$(PYTHON) scripts/setup_env.py --venv=$(VENV) --extras=$*
	@touch $@
