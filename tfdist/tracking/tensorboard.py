"""How does TensorBoard show a run?  From event files, which `tf.summary` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tfdist.tracking.tracker import Value


class TensorBoard:
    """A tracker that writes scalars and texts for `tensorboard --logdir=FOLDER`.

    A resumed run adds a file to the folder, and its curves go on. Unlike
    `keras.callbacks.TensorBoard` it knows the speed, restarts and checks, and no weights.

    Args:
        log_dir: The folder; it is made where it is not there.
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "tensorboard") -> None:
        self._log_dir = os.path.abspath(os.path.expanduser(log_dir))
        self._writer: Any = None
        self._step = 0

    def start(self, config: Mapping[str, Any]) -> None:
        """Tells what the run is made of; see `Tracker`."""
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(self._log_dir)
        text = json.dumps(config, indent=1, default=repr)
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown's for code
        self.log({"run/config": indented}, int(config.get("begins_at_step", 0)))

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Tells numbers and texts; see `Tracker`."""
        import tensorflow as tf

        self._step = step
        with self._writer.as_default():
            for name, value in values.items():
                kind = tf.summary.text if isinstance(value, str) else tf.summary.scalar
                kind(name, value, step=step)
        self._writer.flush()

    def finish(self, status: str) -> None:
        """Tells how the run ended; see `Tracker`."""
        self.log({"run/status": status}, self._step)
        self._writer.close()
