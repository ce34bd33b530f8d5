"""Which collectives does this TensorFlow have between two devices?  Those of a sharded optimizer.

Each is an operation of its own on both devices at once, of numbers whose outcome is known. Where
one has no implementation TensorFlow ends all collectives of its process, so the one that is known
to have none on CPUs comes last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.cli.gpu_check import logical
from tfdist.cli.gpu_check.rows import FOUND, LEFT_OUT, OK, WRONG, Row
from tfdist.cli.gpu_check.setting import Setting, physical_gpus

_SECS = 20.0
_A = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)  # what device 0 sends; device 1 sends -_A
# Without these no step has a sum, and no table of embeddings; the others would make it faster.
_NEEDED = ("a sum", "a gather")
#: Name, and what arrives at the two devices.
PROBES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "a sum": (0 * _A, 0 * _A),
    "a maximum": (_A, _A),
    "a gather": (np.concatenate([_A, -_A]), np.concatenate([_A, -_A])),
    "all to all": (np.stack([_A[0], -_A[0]]), np.stack([_A[1], -_A[1]])),
    "reduce-scatter": (0 * _A[:1], 0 * _A[:1]),
}


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    yield Row(FOUND, "two devices", logical.divide(setting))
    kind = setting.kind.upper()
    devices = [f"/{kind}:0", f"/{kind}:1"]
    tf.config.list_logical_devices()  # starts TensorFlow, once and not in two threads
    has_nccl = setting.is_gpu and len(physical_gpus()) > 1
    yield from of_hint("nccl" if has_nccl else "ring", devices)


def of_hint(hint: str, devices: list[str]) -> Iterator[Row]:
    """Gives a row for each collective.

    Args:
        hint: "ring" or "nccl".
        devices: Two of them.
    """
    is_over = ""
    for key, (name, expected) in enumerate(PROBES.items(), start=1):
        what = f"{name} over {hint}"
        if is_over:
            yield Row(LEFT_OUT, what, f"since {is_over} has ended all collectives here")
            continue
        came = _exchanged(name, devices, hint, key)
        problems = [str(one) for one in came if not isinstance(one, np.ndarray)]
        if problems:
            is_over = name
            verdict = WRONG if name in _NEEDED else FOUND
            yield Row(verdict, what, f"this TensorFlow has none: {problems[0][:160]}")
        elif all(np.array_equal(*pair) for pair in zip(came, expected, strict=True)):
            yield Row(OK, what, "the right numbers at both")
        else:
            yield Row(WRONG, what, f"{[one.tolist() for one in came]}")


def _exchanged(name: str, devices: list[str], hint: str, key: int) -> list[Any]:
    """Returns what has arrived at each device: an array, or an error."""
    found: list[Any] = [f"nothing came within {_SECS:g} s"] * len(devices)

    def send(index: int) -> None:
        try:
            with tf.device(devices[index]):
                own = tf.constant(-_A if index else _A)
                found[index] = _operation(name, own, hint, key).numpy()
        except Exception as error:  # it is told
            found[index] = " ".join(str(error).split()).rpartition("}} ")[2]

    threads = [
        threading.Thread(target=send, args=(index,), daemon=True) for index in range(len(devices))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECS)
    return found


def _operation(name: str, own: Any, hint: str, key: int) -> Any:
    given: dict[str, Any] = {
        "input": own, "group_size": 2, "group_key": key, "instance_key": key,
        "ordering_token": [], "communication_hint": hint, "timeout_seconds": _SECS / 2,
    }
    made = tf.raw_ops
    operations: dict[str, Callable[[], Any]] = {
        "a sum": lambda: made.CollectiveReduceV2(merge_op="Add", final_op="Id", **given),
        "a maximum": lambda: made.CollectiveReduceV2(merge_op="Max", final_op="Id", **given),
        "a gather": lambda: made.CollectiveGatherV2(**given),
        "all to all": lambda: made.CollectiveAllToAllV2(**given),
        "reduce-scatter": lambda: made.CollectiveReduceScatterV2(
            merge_op="Add", final_op="Id", **given
        ),
    }
    return operations[name]()
