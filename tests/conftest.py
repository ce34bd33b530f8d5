"""What every test may count on: four logical CPUs, an environment of its own, no process left.

TensorFlow is split into logical CPUs before the first test that finds it imported. A test that
imports it only inside itself asks for the fixture `logical_cpus`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

NUM_LOGICAL_CPUS = 4
_TESTS = pathlib.Path(__file__).resolve().parent

# Variables by which a process learns that it is one worker of many: none may come from outside
# into the tests, and none may go from one test into the next.
_WORKER_VARIABLES = (
    "TF_CONFIG",
    "TFDIST_",
    "CLUSTER_SPEC",
    "JOB_COMPLETION_INDEX",
    "JSM_",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MV2_",
    "OMPI_",
    "PET_",
    "PMI_",
    "RANK",
    "SLURM_",
    "SM_",
    "WORLD_SIZE",
)
# Helpers of Python's multiprocessing that live as long as their parent, by design.
_LASTING_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
# Files by what they take, in the slow part or the quick one; others take less than half a minute.
_LONGEST_FIRST = (
    "house/test_parity_workers", "launch/engines/test_engines", "house/test_parity",
    "checkpoint/test_run", "tpu/test_preflighting", "house/test_mutations", "faults/test_kills",
    "diagnostics/test_verification", "house/test_packaging", "tpu/test_pair",
    "house/test_parity_property", "cluster/test_heartbeat", "tpu/test_fit", "tpu/test_numbers",
    "scripts/test_benchmark", "cluster/test_meeting", "faults/test_two_hosts",
    "faults/test_resume_workers", "faults/test_ledger", "training/test_shared_events",
    "communication/test_reduction", "step/test_local_steps", "data/test_lengths",
    "launch/test_failures", "house/test_docs",
)  # fmt: skip
# Files of which every slow test takes turns: they measure, and what they guard seldom changes.
_OF_ONE_COMMIT_IN_SOME = (
    "diagnostics/test_batch_size", "scripts/test_benchmark", "tpu/test_numbers", "tpu/test_pair",
)
# Files that choose themselves which of their cases have their turn.
_WITH_TURNS_OF_THEIR_OWN = ("house/test_parity", "programs/")
_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
_CHILD_GRACE_SECS = 3.0


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in list(os.environ):
        if name.startswith(_WORKER_VARIABLES):
            del os.environ[name]
    if sys.platform == "linux":
        # Children of our children come to us when their parents end, so that none goes unseen.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Two busy cores make any deadline a coin toss, and a failure has to come again when run again.
    hypothesis.settings.register_profile(
        "tfdist", deadline=None, derandomize=True, database=None, print_blob=False
    )
    hypothesis.settings.load_profile("tfdist")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files begin, so that no other process waits for them at the end.

    Of the cases of a slow test, those whose turn it is not are marked as a part of the table.
    """
    for item in items:
        if _waits_for_its_turn(item):
            item.add_marker("table")
    order = {name: index for index, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(_of_tests(item.path), len(order)))


def _waits_for_its_turn(item: pytest.Item) -> bool:
    """Whether an item is a case of a slow test, of which another one has its turn."""
    file = _of_tests(item.path)
    takes_turns = hasattr(item, "callspec") or file in _OF_ONE_COMMIT_IN_SOME
    if item.get_closest_marker("slow") is None or not takes_turns:
        return False
    if file.startswith(_WITH_TURNS_OF_THEIR_OWN):
        return False
    from parity import rotation

    return not rotation.has_turn(item.nodeid.rpartition("/")[2], rotation.SLOW_CASES)


def _of_tests(path: pathlib.Path) -> str:
    """Returns the path of a file of tests below this folder, without its ending."""
    return path.relative_to(_TESTS).with_suffix("").as_posix() if _TESTS in path.parents else ""


def pytest_report_header() -> list[str]:
    if importlib.util.find_spec("parity") is None:
        return []  # a copy of this file, in a folder of its own
    from parity import rotation

    return [rotation.summary()]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if "tensorflow" in sys.modules:
        _split_cpu()


@pytest.fixture(scope="session")
def logical_cpus() -> int:
    """Imports TensorFlow, split into logical CPUs; returns how many there are."""
    import tensorflow  # noqa: F401

    _split_cpu()
    return NUM_LOGICAL_CPUS


@pytest.fixture(scope="session")
def jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns the jobs of the selected rows of the parity table."""
    from parity.case import Case
    from parity.jobs import ORACLE, Jobs

    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        asked = item.callspec.params if hasattr(item, "callspec") else {}
        if isinstance(asked.get("case"), Case):
            selected.setdefault(asked.get("world", ORACLE), []).append(asked["case"].name)
    own = tmp_path_factory.getbasetemp()
    # Processes of one run of the tests share what stock Keras gives.
    return Jobs(selected, own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


def _split_cpu() -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) == NUM_LOGICAL_CPUS:
        return
    configuration = [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_CPUS
    try:
        tf.config.set_logical_device_configuration(cpu, configuration)
    except RuntimeError as error:
        pytest.fail(
            f"TensorFlow was started before it had {NUM_LOGICAL_CPUS} logical CPUs ({error}). "
            "The test before this one imports it inside itself: let it use `logical_cpus`."
        )


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Gives `os.environ` back as it was; a variable of workers that was left set is a failure."""
    before = dict(os.environ)
    imported_before = "tensorflow" in sys.modules
    yield
    leaks = {
        name: os.environ.get(name)
        for name in {*os.environ, *before}
        if name.startswith(_WORKER_VARIABLES) and os.environ.get(name) != before.get(name)
    }
    if imported_before or "tensorflow" not in sys.modules:
        _restore(before)
    else:  # what TensorFlow sets when it is imported has to stay
        _restore({name: value for name, value in os.environ.items() if name not in leaks} | before)
    assert not leaks, f"the test left these variables changed: {leaks}"


def _restore(environ: dict[str, str]) -> None:
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)


@pytest.fixture(autouse=True)
def restored_keras_settings() -> Iterator[None]:
    """Gives Keras's default dtype and policy back as they were."""
    keras = sys.modules.get("keras")
    before = (keras.config.floatx(), keras.config.dtype_policy()) if keras else ("float32", None)
    yield
    keras = sys.modules.get("keras")
    if keras is None:
        return
    floatx, policy = before
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy or floatx)


@pytest.fixture
def float64() -> None:
    """Computes in float64 during a test; `restored_keras_settings` ends that."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a process behind, after a moment for those that are ending."""
    before = _living_children()
    yield
    deadline = time.monotonic() + _CHILD_GRACE_SECS
    while (left := _living_children().items() - before.items()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid, _ in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"the test left these processes running: {sorted(left)}"


def _living_children() -> dict[int, str]:
    """Returns the command lines of the living children of this process; none off Linux."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        is_living_child = int(parent) == os.getpid() and state not in "ZX"
        if is_living_child and not any(name in command for name in _LASTING_HELPERS):
            found[int(folder.name)] = command
    return found


@pytest.fixture(autouse=True)
def _no_strategy_of_another_test():
    """A strategy of several replicas makes `fit` outside a scope an error: in its own test only."""
    yield
    made = sys.modules.get("tfdist.strategy.factory")
    if made is not None:
        made._made.clear()
