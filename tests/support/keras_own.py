"""Makes Keras's own tests train through tfdist on two replicas: a plugin of pytest.

    python -m pytest -p support.keras_own ... site-packages/keras/src/trainers/trainer_test.py

The variable KERAS_OWN_PART, "k/n", selects part k (from 0) of n.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import types
import zlib
from typing import Any

import pytest

import tfdist

_STRATEGY = tfdist.get_strategy("2xcpu")  # before Keras starts TensorFlow
import keras  # noqa: E402, F401

# Some files import it for its backend alone. Keras looks for it itself, so it comes after Keras.
sys.modules.setdefault("jax", types.ModuleType("jax"))

# What cannot pass here, by the name of the test, and why.
EXCLUDED = {
    "*_jax_*": "needs JAX",
    "*_torch_*": "needs PyTorch",
    "*_grain_*": "needs Grain",
    "*OrbaxCheckpointTest*": "needs Orbax",
    "*test_steps_per_execution_steps_per_epoch_match_multi_epoch_*": (
        "Keras runs on past steps_per_epoch to fill an execution; tfdist ends the epoch there"
    ),
    "*test_retracing*": "counts how often a layer is traced, and each replica is traced by itself",
    "*test_trainer_with_raggeds_*": (
        "its loss gives one number for ragged rows of the whole batch, which is refused by name"
    ),
}


def pytest_configure(config: Any) -> None:
    """Registers the markers of Keras's own configuration."""
    for name in ("requires_trainable_backend", "multi_device"):
        config.addinivalue_line("markers", f"{name}: of Keras")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leaves out what is excluded, and all but one part."""
    part, parts = map(int, os.environ.get("KERAS_OWN_PART", "0/1").split("/"))
    kept, left_out = [], []
    for item in items:
        is_excluded = any(fnmatch.fnmatch(item.nodeid, name) for name in EXCLUDED)
        is_in_part = zlib.crc32(item.name.encode()) % parts == part
        (left_out if is_excluded or not is_in_part else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _on_two_replicas() -> Any:
    assert tfdist.patch_keras("2xcpu") is _STRATEGY
    assert _STRATEGY.num_replicas_in_sync == 2
    yield
    tfdist.unpatch_keras()
