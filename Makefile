# The commands for people who have just cloned tfdist. Each makes what it needs, once.
#
#   make train                      trains on handwritten digits, as two workers on this machine
#   make train ARGS="--epochs=3"    the same with flags of scripts/train.py
#   make test                       the tests, in some eight minutes on two cores
#   make test-slow                  the slow ones, on the engines too
#   make test-colab                 the versions that Colab carries, in an environment of their own
#   make test-next                  the TensorFlow and the Keras that are not released yet
#   make test-all                   all four
#   make gpu-check                  whether all of tfdist works on the GPU that is here, in under ten
#                                   minutes; one block of text to send back. It is tested without
#                                   one by: make gpu-check GPU_VENV=.venv ARGS=--device=cpu
#   make flower                     whether a real deployment of Flower, on this machine, comes to what
#                                   federated.fit comes to; in an environment of its own, minutes
#   make docs                       the documentation, as pages in docs/_build/html
#   make parity                     all pairs of choices, and the parity table, into README.md and
#                                   docs/
#   make keras-own                  all of Keras's own tests of its trainer and layers, on two replicas
#   make programs                   programs in the shape of people's, unchanged, all of them, and
#                                   all examples
#   make oracles                    what stock Keras gives for its rows, where that is out of date
#   make check                      lint and types
#   make clean                      removes builds and caches; the environment stays
#
# PYTHON  the Python 3.10 to 3.13 that the environment is made with
# VENV    the folder of the environment; one that is there is used as it is
# EXTRA   the TensorFlow to install, cpu, gpu or tpu, where none can be imported yet
# WITH    further extras of the environment that tests run in
# ARGS    further arguments: of scripts/train.py, or of pytest

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
WITH ?= test
ARGS ?=

RUN := $(VENV)/bin/python
READY := $(VENV)/.ready-$(EXTRA)
# A file of tests in one process. Two cores are what everybody has; a third process works while slow
# tests of another one wait. tests/conftest.py lets the longest files begin.
PYTEST := $(RUN) -m pytest -rs --dist loadfile --no-loadscope-reorder --durations=15
QUICK := -n 2 -m "not slow"
SLOW := -n 3 -m "slow and not table" -o timeout=900 -o faulthandler_timeout=1200
# KerasHub, and the engines.
FURTHER := hub,ray,dask,spark
# What Colab carries.
COLAB_VENV := $(VENV)-colab
COLAB_PINS := tensorflow-cpu==2.20.0,keras==3.13.2
# The newest TensorFlow, and the Keras that it asks for. Raised when `cpu` gets that release.
NEXT_VENV := $(VENV)-next
NEXT_PINS := tensorflow-cpu>=2.22.dev0

# Flower, which wants older releases than other tests do.
FLOWER_VENV := $(VENV)-flower

# TensorFlow with CUDA, unless this Python has a TensorFlow already, as where GPUs are rented.
GPU_VENV ?= $(VENV)-gpu

.PHONY: train test test-slow test-colab test-next test-all environment environments engines \
	tpu-compiler next-environment gpu-check flower docs parity programs oracles keras-own check clean
.NOTPARALLEL:
.DEFAULT_GOAL := train

train: $(READY)
	$(RUN) -m tfdist.launch --workers=2 scripts/train.py --device=cpu $(ARGS)

test: $(READY),$(WITH)
	$(PYTEST) tests $(QUICK) $(ARGS)

test-slow: $(READY),test,$(FURTHER) engines
	$(PYTEST) tests $(SLOW) $(ARGS); code=$$?; \
	[ "$$(id -u)" != 0 ] || bash scripts/setup_engines.sh --stop; exit $$code

test-colab: $(COLAB_VENV)/.ready
	$(COLAB_VENV)/bin/python -m pytest -n 2 --dist loadfile \
		tests/house/test_parity.py tests/house/test_parity_workers.py -m "not slow" $(ARGS)

# Tells what fails, and ends with an error only where both releases are final.
NEXT := $(PYTHON) scripts/next_releases.py --venv=$(NEXT_VENV) --pins='$(NEXT_PINS)'
test-next:
	$(NEXT) $(ARGS)

next-environment:
	$(NEXT) --only_install

test-all: test test-slow test-colab test-next

# What can be made beforehand: the environment of the tests, and what other tests need beside it.
environment: $(READY),$(WITH)
environments: engines $(COLAB_VENV)/.ready tpu-compiler next-environment

# Where the tests look for it; preflight makes it where it is not there.
tpu-compiler: $(READY),$(WITH)
	$(RUN) -c "from tfdist.tpu import compiler_environment as e; \
	print(e.compiler_python(cache_dir='.pytest_cache/d/tfdist-tpu'))"

gpu-check: $(GPU_VENV)/.ready-gpu
	$(GPU_VENV)/bin/python -m tfdist doctor --gpu-check --device=gpu $(ARGS)

flower: $(FLOWER_VENV)/.ready
	$(FLOWER_VENV)/bin/python scripts/flower_loopback.py $(ARGS)

engines:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then bash scripts/setup_engines.sh; \
	else echo "Without: sudo bash scripts/setup_engines.sh, mpi, slurm and spark are not tested."; fi

# Nitpicky, and each warning is an error: a dead link inside, or a name that is not there.
docs: $(READY),$(WITH)
	$(RUN) -m sphinx -q -n -W --keep-going docs docs/_build/html

parity: $(READY),$(WITH)
	PYTHONPATH=tests $(RUN) -m parity.pairs
	PYTHONPATH=tests $(RUN) -m parity.remake --all
	$(RUN) scripts/parity_table.py --write

programs: $(READY),$(WITH)
	$(RUN) -m pytest tests/programs tests/house/test_examples.py -n 2 -m "" \
		--durations=10 $(ARGS)

oracles: $(READY),$(WITH)
	PYTHONPATH=tests $(RUN) -m parity.remake $(ARGS)

keras-own: $(READY),$(WITH)
	KERAS_OWN_PART=0/1 $(RUN) -m pytest -s -m slow -o faulthandler_timeout=4000 \
		tests/house/test_keras_own.py $(ARGS)

check: $(READY),$(WITH)
	$(RUN) -m ruff check .
	$(RUN) -m mypy tfdist scripts

clean:
	rm -rf build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find tfdist tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is installed again when the requirements change. The stamps lie inside the
# environment, so that they go with it.
$(COLAB_VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) scripts/setup_env.py --venv=$(COLAB_VENV) --extras=test --pins=$(COLAB_PINS)
	@touch $@

$(FLOWER_VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) scripts/setup_env.py --venv=$(FLOWER_VENV) --extras=cpu,flower
	@touch $@

ifneq ($(GPU_VENV),$(VENV))
$(GPU_VENV)/.ready-gpu: setup.cfg pyproject.toml
	@$(PYTHON) scripts/setup_env.py --venv=$(GPU_VENV) --extras=gpu
	@touch $@
endif

$(VENV)/.ready-%: setup.cfg pyproject.toml
	@$(PYTHON) scripts/setup_env.py --venv=$(VENV) --extras=$*
	@touch $@
