"""How long does a step take, without what a call of `fit` begins with?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def time_fit(
    make: Callable[[], Any], batch_size: int, steps: int, device: str, **options: Any
) -> tuple[float, Any]:
    """Runs on each worker: returns the seconds of a step, and the model.

    The difference between a long and a short call of `fit`, divided by the steps between them.

    Args:
        make: Returns `(build_fn, x, y)`.
        batch_size: The global batch.
        steps: By which the calls differ.
        device: As in `get_strategy`.
        **options: Of `fit`.
    """
    import keras
    import numpy as np

    from tfdist.strategy import factory
    from tfdist.training import fitting

    build_fn, x, y = make()
    with factory.get_strategy(device).scope():
        model = build_fn()

    def rows(count: int) -> Any:
        wanted = np.arange(count * batch_size)
        return keras.tree.map_structure(lambda leaf: np.take(leaf, wanted % len(leaf), 0), (x, y))

    short, long = rows(2), rows(2 + steps)
    secs = []
    for x_now, y_now in (short, short, long):
        start = time.perf_counter()
        fitting.fit(
            model, x_now, y_now, batch_size=batch_size, shuffle=False, verbose=0, **options
        )
        secs.append(time.perf_counter() - start)
    return max(secs[2] - secs[1], 1e-9) / steps, model
