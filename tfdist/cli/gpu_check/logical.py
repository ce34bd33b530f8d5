"""How does one GPU become two?  As logical devices, which TensorFlow takes for two GPUs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist.cli.gpu_check import card
from tfdist.cli.gpu_check.setting import Setting, physical_gpus

# What is known of no card is enough for the small models; a part of its memory is cuDNN's.
_SHARE, _MIB_UNKNOWN, _MOST_MIB = 0.35, 1536.0, 16384.0


def divide(setting: Setting) -> str:
    """Divides the GPU in two where there is only one; returns what there is then.

    To be called before TensorFlow starts.
    """
    gpus = physical_gpus()
    if len(gpus) > 1 and setting.is_gpu:
        return f"{len(gpus)} GPUs"
    whole = gpus[0] if setting.is_gpu else tf.config.list_physical_devices("CPU")[0]
    limit = min(_SHARE * (card.memory_mib() or _MIB_UNKNOWN / _SHARE), _MOST_MIB)
    part: Any = tf.config.LogicalDeviceConfiguration(limit if setting.is_gpu else None)
    tf.config.set_logical_device_configuration(whole, [part, part])
    return f"one GPU divided in two of {limit:.0f} MiB" if setting.is_gpu else "two logical CPUs"
