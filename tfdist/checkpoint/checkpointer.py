"""How is everything that makes up a run saved and restored?

Synopsis:

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> with Checkpointer(tempfile.mkdtemp(), keep=2) as checkpointer:
    ...     checkpointer.save(model, step=10, progress={"epoch": 3})
    ...     checkpointer.restore(model)
    {'epoch': 3}

`fit(..., checkpoint_dir=...)` does it by itself; this is for custom training loops. In one file,
since saving, restoring and cleaning up share the checkpoint being written in the background.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfdist.checkpoint import encrypted, manifest
from tfdist.checkpoint.contents import Saved, pack, read_files, unpack, write_files
from tfdist.checkpoint.folder_lock import claim
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.encryption import keys
from tfdist.step import variables

_LOG = logging.getLogger("tfdist")
_NO_RANK = float("inf")


class Checkpointer:
    """Saves everything that a run needs to go on as if nothing had happened.

    A checkpoint appears as a whole or not at all, and every byte of it is checked before it is
    used. If the newest one is damaged, that is logged, and the one before it is used. Checkpoints
    are written in the background, after their values were copied to the host's memory. Only the
    chief reads and writes, and sends the content to the others, so they need not see the folder.

    Args:
        directory: The run's own folder, on a mounted file system; made if it is missing.
        keep: How many of the newest checkpoints to keep; at least 1.
        best: A value of the logs, such as "min val_loss" or "max val_accuracy"; the checkpoint with
            the best one is kept as well.
        strategy: The strategy of the variables; by default that of the first model.
        encrypt_to: Public keys of age, "age1...", or paths of files of them, one a line: only
            holders of their identities can read the checkpoints. To go on from one, the chief needs
            such an identity, in the file that TFDIST_IDENTITY_FILE names. None: not encrypted.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        best: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
        encrypt_to: Any = None,
    ) -> None:
        if not isinstance(directory, (str, os.PathLike)):
            raise ValueError(
                f"checkpoint_dir={directory!r} is not a path. Give the name of a folder."
            )
        if "://" in os.fspath(directory):
            raise ValueError(
                f"checkpoint_dir={os.fspath(directory)!r} is an address. Give a folder of a "
                "mounted file system: a checkpoint becomes whole by the renaming of a folder."
            )
        if type(keep) is not int or keep < 1:
            raise ValueError(f"keep={keep!r} must be a whole number of checkpoints, from 1.")
        self.directory = pathlib.Path(directory).expanduser().absolute()
        self._keep, self._best = keep, _parse_best(best)
        self._encrypt_to = None if encrypt_to is None else keys.refuse_wrong(encrypt_to)
        self._recipients: list[Any] = []
        self._strategy = strategy
        self._bound: Workers | None = None
        self._claim: Any = None
        self._writer: concurrent.futures.ThreadPoolExecutor | None = None
        self._pending: concurrent.futures.Future[None] | None = None
        self._damaged: set[pathlib.Path] = set()

    @property
    def best_name(self) -> str | None:
        """The name of the log that decides which checkpoint is best, or None."""
        return self._best[1] if self._best else None

    @property
    def is_encrypted(self) -> bool:
        """Whether only holders of an identity can read its checkpoints."""
        return self._encrypt_to is not None

    @property
    def _workers(self) -> Workers:
        return self.bind()

    def save(
        self,
        *objects: Any,
        step: int,
        progress: Mapping[str, Any] | None = None,
        logs: Mapping[str, float] | None = None,
    ) -> None:
        """Saves variables, in the background. Every worker has to call it.

        Args:
            *objects: Keras models (with their optimizers and metrics), anything else with
                `variables`, or variables.
            step: Updates that the run has made.
            progress: Anything else to get back on restoring; has to fit into JSON.
            logs: The logs in which `best` is looked up.

        Raises:
            RuntimeError: The checkpoint before this one could not be written. Earlier checkpoints
                are not lost.
        """
        workers = self.bind(*objects)
        self.wait()
        tensors = variables.snapshot(variables.entries_of(*objects), workers)
        self.store(tensors, {"progress": dict(progress or {})}, step=step, logs=logs)

    def restore(self, *objects: Any, which: str = "newest") -> dict[str, Any] | None:
        """Sets variables to the values of a checkpoint. Every worker has to call it.

        Args:
            *objects: The same as given to `save`, in the same order.
            which: "newest" or "best".

        Returns:
            The `progress` that was saved, or None where there is no checkpoint.

        Raises:
            ValueError: The checkpoint is of other variables; the message names the difference.
            RuntimeError: There are checkpoints, but all of them are damaged.
        """
        workers = self.bind(*objects)
        saved = self.load(which=which)
        if saved is None:
            return None
        entries = variables.entries_of(*objects)
        tensors = saved.variables()
        saved.refuse(variables.differences(entries, tensors))
        variables.restore(entries, tensors, workers)
        return saved.plain.get("progress")

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
            RuntimeError: It could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, tf.errors.OpError) as error:
            whole = [folder.name for folder in manifest.list_checkpoints(self.directory)]
            reason = getattr(error, "message", None) or error
            raise RuntimeError(
                f"A checkpoint could not be written to {self.directory}: {reason}. What was saved "
                f"before is untouched: {', '.join(whole) or 'nothing'}. Make room or make it "
                "writable, and start the same command again."
            ) from error

    def close(self) -> None:
        """Waits as `wait` does, and releases the folder."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
            if self._claim is not None:
                self._claim.close()
            self._writer = self._claim = None

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self, *objects: Any) -> Workers:
        """Decides, once, on the strategy of these objects; returns its workers."""
        if self._bound is None:
            kind = keras_internals.trainer_class()
            models = [owner for owner in objects if isinstance(owner, kind)]
            made_under = keras_internals.made_under(models[0]) if models else None
            strategy = self._strategy or made_under or tf.distribute.get_strategy()
            self._bound = Workers(strategy)
        return self._bound

    def store(
        self,
        tensors: Mapping[str, Any],
        plain: Mapping[str, Any],
        *,
        step: int,
        facts: Mapping[str, Any] | None = None,
        logs: Mapping[str, float] | None = None,
    ) -> None:
        """Passes a checkpoint to the writer, on the chief; `tensors` must not change afterwards."""
        if not self._workers.is_chief:
            return
        writer = self._open()
        text = json.dumps(plain)
        value = (logs or {}).get(self._best[1]) if self._best else None
        facts = {**(facts or {}), "score": None if value is None else float(value)}
        self._pending = writer.submit(self._write, dict(tensors), text, step, facts)

    def load(self, *, which: str = "newest") -> Saved | None:
        """Reads a checkpoint on the chief, and sends it to all. Every worker has to call it."""
        if which not in ("newest", "best") or (which == "best" and self._best is None):
            raise ValueError(
                f"which={which!r} must be 'newest', or 'best' of a Checkpointer(..., best=...)."
            )
        self.wait()
        if not self._workers.has_others:
            return self._read(which)
        found, error = None, None
        if self._workers.is_chief:
            try:
                found = self._read(which)
            except (RuntimeError, ValueError, OSError, ImportError) as failure:
                error = failure  # the others wait for an answer
        payload = self._workers.from_chief(pack(found, error))
        if error is not None:
            raise error
        return unpack(payload)

    def _open(self) -> concurrent.futures.Executor:
        if self._writer is not None:
            return self._writer
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._claim = claim(self.directory)
            manifest.remove_leftovers(self.directory)
            self._settle_encryption()
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} is a file, or lies below one. Give the "
                "name of a folder."
            ) from error
        except OSError as error:
            raise RuntimeError(
                f"checkpoint_dir={str(self.directory)!r} cannot be written to: {error.strerror}. "
                "Give a folder in which the chief may make files."
            ) from error
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "tfdist-checkpoint")
        return self._writer

    def _settle_encryption(self) -> None:
        try:
            for folder in manifest.list_checkpoints(self.directory):
                self._refuse_other_kind(folder)
            if self._encrypt_to is not None:
                self._recipients = keys.recipients(self._encrypt_to)
        except (ValueError, ImportError):
            self._claim.close()
            raise

    def _refuse_other_kind(self, folder: pathlib.Path) -> None:
        is_encrypted = encrypted.is_encrypted(folder)
        if is_encrypted and not self.is_encrypted:
            raise ValueError(
                f"{folder} is encrypted, and this run would go on with checkpoints that are not. "
                "Give encrypt_to, or another checkpoint_dir."
            )
        if self.is_encrypted and not is_encrypted:
            raise ValueError(
                f"encrypt_to was given, and {folder} is a checkpoint that anybody can read. Give "
                "another checkpoint_dir, or remove the checkpoints in this one."
            )

    def _read(self, which: str) -> Saved | None:
        self._open()
        folders = manifest.list_checkpoints(self.directory)[::-1]
        if which == "best":  # a stable sort: the newest of equals comes first
            folders = sorted((f for f in folders if self._rank(f) < _NO_RANK), key=self._rank)
        identities = keys.identities() if self.is_encrypted and folders else []
        damages = []
        for folder in folders:
            try:
                facts = manifest.read_manifest(folder)
                if self.is_encrypted:
                    return encrypted.read(folder, facts, identities)
                return read_files(folder, facts)
            except keys.IdentityError:
                raise
            except ValueError as error:
                _LOG.warning(
                    "The checkpoint %s is damaged: %s. The one before it is used.", folder, error
                )
                self._damaged.add(folder)
                damages.append(f"{folder.name}: {error}")
        if damages:
            raise RuntimeError(
                f"None of the checkpoints in {self.directory} is whole ({'; '.join(damages)}). "
                "Restore the folder from a copy, or remove it to begin anew."
            )
        return None

    def _write(
        self, tensors: Mapping[str, Any], plain: str, step: int, facts: Mapping[str, Any]
    ) -> None:
        told = {"score": facts["score"], "encryption": "age"} if self.is_encrypted else facts

        def write(folder: pathlib.Path) -> None:
            if not self.is_encrypted:
                return write_files(folder, tensors, plain)
            return encrypted.write(
                folder, tensors, plain, step=step, facts=facts, recipients=self._recipients
            )

        manifest.publish(self.directory, write, step=step, facts=told)
        # Damaged checkpoints do not count, and are removed now that there is a new one.
        whole = [f for f in manifest.list_checkpoints(self.directory) if f not in self._damaged]
        best = [f for f in sorted(whole, key=self._rank)[:1] if self._rank(f) < _NO_RANK]
        manifest.remove_all_but(self.directory, [*whole[-self._keep :], *best])

    def _rank(self, folder: pathlib.Path) -> float:
        """Ranks checkpoints by `best`: the lower, the better."""
        score = manifest.peek(folder).get("score")
        if self._best is None or not isinstance(score, float) or score != score:
            return _NO_RANK
        return score if self._best[0] == "min" else -score


def _parse_best(best: str | None) -> tuple[str, str] | None:
    if best is None:
        return None
    order, _, name = best.partition(" ") if isinstance(best, str) else ("", "", "")
    if order not in ("min", "max") or not name.strip():
        raise ValueError(
            f"best={best!r} must be 'min' or 'max' and a name in the logs, such as 'min val_loss'."
        )
    return order, name.strip()
