"""Which worker writes, where an unchanged program saves its model?

Every worker runs the program, so every worker saves. Reading a model may be a collective, in which
all have to take part. So all of them save: the chief to where the program says, the others to a
temporary folder, and then they wait for the chief, so that what follows finds the file.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfdist.communication.share import share_of
from tfdist.communication.together import written_together
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals

_METHODS = ("save", "save_weights", "export")
# The functions of Keras that save a model which is their first argument.
_FUNCTIONS = ((keras.saving, "save_model"), (keras.models, "save_model"),
              (keras.saving, "save_weights"))


@contextlib.contextmanager
def on_chief_alone() -> Iterator[None]:
    """Lets only the chief keep what models save, within a `with` block."""
    homes = [(keras.Model, name) for name in _METHODS]
    homes += [(home, name) for home, name in _FUNCTIONS if hasattr(home, name)]
    with contextlib.ExitStack() as stack:
        for home, name in homes:
            original = getattr(home, name)
            stack.callback(setattr, home, name, original)
            setattr(home, name, _saving(original))
        yield


def _saving(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save(model: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = keras_internals.made_under(model)
        if strategy is None or not share_of(strategy).has_others:
            return original(model, filepath, *args, **kwargs)

        def write(path: str) -> Any:
            return original(model, path, *args, **kwargs)

        return written_together(write, os.fspath(filepath), Workers(strategy))

    return save
