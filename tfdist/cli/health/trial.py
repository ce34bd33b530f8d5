"""Does TensorFlow start here, and what would be trained on?  Tried in a process that may crash.

    python -m tfdist.cli.health.trial DEVICE      prints a JSON object
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

_MARK = "tfdist trial: "
_LAST_LINES = 3
# With the import of TensorFlow, Keras and tfdist, and one multiplication.
SECS = 120.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """How TensorFlow started.

    Attributes:
        chosen: What `get_strategy` chose, and why, in lines.
        problem: Why it did not; "" where it did.
        cure: What to do then.
    """

    chosen: tuple[str, ...] = ()
    problem: str = ""
    cure: str = ""


def run_trial(device: str, *, timeout_secs: float = SECS) -> Trial:
    """Starts TensorFlow in a process of its own.

    Args:
        device: As in `tfdist.get_strategy`.
        timeout_secs: Longest time, in seconds.
    """
    environ = {"TF_CPP_MIN_LOG_LEVEL": "1", **os.environ}
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environ.pop("TF_CONFIG", None)  # this process alone is tried, without its peers
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tfdist.cli.health.trial", device], env=environ,
            capture_output=True, text=True, timeout=timeout_secs, check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(
            problem=f"TensorFlow has not started within {timeout_secs:g} s",
            cure="look whether a device or a network file system hangs, or give --trial_secs more.",
        )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Trial(chosen=tuple(json.loads(line.removeprefix(_MARK))))
    last = " / ".join(done.stderr.strip().splitlines()[-_LAST_LINES:]) or "it said nothing"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Trial(
            problem=f"TensorFlow ends its process by {name}: {last}",
            cure="see the rules above; else install TensorFlow into a new environment.",
        )
    return Trial(
        problem=f"TensorFlow does not start: {last}",
        cure="do what the last sentence says; else install TensorFlow into a new environment.",
    )


def main() -> None:
    """Runs in the process that may crash."""
    import tensorflow as tf

    from tfdist.strategy import factory

    strategy = factory.get_strategy(sys.argv[1], cluster=None)
    with strategy.scope():
        if float(tf.reduce_sum(tf.matmul(tf.ones([8, 8]), tf.ones([8, 8])))) != 512.0:
            raise RuntimeError("A sum of ones is wrong here. Do not train on this device.")
    print(_MARK + json.dumps(factory.describe(strategy).splitlines()))


if __name__ == "__main__":
    main()
