"""What does an unchanged program give to its first `fit`?  It is run that far, and no further.

What a command wants to know is asked in the place of that `fit`; then the program is ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfdist.launch import child


class _Enough(BaseException):
    """Ends a program once its first `fit` was looked at; no `except Exception` catches it."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found


def look_at_first_fit(
    program: str,
    arguments: Sequence[str],
    look: Callable[[Any, dict[str, Any]], Any],
    *,
    device: str,
    seed: int = 0,
) -> Any:
    """Runs a program up to its first `fit`, and returns what `look` makes of that.

    What the program prints goes to standard error, so that standard output is the command's own.

    Args:
        program: The path of a Python program.
        arguments: What it finds in `sys.argv`.
        look: Called with the `tfdist.Trainer` and the arguments of `fit` by their names.
        device: As in `patch_keras`.
        seed: Of everything that the program draws before it sets a seed itself.

    Raises:
        ValueError: The program never called `fit`.
    """
    import keras

    from tfdist.training import patching
    from tfdist.training.trainer import Trainer

    patching.patch_keras(device)
    keras.utils.set_random_seed(seed)
    fit = Trainer.fit

    def look_and_end(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        Trainer.fit = fit  # type: ignore[method-assign]
        found = look(trainer, {**dict(zip(("x", "y"), args, strict=False)), **kwargs})
        raise _Enough(found)

    Trainer.fit = look_and_end  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            child.run_script(program, list(arguments))
    except _Enough as enough:
        return enough.found
    finally:
        Trainer.fit = fit  # type: ignore[method-assign]
        patching.unpatch_keras()
    raise ValueError(
        f"{program} ended without a call of Keras's fit, so there are no steps to compare. Give a "
        "program that trains by fit."
    )


def sample_of(given: dict[str, Any]) -> tuple[Any, int]:
    """Returns `(batch, batch size)` of the arguments of a `fit`.

    Returns:
        `(x, y)` or `(x, y, sample_weight)` of some rows, as `fit` takes them, and the examples of
        a global batch.

    Raises:
        ValueError: The data is neither arrays, nor a `tf.data.Dataset` or a `PyDataset`.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    x, asked = given.get("x"), given.get("batch_size")
    if isinstance(x, tf.data.Dataset):
        batch = tuple(next(iter(x.take(1))))
    elif isinstance(x, keras.utils.PyDataset):
        batch = tuple(x[0])
    else:
        size = asked or 32
        leaves = keras.tree.flatten(x)
        if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
            raise ValueError(
                f"The first fit of the program trains on x={type(x).__name__}, which cannot be "
                "looked at without taking from it. Give arrays, a tf.data.Dataset or a PyDataset, "
                "or name a function with --target=module:function."
            )
        rows = [given.get(name) for name in ("x", "y", "sample_weight")]
        batch = tuple(
            keras.tree.map_structure(lambda leaf: np.asarray(leaf[:size]), part)
            for part in rows if part is not None
        )
        return batch, size
    return batch, int(keras.tree.flatten(batch[0])[0].shape[0])
