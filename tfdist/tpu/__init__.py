"""Will it train on a TPU that is not there?  preflight, lint, and a doctor for the one that is.

Synopsis:

    >>> import keras, tfdist
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="odd")])
    >>> model.compile("sgd", "mse")
    >>> for finding in tfdist.tpu.lint(model):
    ...     print(finding.rule, "-", finding.where)
    pads_badly - layer 'odd' (Dense)

Read in this order: scopes.py (which layer made an operation?), example.py (what is in a batch?),
program.py (what is the training step of fit, alone?), operations.py (which operations has it, and
who made each?), limits.py, linting.py (what in it does a TPU
do badly?), compiler_environment.py, compiler.py, compiler_process.py (who compiles it?), report.py,
preflighting.py (does it compile, and does it fit?), doctor.py (which TPU, image and TensorFlow are
here?).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.tpu.linting import Finding, lint
    from tfdist.tpu.preflighting import preflight
    from tfdist.tpu.report import Report

__all__ = ["Finding", "Report", "lint", "preflight"]

_MODULE_OF_NAME = {
    "Finding": "tfdist.tpu.linting",
    "Report": "tfdist.tpu.report",
    "lint": "tfdist.tpu.linting",
    "preflight": "tfdist.tpu.preflighting",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used: the doctor needs no TensorFlow."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'tfdist.tpu' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
