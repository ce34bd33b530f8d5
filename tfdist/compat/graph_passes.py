"""Which of TensorFlow's passes over the graph of a loop are left out?

Before a function runs for the first time, TensorFlow rewrites its graph in a dozen passes, twice.
Two of them take a third of that time, and leave the graph of a step on CPUs as it is: one moves
what does not fit the memory of a GPU, and one infers shapes again and moves operations into
branches, which are no functions any more by then. Those that make a step faster stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.compat.keras_internals import module


def without_idle(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a loop whose traced functions are rewritten without passes that change nothing.

    Args:
        loop: Calls traced functions. With any device but CPUs it is returned as it is.
    """
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return loop
    eager = module("tensorflow.python.eager.context")
    given: Any = None
    lighter: Any = None

    @functools.wraps(loop)
    def run(*args: Any) -> Any:
        nonlocal given, lighter
        context = eager.context()
        before = context.function_call_options
        if before is not given:  # the first call, or `tf.config` has changed them
            given, lighter = before, _lighter(eager, before)
        context.function_call_options = lighter
        try:
            return loop(*args)
        finally:
            if context.function_call_options is lighter:
                context.function_call_options = before

    return run


def _lighter(eager: Any, options: Any) -> Any:
    """Returns the options of a function call, with the two passes left out."""
    config = tf.compat.v1.ConfigProto.FromString(options.config_proto_serialized)
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriting.NO_MEM_OPT
    rewriting.disable_tfg_optimizer = True
    return eager.FunctionCallOptions(executor_type=options.executor_type, config_proto=config)
