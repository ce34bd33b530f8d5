"""What is the largest batch that trains here?  Tried in processes that may run out of memory.

Synopsis:

    python -c "import my_module, tfdist; print(tfdist.find_batch_size(my_module.model, x, y))"

Each size is tried in its own process: the caller's process is not affected, and a size that is too
large ends only that process.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist import launch
from tfdist.diagnostics import batch_search, memory_limit
from tfdist.sharding import adopting
from tfdist.strategy import factory
from tfdist.training.trainer import trainer_of

_SAMPLED_ROWS = 64  # sent to the processes, which repeat them
_EPOCHS = 3  # steps of one try: the first creates the optimizer's state, later ones need it all
_AVAILABLE_SHARE = 0.9


def find_batch_size(
    model: keras.Model | Callable[[], keras.Model],
    x: Any,
    y: Any = None,
    *,
    device: str = "auto",
    start: int = 32,
    precision: float = 0.1,
    memory_limit_bytes: int | None = None,
    sharded_optimizer: bool = False,
    timeout_secs: float = 600.0,
) -> int:
    """Returns the largest global batch that trains, by trying: fourfold, then halving the gap.

    The model itself is not trained: other processes train a copy, saved and loaded by Keras. Long
    training needs more memory than a few steps show (prefetched batches, validation, checkpoints):
    leave some room.

    Args:
        model: A compiled model, or a function without arguments that returns one, called in the
            strategy's scope: the way for what Keras cannot save.
        x: Arrays, as in `fit`; a batch is no larger than they are.
        y: Targets.
        device: What to train on; see `get_strategy`. With GPUs, look for a batch size before this
            process has taken their memory.
        start: Where to begin: examples per step, summed over all replicas.
        precision: How far below the largest size the answer may be, as a fraction of it.
        memory_limit_bytes: Memory that a process may use, including TensorFlow; by default 90 % of
            what is available on this host. Only on Linux.
        sharded_optimizer: As in `fit`.
        timeout_secs: Longest time for one size, in seconds.

    Returns:
        Examples per step, summed over all replicas.

    Raises:
        ValueError: An argument is out of its range, or the model was not compiled.
        RuntimeError: Not even one example trains, or training fails for another reason; the message
            contains the traceback.
    """
    rows = _rows(x)
    if start < 1 or not 0 < precision < 1:
        raise ValueError(
            f"start={start!r} must be 1 or more, and precision={precision!r} between 0 and 1."
        )
    if memory_limit_bytes is None:
        available = memory_limit.available_bytes()
        memory_limit_bytes = None if available is None else int(_AVAILABLE_SHARE * available)
    sample = _of_arrays(lambda array: np.asarray(array[:_SAMPLED_ROWS]), (x, y))
    with tempfile.TemporaryDirectory(prefix="tfdist-") as folder:
        source = model if not isinstance(model, keras.Model) else _saved(model, folder)
        mark = str(pathlib.Path(folder) / "trying")

        def fits(size: int) -> bool:
            options = {
                "device": device, "limit": memory_limit_bytes, "floatx": _floatx(),
                "fit": {"sharded_optimizer": sharded_optimizer},
            }
            args = (source, sample, size, mark, options)
            return _fits(args, timeout_secs=timeout_secs)

        found = batch_search.largest(
            fits, start=min(start, rows), unit=1, precision=precision, most=rows
        )
    if found is None:
        raise RuntimeError(
            f"Not one example trains with memory_limit_bytes={memory_limit_bytes!r}. Make the "
            "model or its inputs smaller, or give it more memory."
        )
    return found


def try_batch(
    source: Any, sample: Any, size: int, mark: str, options: dict[str, Any]
) -> bool:
    """Trains a few steps in this process, and tells whether memory was enough.

    Args:
        source: A function that makes the model, or the path of a saved one.
        sample: `(x, y)`, some rows each.
        size: The global batch.
        mark: File that exists while running out of memory is expected.
        options: `device`, `limit` in bytes or None, `floatx`, and `fit`, for `fit` itself.
    """
    keras.config.set_floatx(options["floatx"])
    made = factory.get_strategy(options["device"], cluster=None)
    with made.scope():
        model = keras.models.load_model(source) if isinstance(source, str) else source()
    if options["fit"]["sharded_optimizer"] and model.optimizer.built:
        # Keras loads an optimizer with all states, which `fit` would hold beside their parts.
        adopting.adopt(model, made, is_wanted=True)
    pathlib.Path(mark).touch()
    try:
        with memory_limit.limited(options["limit"]):
            x, y = _of_arrays(
                lambda rows: np.take(rows, np.arange(size) % len(rows), axis=0), sample
            )
            trainer_of(model).fit(
                x, y, batch_size=size, epochs=_EPOCHS, shuffle=False, verbose=0, **options["fit"]
            )
    except (tf.errors.ResourceExhaustedError, MemoryError):
        return False
    except BaseException:
        pathlib.Path(mark).unlink()
        raise
    return True


def _fits(args: tuple[Any, ...], *, timeout_secs: float) -> bool:
    mark = pathlib.Path(args[3])
    mark.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        [value] = launch.run(try_batch, workers=1, args=args, timeout_secs=timeout_secs)
    except RuntimeError:
        # TensorFlow aborts where it cannot raise, and the system kills what takes too much.
        if mark.exists() and time.monotonic() - start < timeout_secs:
            return False
        raise
    return bool(value)


def _of_arrays(function: Callable[[Any], Any], structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )


def _rows(x: Any) -> int:
    leaves = [leaf for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape") and leaf.shape]
    if not leaves or not len(leaves[0]):
        raise ValueError(
            f"x={type(x).__name__} holds no arrays of examples. Give NumPy arrays, of which the "
            "rows are repeated, and not a dataset."
        )
    return len(leaves[0])


def _saved(model: keras.Model, folder: str) -> str:
    if not model.compiled:
        raise ValueError("The model is not compiled, so nothing trains it. Call model.compile.")
    path = str(pathlib.Path(folder) / "model.keras")
    model.save(path)
    return path


def _floatx() -> str:
    return str(keras.config.floatx())
