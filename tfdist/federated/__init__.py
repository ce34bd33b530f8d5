"""How is a model trained on data that stays where it is, with its clients?

Synopsis:

    >>> import keras, numpy as np
    >>> from tfdist import federated
    >>> def build():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> clients = {name: (np.ones((4, 2)), np.ones(4)) for name in ("site a", "site b", "site c")}
    >>> trained = federated.fit(build, clients, rounds=2, fraction=0.5, device="cpu", verbose=0)
    >>> len(trained.history["loss"])
    2

Read in this order; each file imports from those above it only:

1. messages.py: how do a server and its clients write to each other?
2. clients.py: who are the clients, what data has each, and who takes part in a round?
3. task.py: what is a client asked to do in a round?
4. averaging.py: what is the mean of the clients' changes?
5. draws.py: what does a client draw?
6. learner.py: how does one model train for many clients?
7. site.py: what does a client do when the server asks?
8. channel.py: how does the server reach its clients?
9. over_workers.py: how do the workers of a job share the clients?
10. collecting.py: how does the server get the sum of what its clients have learnt?
11. server.py: what does the server do with the mean of its clients' changes?
12. rounds.py: how does a round go?
13. kept.py: how is a run of rounds kept, so that it goes on after a stop?
14. outcome.py: what has come of a federated training?
15. telling.py: who is told of the rounds?
16. fitting.py: how is a model trained on data that stays with its clients?
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.federated.clients import Unavailable
    from tfdist.federated.fitting import fit
    from tfdist.federated.outcome import Federated

__all__ = ["Federated", "Unavailable", "fit"]

_MODULE_OF_NAME = {
    "Federated": "tfdist.federated.outcome",
    "Unavailable": "tfdist.federated.clients",
    "fit": "tfdist.federated.fitting",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
