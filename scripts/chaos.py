"""Disturbs training at random moments, again and again, and looks whether it comes to no harm.

    python scripts/chaos.py --kills=5 --workers=2
    python scripts/chaos.py --kills=50 --workers=2 --epochs=20
    python scripts/chaos.py --kills=5 --workers=2 --how=kill,term,stop,disk,truncate
    python scripts/chaos.py --kills=5 --workers=2 --encrypt
    python scripts/chaos.py --kills=6 --workers=2:3 --how=lose,gain,pause,fork,junk,silent

It trains a small CNN with dropout and Adam on handwritten digits, once undisturbed, and once with a
checkpoint after every step and something done at random moments, of what disturbances.py has in
turn: what ends an attempt, what should not, and places of workers that go and come.

In the end all weights and the history have to be equal to the last bit, and a ledger, which is kept
by a metric inside the model, has to show that every epoch used each example exactly once. Where the
number of workers changes (--workers=MIN:MAX), weights and history are compared with those of one
device, in float64, to 1e-12. With --encrypt the checkpoints are encrypted, and no byte of a weight
may be found in them.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import disturbances
import numpy as np
from absl import app, flags

from tfdist import encryption, launch
from tfdist.cluster.contract import IDENTITY_FILE
from tfdist.launch.job import split_workers

_STEPS_AN_EPOCH = 23

_KILLS = flags.DEFINE_integer("kills", 5, "disturbances", lower_bound=0)
_HOW = flags.DEFINE_list(
    "how", ["kill"], f"what is done, in turn: any of {', '.join(disturbances.ALL)}"
)
_WORKERS = flags.DEFINE_string("workers", "2", "worker processes, or MIN:MAX of them")
_EPOCHS = flags.DEFINE_integer("epochs", 6, f"epochs of {_STEPS_AN_EPOCH} steps", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the moments, and of which worker it is")
_ENCRYPT = flags.DEFINE_bool("encrypt", False, "whether checkpoints are encrypted")
_SECS = flags.DEFINE_float("secs", 1e9, "longest time for disturbances; then it trains to its end")
flags.register_validator(
    "how", lambda names: set(names) <= set(disturbances.ALL),
    f"must be of {list(disturbances.ALL)}",
)

_PUBLIC_KEY = "public.key"  # in the folder of a run that is encrypted
_PATIENCE_SECS = 300.0  # for one attempt
_STALL_SECS = 30.0  # without a step of a worker; the first one is traced in it
_WAIT_SECS = 2.0  # for a lost place
_START_SECS = 2.0  # what a worker needs at least until its first step
_STEP_SECS = 0.05  # what a step and its checkpoint take at most, or nearly so
_SLOW_SECS = 0.5  # and a step while the workers are about to be asked to leave
_CLOSE = 1e-12


def train(folder: str | None, epochs: int, floatx: str) -> tuple[list[Any], dict[str, Any]]:
    """Trains on one worker; returns all variables, and the history."""
    import keras
    from keras import ops

    import tfdist

    class Ledger(keras.metrics.Metric):  # type: ignore[misc]  # as Keras wants a metric made
        """Counts how often an epoch used each example; its result is the largest error of that."""

        def __init__(self, num_examples: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.uses = self.add_variable((num_examples,), "zeros", name="uses")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            used = ops.one_hot(ops.cast(y_true[:, 1], "int32"), self.uses.shape[0])
            self.uses.assign_add(ops.cast(ops.sum(used, axis=0), self.uses.dtype))

        def result(self) -> Any:
            return ops.max(ops.abs(self.uses - 1.0))

    cluster = tfdist.detect_cluster()
    rank = cluster.rank if cluster else 0

    class Obey(keras.callbacks.Callback):  # type: ignore[misc]
        """Does what chaos.py has asked this worker for."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if folder is not None:
                disturbances.fork_if_asked(pathlib.Path(folder))
                if pathlib.Path(folder, "slow").exists():
                    time.sleep(_SLOW_SECS)

    if folder is not None:
        path = pathlib.Path(folder, f"worker-{rank}")
        path.with_name(f".worker-{rank}").write_text(str(os.getpid()))
        path.with_name(f".worker-{rank}").replace(path)
    keras.config.set_floatx(floatx)
    strategy = tfdist.get_strategy("cpu")
    keras.utils.set_random_seed(1)
    (x, y), _ = tfdist.datasets.load_digits()
    x, y = (x / 16.0).astype(floatx)[..., np.newaxis], np.stack([y, np.arange(len(y))], axis=1)
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
    key = pathlib.Path(folder, _PUBLIC_KEY) if folder else pathlib.Path(os.devnull)
    history = tfdist.fit(
        model, x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[Obey()],
        checkpoint_dir=f"{folder}/run" if folder else None, save_every=1 if folder else None,
        encrypt_to=key if key.is_file() else None,
    )
    variables = [*model.variables, *model.optimizer.variables]
    return [np.asarray(variable.value) for variable in variables], history.history


class Chaos:
    """The disturbances of a whole run, one after the other.

    Args:
        folder: Where the workers leave word of themselves, and find what they should do.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._chance = folder, random.Random(_SEED.value)
        self._fewest, self._most = split_workers(_WORKERS.value)
        self.places = self._most
        self.write_places()
        self.done: list[str] = []
        self.counts = dict.fromkeys(("while a checkpoint was written", "hangs", "wrong blame"), 0)
        self.fatal: tuple[str, int] | None = None  # what has ended this launch, and whose worker
        self._is_over = threading.Event()
        self._until = time.monotonic() + _SECS.value
        self.said = io.StringIO()  # by the launcher and the workers

    def write_places(self) -> None:
        """Tells the launcher for how many workers there are places."""
        path = self._folder / "places"
        path.with_suffix(".part").write_text(f"localhost:{self.places}\n")
        path.with_suffix(".part").replace(path)

    @property
    def is_late(self) -> bool:
        """Whether the time for disturbances is over."""
        return time.monotonic() > self._until

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Disturbs a launch of the job within the block."""
        self._is_over.clear()
        self.fatal, self.said = None, io.StringIO()
        for note in self._folder.glob("worker-*"):
            note.unlink()
        thread = threading.Thread(target=self._disturb, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _disturb(self) -> None:
        while len(self.done) < _KILLS.value and not self.fatal and not self.is_late:
            how = self._possible(_HOW.value[len(self.done) % len(_HOW.value)])
            rank = 0 if how == "disk" else self._chance.randrange(self.places)
            if not self._await_moment(how, rank):
                return
            pid = disturbances.living(self._folder).get(rank)
            if pid is None:
                continue  # it has just ended: a new one will come
            if how in disturbances.ELASTIC or (how == "term" and self._fewest):
                self._change_workers(how, rank, pid)
            else:
                self.fatal = (how, rank) if how in disturbances.FATAL else None
                disturbances.act(how, pid, folder=self._folder)
            self.done.append(f"{how} worker {rank} at step {newest_step(self._folder)}")
            print(f"{len(self.done)}: {self.done[-1]}", flush=True)

    def _possible(self, how: str) -> str:
        if how in ("lose", "take") and self.places <= (self._fewest or self._most):
            return "gain"
        return "lose" if how == "gain" and self.places == self._most else how

    def _await_moment(self, how: str, rank: int) -> bool:
        """Waits for a random moment; returns False where the launch has ended before."""
        # Most die while they train, some while they start.
        is_in_training = self._chance.random() < 0.8 or how != "kill"
        # Counted in steps, of which enough are left for all that is still to come on any machine.
        most_steps = _STEPS_AN_EPOCH * _EPOCHS.value // (2 * (_KILLS.value + 1))
        steps = self._chance.randint(1, max(1, most_steps)) if is_in_training else 0
        secs = self._chance.uniform(0, _STEP_SECS if is_in_training else _START_SECS)
        first = newest_step(self._folder)
        while (
            len(disturbances.living(self._folder)) < self.places
            or newest_step(self._folder) - first < steps
        ):
            if self._is_over.wait(0.002):
                return False
        return not self._is_over.wait(secs)

    def _change_workers(self, how: str, rank: int, pid: int) -> None:
        """Does what ends no launch of an elastic job, and waits until the new workers are there."""
        before = disturbances.living(self._folder)
        if how in ("take", "gain"):  # the workers are asked some seconds later
            (self._folder / "slow").touch()
        self.places += {"gain": 1, "term": 0}.get(how, -1)
        place = len(self.said.getvalue())
        self.write_places()
        if how in ("lose", "term"):
            disturbances.act(how, pid, folder=self._folder)
        until = time.monotonic() + _PATIENCE_SECS
        while time.monotonic() < until and not self._is_over.wait(0.05):
            now = disturbances.living(self._folder)
            if len(now) == self.places and not set(now.values()) & set(before.values()):
                break
        (self._folder / "slow").unlink(missing_ok=True)
        self.blame(how, rank, self.said.getvalue()[place:])

    def blame(self, how: str, rank: int, said: str) -> None:
        """Counts what the launcher has said wrongly."""
        if not disturbances.blames(how, rank, said):
            self.counts["wrong blame"] += 1
            print(f"WRONG BLAME of {how} of worker {rank}:\n{said}", flush=True)

    def after(self, error: RuntimeError | None) -> None:
        """Looks at how a launch has ended that was disturbed."""
        torn = len(list((self._folder / "run").glob(".writing-*")))
        self.counts["while a checkpoint was written"] += bool(torn)
        said = str(error)
        if "timeout_secs=" in said.partition("\n")[0]:
            self.counts["hangs"] += 1
        if self.fatal is None:
            self.counts["wrong blame"] += 1
            print(f"NOTHING WAS DONE, and the job failed:\n{said}\n{self.said.getvalue()[-3000:]}")
            return
        self.blame(*self.fatal, said)
        cut = cut_newest(self._folder, self._chance) if self.fatal[0] == "truncate" else ""
        print(f"   {said.splitlines()[0][-150:]}; newest: {newest(self._folder)}{cut}", flush=True)


class Tee(io.TextIOBase):
    """Keeps what is written to a stream, too."""

    def __init__(self, stream: Any, kept: io.StringIO) -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        self._kept.write(text)
        return int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()


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


def disturbed(folder: pathlib.Path, floatx: str) -> tuple[Any, Chaos]:
    """Trains on and on; returns what the workers returned."""
    chaos = Chaos(folder)
    if _ENCRYPT.value:
        (folder / _PUBLIC_KEY).write_text(encryption.new_identity(folder / "identity"))
        os.environ[IDENTITY_FILE] = str(folder / "identity")
    elastic: dict[str, Any] = {}
    if ":" in _WORKERS.value:
        elastic = {"wait_secs": _WAIT_SECS, "discover_hosts": f"cat {folder}/places"}
    failed = 0
    while failed <= _KILLS.value + 3:
        try:
            with chaos.during(), contextlib.redirect_stderr(Tee(sys.stderr, chaos.said)):
                args = (str(folder), _EPOCHS.value, floatx)
                results = launch.run(
                    train, workers=_WORKERS.value, args=args,
                    timeout_secs=_PATIENCE_SECS * (_KILLS.value + 1 if elastic else 1),
                    stall_secs=_STALL_SECS * (2 if elastic else 1), **elastic,
                )
            return results, chaos
        except RuntimeError as error:
            failed += 1
            chaos.after(error)
    raise RuntimeError(f"The job has failed {failed} times, more often than it was disturbed.")


def main(argv: list[str]) -> None:
    """Compares a run with disturbances to one without."""
    if len(argv) > 1:
        raise app.UsageError(f"This takes flags alone, not {argv[1:]}.")
    is_elastic = ":" in _WORKERS.value
    floatx = "float64" if is_elastic else "float32"
    workers = 1 if is_elastic else int(_WORKERS.value)
    weights, history = launch.run(train, workers=workers, args=(None, _EPOCHS.value, floatx))[0]
    with tempfile.TemporaryDirectory() as folder:
        results, chaos = disturbed(pathlib.Path(folder), floatx)
        readable = _readable(pathlib.Path(folder, "run"), results[0][0])
    is_same = _is_close if is_elastic else _is_equal
    exactly = "to 1e-12 of one device" if is_elastic else "bit for bit"
    kills = len(chaos.done)
    losses = {
        "all workers end with the same": all(
            _is_equal(result[0], results[0][0]) and result[1] == results[0][1] for result in results
        ),
        f"weights and optimizer equal {exactly}": is_same(results[0][0], weights),
        "the history is the same": results[0][1].keys() == history.keys()
        and all(is_same(results[0][1][name], history[name]) for name in history),
        "each epoch used each example once": results[0][1]["ledger"] == [0.0] * _EPOCHS.value,
    }
    checks = losses | {
        f"{kills} times it was disturbed ({', '.join(_HOW.value)})": kills == _KILLS.value
        or chaos.is_late,
        "nothing hung": not chaos.counts["hangs"],
        "the right worker was named": not chaos.counts["wrong blame"],
    }
    if _ENCRYPT.value:
        checks["no weight could be read in the checkpoints"] = not readable
    counts = "; ".join(f"{name}: {count}" for name, count in chaos.counts.items())
    print(f"disturbances: {kills}; losses: {list(losses.values()).count(False)}; {counts}")
    for text, is_so in checks.items():
        print(f"{'yes' if is_so else 'NO '}  {text}")
    sys.exit(0 if all(checks.values()) else 1)


def _readable(folder: pathlib.Path, variables: list[Any]) -> list[pathlib.Path]:
    """Returns the files in which 64 bytes of a variable are found as they are."""
    marks = [np.asarray(one).tobytes()[-64:] for one in variables if np.asarray(one).nbytes >= 64]
    return [
        path for path in folder.rglob("*")
        if path.is_file() and any(mark in path.read_bytes() for mark in marks)
    ]  # fmt: skip


def _is_equal(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(np.array_equal, some, others))


def _is_close(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE)
        for one, other in zip(some, others, strict=True)
    )


if __name__ == "__main__":
    app.run(main)
