"""How does a model learn from data without telling whose they were?

Synopsis:

    >>> from tfdist import privacy
    >>> step = privacy.Mechanism(1.1, sampling_probability=256 / 60_000)
    >>> round(privacy.epsilon([(step, 2340)], delta=1e-5), 2)
    0.92

Read in this order; each file imports from those above it only:

1. accountant.py: how much privacy has been spent, and how much noise a promise needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.privacy.accountant import Mechanism, epsilon, noise_multiplier

__all__ = ["Mechanism", "epsilon", "noise_multiplier"]

_MODULE_OF_NAME = {
    "Mechanism": "tfdist.privacy.accountant",
    "epsilon": "tfdist.privacy.accountant",
    "noise_multiplier": "tfdist.privacy.accountant",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
