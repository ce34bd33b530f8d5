"""Disturbs training at random moments, again and again, and looks whether it comes to no harm.

    python scripts/chaos.py --kills=5 --workers=2
    python scripts/chaos.py --kills=50 --workers=2 --epochs=20
    python scripts/chaos.py --kills=5 --workers=2 --how=kill,term,stop,disk,truncate

It trains a small CNN with dropout and Adam on handwritten digits, once undisturbed, and once with a
checkpoint after every step and something done to a random worker at a random moment of each
attempt, of these in turn:

    kill      SIGKILL: while it starts, in the midst of a step or an epoch, while it saves
    term      SIGTERM to one worker alone: all save at the same step and leave
    stop      SIGSTOP: it hangs, and is missed
    disk      no more room for a checkpoint, on the chief
    truncate  SIGKILL, and a file of the newest checkpoint is cut short before the next attempt

In the end all weights and the history have to be equal to the last bit, and a ledger, which is kept
by a metric inside the model, has to show that every epoch used each example exactly once.
"""

from __future__ import annotations

import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from typing import Any

from absl import app, flags

from tfdist import launch

# What is done, and what the launcher then says of the attempt.
HOW = {
    "kill": "killed by SIGKILL",
    "term": "preempted: ",
    "stop": "",  # silence, a stall or, where it is ended in the end, a signal
    "disk": "could not be written to",
    "truncate": "killed by SIGKILL",
}

_STEPS_AN_EPOCH = 23

_KILLS = flags.DEFINE_integer("kills", 5, "disturbances, one an attempt", lower_bound=0)
_HOW = flags.DEFINE_list("how", ["kill"], f"what is done, in turn: any of {', '.join(HOW)}")
_WORKERS = flags.DEFINE_integer("workers", 2, "worker processes", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 6, f"epochs of {_STEPS_AN_EPOCH} steps", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the moments, and of which worker it is")
flags.register_validator("how", lambda names: set(names) <= set(HOW), f"must be of {list(HOW)}")

_PATIENCE_SECS = 300.0  # for one attempt
_STALL_SECS = 30.0  # without a step; the first one is traced in it
_START_SECS = 2.0  # what a worker needs at least until its first step
_STEP_SECS = 0.05  # what a step and its checkpoint take at most, or nearly so
_ROOM_BYTES = 20_000  # of a full disk: too little for the weights, enough for an error's text


def train(folder: str | None, attempt: int, epochs: int) -> tuple[list[str], dict[str, Any]]:
    """Trains on one worker; returns a digest of each variable, and the history."""
    import hashlib

    import keras
    import numpy as np
    from keras import ops

    import tfdist

    class Ledger(keras.metrics.Metric):  # type: ignore[misc]  # as Keras wants a metric made
        """Counts how often an epoch used each example; its result is the largest error of that."""

        def __init__(self, num_examples: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.uses = self.add_variable((num_examples,), "zeros", name="uses")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            used = ops.one_hot(ops.cast(y_true[:, 1], "int32"), self.uses.shape[0])
            self.uses.assign_add(ops.sum(used, axis=0))

        def result(self) -> Any:
            return ops.max(ops.abs(self.uses - 1.0))

    cluster = tfdist.detect_cluster()
    rank = cluster.rank if cluster else 0
    if folder is not None:
        pathlib.Path(folder, f"worker-{attempt}-{rank}").write_text(str(os.getpid()))
    strategy = tfdist.get_strategy("cpu")
    keras.utils.set_random_seed(1)
    (x, y), _ = tfdist.datasets.load_digits()
    x, y = (x / 16.0).astype(np.float32)[..., np.newaxis], np.stack([y, np.arange(len(y))], axis=1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(16, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(2e-3),
            loss=lambda y, p: keras.losses.sparse_categorical_crossentropy(y[:, 0], p),
            metrics=[Ledger(len(y), name="ledger")],
        )
    history = tfdist.fit(
        model, x, y, batch_size=64, epochs=epochs, verbose=0,
        checkpoint_dir=f"{folder}/run" if folder else None, save_every=1 if folder else None,
    )
    variables = [*model.variables, *model.optimizer.variables]
    digests = [hashlib.sha256(np.asarray(v.value).tobytes()).hexdigest() for v in variables]
    return digests, history.history


class Disturber(threading.Thread):
    """Does something to one worker of one attempt at a random moment.

    Args:
        how: What; one of HOW.
        folder: Where the workers leave word of themselves.
        attempt: Number of the attempt.
        chance: Where the moment and the worker are drawn from.
    """

    def __init__(
        self, how: str, folder: pathlib.Path, attempt: int, chance: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self.how, self._folder, self._first = how, folder, newest_step(folder)
        rank = 0 if how == "disk" else chance.randrange(_WORKERS.value)
        self._note = folder / f"worker-{attempt}-{rank}"
        # Most die while they train, some while they start.
        is_in_training = chance.random() < 0.8 or how != "kill"
        # Counted in steps, of which enough are left for all that is still to come on any machine.
        most_steps = _STEPS_AN_EPOCH * _EPOCHS.value // (2 * (_KILLS.value + 1))
        self._steps = chance.randint(1, max(1, most_steps)) if is_in_training else 0
        self._secs = chance.uniform(0, _STEP_SECS if is_in_training else _START_SECS)
        self.is_over = threading.Event()
        self.said = ""

    def run(self) -> None:
        while not self._note.exists() or newest_step(self._folder) - self._first < self._steps:
            if self.is_over.wait(0.001):
                return
        if self.is_over.wait(self._secs):
            return
        self._act(int(self._note.read_text()))
        done = newest_step(self._folder) - self._first
        self.said = f"{self.how} {self._note.name} after {done} more steps"

    def _act(self, pid: int) -> None:
        if self.how == "disk":
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (_ROOM_BYTES, most))
        else:
            numbers = {"term": signal.SIGTERM, "stop": signal.SIGSTOP}
            os.kill(pid, numbers.get(self.how, signal.SIGKILL))

def newest(folder: pathlib.Path) -> str:
    """Returns the name of the newest checkpoint; "none" where there is none."""
    return max((path.name for path in (folder / "run").glob("0*")), default="none")


def newest_step(folder: pathlib.Path) -> int:
    """Returns the number of the newest checkpoint's last step; -1 where there is none."""
    name = newest(folder)
    return -1 if name == "none" else int(name.rpartition("-")[2])


def cut_newest(folder: pathlib.Path, chance: random.Random) -> str:
    """Cuts a file of the newest checkpoint short; leaves the only one that there is alone."""
    found = sorted((folder / "run").glob("0*"))
    if len(found) < 2:
        return "; nothing could be cut"
    path = chance.choice(sorted(found[-1].iterdir()))
    size = path.stat().st_size
    left = chance.randrange(size)
    os.truncate(path, left)
    return f"; {found[-1].name}/{path.name} was cut to {left} of {size} bytes"


def attempt_one(folder: pathlib.Path, attempt: int, disturber: Disturber | None) -> Any:
    """Runs the job once; returns what the workers returned, or None where one was disturbed."""
    if disturber is not None:
        disturber.start()
    try:
        return launch.run(
            train,
            workers=_WORKERS.value,
            args=(str(folder), attempt, _EPOCHS.value),
            timeout_secs=_PATIENCE_SECS,
            stall_secs=_STALL_SECS,
        )
    except RuntimeError as error:
        if disturber is None or not disturber.said or HOW[disturber.how] not in str(error):
            raise  # nothing was done, or something else has happened: this is a fault
        disturber.said += f": {str(error).splitlines()[0][-150:]}"
        return None
    finally:
        if disturber is not None:
            disturber.is_over.set()
            disturber.join()


def disturbed(folder: pathlib.Path) -> tuple[Any, int, int]:
    """Trains on and on; returns what the workers returned, and disturbances: all, while writing."""
    chance = random.Random(_SEED.value)
    kills = while_writing = attempt = 0
    while True:
        attempt += 1
        how = _HOW.value[kills % len(_HOW.value)]
        is_next = kills < _KILLS.value
        disturber = Disturber(how, folder, attempt, chance) if is_next else None
        before = time.monotonic()
        results = attempt_one(folder, attempt, disturber)
        torn = len(list((folder / "run").glob(".writing-*")))
        if results is not None:
            return results, kills, while_writing
        kills, while_writing = kills + 1, while_writing + bool(torn)
        print(
            f"{kills}: {disturber.said if disturber else ''}; attempt took "
            f"{time.monotonic() - before:.0f} s; newest checkpoint: {newest(folder)}"
            f"{'; a checkpoint was being written' if torn else ''}"
            f"{cut_newest(folder, chance) if how == 'truncate' else ''}",
            flush=True,
        )


def main(argv: list[str]) -> None:
    """Compares a run with disturbances to one without."""
    if len(argv) > 1:
        raise app.UsageError(f"This takes flags alone, not {argv[1:]}.")
    undisturbed = launch.run(train, workers=_WORKERS.value, args=(None, 0, _EPOCHS.value))[0]
    with tempfile.TemporaryDirectory() as folder:
        results, kills, while_writing = disturbed(pathlib.Path(folder))
    weights, history = undisturbed
    checks = {
        f"{_KILLS.value} times a worker was disturbed ({', '.join(_HOW.value)})": (
            kills == _KILLS.value
        ),
        "all workers end with the same": all(result == results[0] for result in results),
        "weights and optimizer equal bit for bit": results[0][0] == weights,
        "the history is the same": results[0][1] == history,
        "each epoch used each example once": results[0][1]["ledger"] == [0.0] * _EPOCHS.value,
    }
    print(f"kills: {kills}, of them {while_writing} while a checkpoint was written")
    for text, is_so in checks.items():
        print(f"{'yes' if is_so else 'NO '}  {text}")
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    app.run(main)
