"""What does Keras's bar write where nobody watches it grow?

Into a file or a pipe Keras writes its bar twenty times a second, one state behind the other, on a
line that has no end. There the bar becomes a line a minute, and one at the end of each epoch.
Under tfdist's launcher it stays as it is, since the launcher shows what its workers write by the
same rule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from tfdist.cluster import contract
from tfdist.compat import keras_internals

SECS = 60.0
_BEGINNINGS = ("on_epoch_begin", "on_test_begin", "on_predict_begin")


def write_lines(callbacks: Iterable[Any], *, secs: float = SECS) -> None:
    """Makes Keras's bars write a line every so many seconds, unless somebody watches them.

    Args:
        callbacks: Those of a run, of which `ProgbarLogger`s are changed.
        secs: Seconds between two lines.
    """
    if is_watched(sys.stdout, sys.modules, os.environ):
        return
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            for name in _BEGINNINGS:
                setattr(callback, name, _then_lines(callback, getattr(callback, name), secs))


def is_watched(stream: Any, modules: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether a bar is drawn over itself there: on a terminal, in a notebook, by the launcher.

    Args:
        stream: Where Keras writes.
        modules: Those that are imported.
        environ: The environment.
    """
    is_terminal = hasattr(stream, "isatty") and stream.isatty()
    is_notebook = "ipykernel" in modules or "PYCHARM_HOSTED" in environ  # as Keras tells them
    return is_terminal or is_notebook or contract.RANK in environ


def _then_lines(bar: Any, begin: Callable[..., None], secs: float) -> Callable[..., None]:
    def begin_with_lines(*args: Any, **kwargs: Any) -> None:
        begin(*args, **kwargs)
        if bar.progbar is not None:
            keras_internals.write_lines(bar.progbar, secs=secs)

    return begin_with_lines
