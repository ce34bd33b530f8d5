"""How is a run of rounds kept, so that it goes on after a stop as if nothing had happened?

A checkpoint after each round holds the server's weights, the states of its optimizer, what stays
with each client where the job carries it, and what was told of each round. Clients train from the
server's weights with fresh optimizers and seeds of their round, so there is nothing else to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.checkpoint.checkpointer import Checkpointer
from tfdist.federated.rounds import Progress
from tfdist.federated.server import Server

_VALUES, _STATE, _LOCAL = "values/", "server optimizer/", "local/"


class Kept:
    """The checkpoints of a run, on the chief.

    Args:
        checkpoint_dir: The folder, or a `Checkpointer`, or None for none.
        facts: What must be the same when the run goes on: plain values.
    """

    def __init__(self, checkpoint_dir: Any, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)
        self._is_own = not isinstance(checkpoint_dir, Checkpointer)
        self._checkpointer: Checkpointer | None = checkpoint_dir
        if checkpoint_dir is not None and self._is_own:
            strategy = tf.distribute.OneDeviceStrategy("/cpu:0")  # the chief's alone
            self._checkpointer = Checkpointer(checkpoint_dir, strategy=strategy)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        if self._checkpointer is not None:
            self._checkpointer.close() if self._is_own else self._checkpointer.wait()

    def restore(self, server: Server) -> Progress:
        """Returns what the newest checkpoint has come to, and sets the server to it.

        Raises:
            ValueError: It is of another run; the message names the difference.
        """
        saved = self._checkpointer.load() if self._checkpointer is not None else None
        if saved is None:
            return Progress()
        before, now = saved.facts.get("federated", {}), self._facts
        saved.refuse([
            f"{name}: {before.get(name, 'absent')!r} in the checkpoint, {now.get(name)!r} here"
            for name in dict.fromkeys([*now, *before])
            if before.get(name, "absent") != now.get(name, "absent")
        ])
        values = _with_prefix(saved.arrays, _VALUES)
        wanted = {name: value.shape for name, value in server.values.items()}
        found = {name: value.shape for name, value in values.items()}
        saved.refuse([
            f"{name}: {found.get(name, 'absent')} in the checkpoint, {wanted.get(name)} here"
            for name in dict.fromkeys([*wanted, *found])
            if wanted.get(name) != found.get(name)
        ])
        server.restore(values, _with_prefix(saved.arrays, _STATE))
        local: dict[str, dict[str, np.ndarray]] = {}
        for number, client in enumerate(saved.plain["local"]):
            local[client] = _with_prefix(saved.arrays, f"{_LOCAL}{number}/")
        return Progress(saved.plain["done"], saved.plain["told"], local)

    def save(self, server: Server, progress: Progress) -> None:
        """Saves after a round, in the background."""
        if self._checkpointer is None:
            return
        self._checkpointer.wait()
        tensors = {_VALUES + name: value for name, value in server.values.items()}
        tensors |= {_STATE + name: value for name, value in server.state().items()}
        for number, client in enumerate(sorted(progress.local)):
            of_client = progress.local[client]
            tensors |= {f"{_LOCAL}{number}/{name}": value for name, value in of_client.items()}
        plain = {
            "done": progress.done, "told": list(progress.told), "local": sorted(progress.local)
        }
        self._checkpointer.store(
            tensors, plain, step=progress.done, facts={"federated": self._facts}
        )


def _with_prefix(arrays: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): np.asarray(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
