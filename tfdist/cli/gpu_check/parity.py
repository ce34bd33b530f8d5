"""Does one device give what a CPU gives?  For each type, with the error that its rounding explains.

The oracle is stock Keras on the CPU in float64, which a process without GPUs has trained before.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from tfdist.cli.gpu_check import training
from tfdist.cli.gpu_check.models import small_cases
from tfdist.cli.gpu_check.rows import LEFT_OUT, Row, judged, told_of
from tfdist.cli.gpu_check.setting import Setting


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type of numbers, and how exact it is.

    Attributes:
        name: As it is told.
        policy: Keras's name of it.
        limit: The largest error, in units of the largest change of a weight in nine steps. At least
            ten times what the rounding of this type gave on a CPU, and far below 1, which is the
            size of a mistake. TensorFloat-32 has as many digits as float16, and its limit.
        has_tf32: Whether products of float32 are rounded to TensorFloat-32 first.
        has_xla: Whether XLA compiles the step.
    """

    name: str
    policy: str
    limit: float
    has_tf32: bool = False
    has_xla: bool = False


KINDS = (
    Kind("float64", "float64", 1e-9),
    Kind("float32, TF32 off", "float32", 2e-4),
    Kind("float32, TF32 on", "float32", 3e-2, has_tf32=True),
    Kind("mixed_bfloat16, XLA", "mixed_bfloat16", 2e-1, has_tf32=True, has_xla=True),
    Kind("mixed_float16, XLA", "mixed_float16", 3e-2, has_tf32=True, has_xla=True),
)
FLOAT32 = KINDS[1]


def oracles(setting: Setting) -> Iterator[Row]:
    """Trains the oracles, and leaves them in the setting's folder."""
    if tf.config.list_logical_devices("GPU"):
        raise RuntimeError("The oracles see a GPU. Report this: they belong on the CPU.")
    for name, case in small_cases().items():
        training.by_keras(case).save(pathlib.Path(setting.folder, f"{name}.npz"))
    yield from ()


def oracle(setting: Setting, name: str) -> training.Weights:
    """Returns what `oracles` has left of a case."""
    return training.load(pathlib.Path(setting.folder, f"{name}.npz"))


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    for kind in KINDS:
        tf.config.experimental.enable_tensor_float_32_execution(kind.has_tf32)
        for name, case in small_cases().items():
            what = f"{name} on one {setting.kind}, {kind.name}"
            if kind.name.endswith("TF32 on") and not setting.is_gpu:
                yield Row(LEFT_OUT, what, "a CPU has no TensorFloat-32")
                continue
            if kind.has_xla and not case.has_xla:
                yield Row(LEFT_OUT, what, "XLA has no cuDNN kernel of it")
                continue
            expected = oracle(setting, name)
            try:
                found = training.by_tfdist(
                    case, expected.before, device=setting.one, policy=kind.policy,
                    has_xla=kind.has_xla,
                )
            except Exception as error:  # of whatever kind: the other rows are wanted too
                yield told_of(what, error)
                continue
            yield judged(what, expected.off(found), limit=kind.limit)
