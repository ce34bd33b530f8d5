"""How does a model learn from data without telling whose they were?

Synopsis:

    >>> from tfdist import privacy
    >>> step = privacy.Mechanism(1.1, sampling_probability=256 / 60_000)
    >>> round(privacy.epsilon([(step, 2340)], delta=1e-5), 2)
    0.92

Read in this order; each file imports from those above it only:

1. accountant.py: how much privacy has been spent, and how much noise a promise needs.
2. dpsgd.py: what is asked of private training.
3. allowed.py: what can be trained privately, and beside which options.
4. draws.py: what is drawn in a step, and from which secret.
5. sampling.py: which examples are in a step.
6. factors.py: the norms of each example's gradients, and their sum, without the gradients.
7. recording.py: what went into each layer, and what came out of it.
8. layer_rules.py: the rule for the gradients of each example, for a layer.
9. ruled.py: whether all layers of a model have one.
10. ghost.py: how the gradients of all examples are clipped and summed at once.
11. one_by_one.py: how they are, one after the other.
12. pieces.py: how a batch is computed that the memory does not hold at once.
13. update.py: one private update of the weights.
14. mixing.py: whether a model treats each example by itself.
15. ledger.py: what a model has spent.
16. anonymity.py: among how many alike a row of a table stands.
17. pseudonyms.py: what stands in the place of a name, a number and a date.
18. rules.py: what happens to which column of a table.
19. parquet_tables.py: how Parquet files are written anew.
20. tables.py: how a table is made such that others can train on it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.privacy.accountant import Mechanism, epsilon, noise_multiplier
    from tfdist.privacy.anonymity import Anonymity, k_anonymity
    from tfdist.privacy.dpsgd import DPSGD
    from tfdist.privacy.tables import pseudonymise

__all__ = [
    "DPSGD",
    "Anonymity",
    "Mechanism",
    "epsilon",
    "k_anonymity",
    "noise_multiplier",
    "pseudonymise",
]

_MODULE_OF_NAME = {
    "Anonymity": "tfdist.privacy.anonymity",
    "DPSGD": "tfdist.privacy.dpsgd",
    "Mechanism": "tfdist.privacy.accountant",
    "epsilon": "tfdist.privacy.accountant",
    "k_anonymity": "tfdist.privacy.anonymity",
    "noise_multiplier": "tfdist.privacy.accountant",
    "pseudonymise": "tfdist.privacy.tables",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
