"""How does the process have another seed for a while, without drawing anything with it?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tfdist.compat.keras_internals import module


@contextlib.contextmanager
def with_random_seed(seed: int) -> Iterator[None]:
    """Lets `keras_internals.random_seed` return another seed, and draws nothing with it."""
    name = module("keras.src.utils.rng_utils").GLOBAL_RANDOM_SEED
    of_this_thread = vars(module("keras.src.backend.common.global_state").GLOBAL_STATE_TRACKER)
    before = of_this_thread.get(name)
    of_this_thread[name] = seed
    try:
        yield
    finally:
        of_this_thread[name] = before
