"""What is the state of the process's own random number generators?

These are Python's `random`, `numpy.random`, and the generator behind `keras.random` without a seed:
what callbacks, data sets and custom layers draw from. (TensorFlow's stateful operations, such as
`tf.random.uniform`, keep their state inside the runtime, which does not expose it.)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, tf_internals

_OF_WORKERS = "random/python_and_numpy"  # one row of bytes a worker
_OF_KERAS = "random/keras"
_WORDS = 624 + 1  # of a Mersenne Twister, and its index into them
_NO_INDEX = 9999


def settle(strategy: tf.distribute.Strategy) -> None:
    """Creates Keras's generator if it is missing, so that steps use it, and it is saved."""
    if keras_internals.global_seed_generator() is None:
        before = random.getstate()  # creating it draws its seed from `random`
        with strategy.scope():
            keras_internals.make_global_seed_generator()
        random.setstate(before)


def take(workers: Workers) -> dict[str, np.ndarray]:
    """Returns the states of all generators on all workers; every worker has to call it."""
    own = _own_row().tobytes()
    rows = workers.row_of_each(own, length=len(own))
    of_keras = keras_internals.global_seed_generator()
    return {_OF_WORKERS: rows} | ({_OF_KERAS: np.asarray(of_keras.state)} if of_keras else {})


def give(arrays: Mapping[str, np.ndarray], workers: Workers) -> None:
    """Restores the states that `take` returned; a new worker gets the chief's."""
    rows = arrays[_OF_WORKERS]
    _put(rows[workers.rank if workers.rank < len(rows) else 0])
    if _OF_KERAS in arrays:
        with workers.strategy.scope():
            of_keras = keras_internals.make_global_seed_generator()
        with tf_internals.default_replica_mode():
            of_keras.state.assign(arrays[_OF_KERAS])


def _own_row() -> np.ndarray:
    _, words, gauss = random.getstate()
    of_numpy: Any = np.random.get_state(legacy=False)
    twister = of_numpy["state"]
    if of_numpy["bit_generator"] != "MT19937":  # the user's choice, and the user's to save
        of_numpy, twister = {"has_gauss": 0, "gauss": 0.0}, {"key": [0] * 624, "pos": _NO_INDEX}
    gausses = [gauss is not None, gauss or 0.0, of_numpy["has_gauss"], of_numpy["gauss"]]
    parts = (
        np.array(words, np.uint32),
        np.append(twister["key"], twister["pos"]).astype(np.uint32),
        np.array(gausses, np.float64),
    )
    return np.concatenate([part.view(np.uint8) for part in parts])


def _put(row: np.ndarray) -> None:
    row = np.ascontiguousarray(row)
    words = row[: 8 * _WORDS].view(np.uint32)
    has_gauss, gauss, numpy_has_gauss, numpy_gauss = row[8 * _WORDS :].view(np.float64)
    random.setstate((3, tuple(words[:_WORDS].tolist()), float(gauss) if has_gauss else None))
    keys, index = words[_WORDS:-1], int(words[-1])
    if index != _NO_INDEX:
        np.random.set_state(("MT19937", keys, index, int(numpy_has_gauss), float(numpy_gauss)))
