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
2. secure/: how does a server learn the sum of its clients' numbers, and nothing else of them?
3. clients.py: who are the clients, what data has each, and who takes part in a round?
4. task.py: what is a client asked to do in a round?
5. averaging.py: what is the mean of the clients' changes?
6. user_privacy.py: how does a model learn from clients without telling which took part?
7. draws.py: what does a client draw?
8. learner.py: how does one model train for many clients?
9. site.py: what does a client do when the server asks?
10. channel.py: how does the server reach its clients?
11. over_workers.py: how do the workers of a job share the clients?
12. collecting.py: how does the server get the sum of what its clients have learnt, as it is?
13. secure_sums.py: how does it get the sum, and see nothing else of it?
14. server.py: what does the server do with the mean of its clients' changes?
15. rounds.py: how does a round go?
16. joint_options.py: which options need or exclude each other?
17. record/: what is kept and told of a run?
18. fitting.py: how is a model trained on data that stays with its clients?
19. flower.py: how does Flower deploy what tfdist trains?
20. sites/: how are a server and clients of different sites connected?
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.federated.clients import Unavailable
    from tfdist.federated.fitting import fit
    from tfdist.federated.record.outcome import Federated
    from tfdist.federated.secure.keys import Identity
    from tfdist.federated.secure_sums import SecureSums
    from tfdist.federated.sites.joining import join
    from tfdist.federated.sites.serving import serve
    from tfdist.federated.sites.tls import TLS
    from tfdist.federated.user_privacy import UserPrivacy

__all__ = [
    "Federated",
    "Identity",
    "SecureSums",
    "TLS",
    "Unavailable",
    "UserPrivacy",
    "fit",
    "join",
    "serve",
]

_MODULE_OF_NAME = {
    "Federated": "tfdist.federated.record.outcome",
    "Identity": "tfdist.federated.secure.keys",
    "SecureSums": "tfdist.federated.secure_sums",
    "TLS": "tfdist.federated.sites.tls",
    "Unavailable": "tfdist.federated.clients",
    "UserPrivacy": "tfdist.federated.user_privacy",
    "fit": "tfdist.federated.fitting",
    "join": "tfdist.federated.sites.joining",
    "serve": "tfdist.federated.sites.serving",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used."""
    if name == "flower":
        return importlib.import_module("tfdist.federated.flower")
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
