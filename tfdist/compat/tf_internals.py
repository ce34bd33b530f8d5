"""Which private names of TensorFlow does tfdist depend on?

The counterpart of keras_internals.py. If tfdist can do without a name, its absence is not an error
here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfdist.compat.keras_internals import module


@contextlib.contextmanager
def default_replica_mode() -> Iterator[None]:
    """Runs a block as if no strategy were in scope, wherever it is.

    Keras's optimizers update mirrored variables correctly only there: inside a scope they refuse,
    and in replica context they sum the gradients again.
    """
    lib = module("tensorflow.python.distribute.distribute_lib")
    lib._push_per_thread_mode(lib._get_default_replica_mode())
    try:
        yield
    finally:
        lib._pop_per_thread_mode()


def is_recording() -> bool:
    """Tells whether a gradient tape of this thread may record what is done now."""
    return bool(module("tensorflow.python.eager.record").could_possibly_record())


def reduces_on_one_device(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether a strategy sums by copies to one device, without collective operations."""
    operations = getattr(strategy.extended, "_cross_device_ops", None)
    return isinstance(operations, tf.distribute.ReductionToOneDevice)


@dataclasses.dataclass(frozen=True)
class Launcher:
    """What a collective operation of a worker of one replica needs, besides its input.

    Attributes:
        device: Where it runs.
        keys: Returns the arguments by which the workers' operations find each other. Each call is
            another operation; all workers have to make the same calls.
    """

    device: str
    keys: Callable[[], dict[str, Any]]


def launcher_of(strategy: tf.distribute.Strategy) -> Launcher | None:
    """Returns what TensorFlow's own sums of a strategy of several workers are launched with.

    Returns:
        None where a worker has several replicas, and where a release of TensorFlow does not tell.
    """
    operations: Any = getattr(strategy.extended, "_cross_device_ops", None)
    launchers: Any = getattr(operations, "_launchers", ())
    one: Any = launchers[0] if len(launchers) == 1 else None
    names = ("_group_size", "_group_key", "_next_instance_key", "_device")
    if not all(hasattr(one, name) for name in names):
        return None

    def keys() -> dict[str, Any]:
        return {
            "group_size": one._group_size, "group_key": one._group_key,
            "instance_key": one._next_instance_key(), "ordering_token": [],
            "communication_hint": "auto",
        }

    return Launcher(one._device, keys)


def run_independently(operation: tf.Operation) -> None:
    """Lets an operation of a function that is being traced begin as soon as its inputs are there.

    Operations with effects otherwise run one after the other, in the order of their tracing. It
    runs before the function returns, as they do.
    """
    manager = getattr(operation.graph, "experimental_acd_manager", None)
    if manager is not None:
        manager.run_independently(operation)


def collective_context() -> Any:
    """Returns the object whose `enable_collective_ops(server_def)` starts a worker's server."""
    return module("tensorflow.python.eager.context").context()


def explain_failing_variables(
    strategy: tf.distribute.Strategy, explained: Callable[[str, str], Exception]
) -> None:
    """Lets a strategy say why a variable could not be made together with the other workers.

    Args:
        strategy: Of several workers, whose chief sends them each variable's initial value.
        explained: Takes the variable's name, and what TensorFlow says; returns what is raised.
    """
    extended: Any = strategy.extended
    create = getattr(extended, "_create_variable", None)
    if create is None:
        return

    def create_variable(next_creator: Any, **kwargs: Any) -> Any:
        try:
            return create(next_creator, **kwargs)
        except tf.errors.OpError as error:
            is_of_type = "Value for attr 'T'" in error.message  # which cannot be sent at all
            if "ollective" not in error.message or is_of_type:
                raise
            cause = error.message.partition("aborted by: ")[2] or error.message
            raise explained(str(kwargs.get("name")), cause.splitlines()[0]) from error

    extended._create_variable = create_variable


# What a variable's initial value travels as, where TensorFlow's broadcast does not take its type.
_CARRIERS = {
    tf.int8: tf.int32, tf.uint8: tf.int32, tf.int16: tf.int32, tf.uint16: tf.int32,
    tf.bfloat16: tf.float32,
}  # fmt: skip


def send_small_types(strategy: tf.distribute.Strategy) -> None:
    """Lets the workers of a strategy make variables of int8 and the like together.

    TensorFlow's chief sends the others each variable's initial value, and cannot send those of some
    types, of which quantized weights are. They travel as a wider type, which holds each value.
    """
    extended: Any = strategy.extended
    make = getattr(extended, "_get_variable_creator_initial_value", None)
    if make is None:
        return

    def creator(*, replica_id: int, device: Any, primary_var: Any, **kwargs: Any) -> Any:
        given = kwargs["initial_value"]
        dtype = kwargs.get("dtype") or getattr(given, "dtype", None)
        carrier = None if dtype is None else _CARRIERS.get(tf.as_dtype(dtype))
        place = {"replica_id": replica_id, "device": device, "primary_var": primary_var}
        if carrier is None or replica_id != 0:  # the others copy that of the first on their worker
            return make(**place, **kwargs)

        def widened() -> tf.Tensor:
            value = given() if callable(given) else given
            value = getattr(value, "wrapped_value", value)  # of a checkpoint that is restored
            return tf.cast(tf.convert_to_tensor(value, dtype), carrier)

        sent = make(**place, **{**kwargs, "initial_value": widened, "dtype": carrier})
        return lambda: tf.cast(sent(), dtype)

    extended._get_variable_creator_initial_value = creator


def has_kernel(operation: str) -> bool:
    """Tells whether this TensorFlow can run an operation at all.

    If TensorFlow does not tell, the answer is yes: running the operation will show it.
    """
    try:
        kernels = importlib.import_module("tensorflow.python.framework.kernels")
        return len(kernels.get_registered_kernels_for_op(operation).kernel) > 0
    except (ImportError, AttributeError):
        return True


def initialized_tpus() -> tuple[str, ...]:
    """Returns the addresses of the TPUs that this process has initialized; () if unknown."""
    try:
        tpus = importlib.import_module("tensorflow.python.tpu.tpu_strategy_util")
        return tuple(tpus.get_initialized_tpu_systems())
    except (ImportError, AttributeError):
        return ()


def bodies_of(graph: Any) -> list[Any]:
    """Returns the operations of a `GraphDef`, and those of each function in its library."""
    return [graph.node, *(function.node_def for function in graph.library.function)]


def iterator_resource(iterator: Any) -> tf.Tensor:
    """Returns the handle by which TensorFlow's operations know an iterator."""
    return iterator._iterator_resource
