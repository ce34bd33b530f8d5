"""Which private names of Keras and TensorFlow does tfdist lean on? These, and no others.

Everything that is not public API is reached through this file, so that a new release is one file
to read. Each entry is probed for at first use, by name and not by version number: a release that
nobody has tried yet works as long as the names do what they did.

Checked with Keras 3.10 to 3.15 and TensorFlow 2.18 to 2.21.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

# ---- Keras: what a step replaces while it is traced ------------------------------------------

_PLACES = {
    # Called by the trainer, the losses and `compute_loss`; looked up in the module at each call.
    "scale_loss_for_distribution": "keras.src.losses.loss",
    "unscale_loss_for_distribution": "keras.src.losses.loss",
    "reduce_values": "keras.src.losses.loss",
    "apply_mask": "keras.src.losses.loss",
    "Loss.__call__": "keras.src.losses.loss",
    "reduce_weighted_values": "keras.src.losses.loss",
    "MetricsList.update_state": "keras.src.trainers.compile_utils",
    "Layer.add_loss": "keras.src.layers.layer",
    "reduce_to_samplewise_values": "keras.src.metrics.reduction_metrics",
    "MeanMetricWrapper.update_state": "keras.src.metrics.reduction_metrics",
    # The statistics of a synchronized BatchNormalization.
    "_compute_moments_sync": "keras.src.backend.tensorflow.nn",
    "BatchNormalization._moments": "keras.src.layers.normalization.batch_normalization",
    # The drawing functions of the TensorFlow backend, and what they ask for a seed.
    "draw_seed": "keras.src.backend.tensorflow.random",
    "categorical": "keras.src.backend.tensorflow.random",
    "uniform": "keras.src.backend.tensorflow.random",
    "normal": "keras.src.backend.tensorflow.random",
    "dropout": "keras.src.backend.tensorflow.random",
    "randint": "keras.src.backend.tensorflow.random",
    "truncated_normal": "keras.src.backend.tensorflow.random",
    "gamma": "keras.src.backend.tensorflow.random",
    "binomial": "keras.src.backend.tensorflow.random",
    "beta": "keras.src.backend.tensorflow.random",
    "shuffle": "keras.src.backend.tensorflow.random",
}
_replacing = threading.RLock()


def module(name: str) -> Any:
    """Returns a private module; raises an ImportError that says what the release lacks."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(_moved(name)) from error


def original(name: str) -> Callable[..., Any]:
    """Returns Keras's own function of one of the replaceable names."""
    home, attribute = _home(name)
    if not hasattr(home, attribute):
        raise ImportError(_moved(f"{_PLACES[name]}.{name}"))
    return getattr(home, attribute)


def _home(name: str) -> tuple[Any, str]:
    """Returns the module or class that a replaceable name stands in, and its last part."""
    *classes, attribute = name.split(".")
    home = module(_PLACES[name])
    for part in classes:
        if not hasattr(home, part):
            raise ImportError(_moved(f"{_PLACES[name]}.{part}"))
        home = getattr(home, part)
    return home, attribute


def _moved(name: str) -> str:
    return (
        f"Keras {keras.__version__} has no {name!r}, which tfdist needs for exact losses and "
        "metrics on several replicas. Install a Keras release that tfdist was checked with "
        "(3.10 to 3.15), or a newer tfdist."
    )


@contextlib.contextmanager
def replaced(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Puts `functions` in the place of Keras's functions of these names for a `with` block.

    The block is the tracing of one step. Losses and `add_loss` values are kept apart by thread
    meanwhile: MirroredStrategy traces each replica in a thread of its own, and its replicas take
    turns at every collective, while a layer has one list of losses for all of them.
    """
    with _replacing, contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.callback(setattr, *_home(name), original(name))
            setattr(*_home(name), function)
        for attribute, make in (("_losses", list), ("_loss_ids", set)):
            stack.callback(delattr, keras.layers.Layer, attribute)
            setattr(keras.layers.Layer, attribute, _per_thread(attribute, make))
        yield


@contextlib.contextmanager
def replaced_apply(apply: Callable[..., Any]) -> Iterator[None]:
    """Routes every optimizer's `apply` through `apply(original, optimizer, grads, variables)`."""
    base = module("keras.src.optimizers.base_optimizer").BaseOptimizer
    with _replacing, contextlib.ExitStack() as stack:
        for kind in (base, keras.optimizers.LossScaleOptimizer):
            stack.callback(setattr, kind, "apply", kind.apply)
            kind.apply = _routed(apply, kind.apply)
        yield


@contextlib.contextmanager
def without_reduction(optimizer: Any) -> Iterator[None]:
    """Makes `optimizer.apply`, called by a replica, update by that replica's own gradients."""
    name = "_all_reduce_sum_gradients"
    if not hasattr(optimizer, name):
        raise ImportError(_moved(f"{type(optimizer).__name__}.{name}"))
    with _replacing:
        vars(optimizer)[name] = list
        try:
            yield
        finally:
            del vars(optimizer)[name]


def _routed(apply: Callable[..., Any], original_apply: Callable[..., Any]) -> Callable[..., Any]:
    def method(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
        return apply(original_apply, optimizer, grads, trainable_variables)

    return method


def _per_thread(attribute: str, make: Callable[[], Any]) -> property:
    values: dict[tuple[int, int], Any] = {}

    def get(layer: Any) -> Any:
        return values.setdefault((id(layer), threading.get_ident()), make())

    def put(layer: Any, value: Any) -> None:  # a layer that is made during the trace
        layer.__dict__[attribute] = value

    return property(get, put)


# ---- Keras: the trainer's own helpers --------------------------------------------------------


def compute_loss(model: keras.Model, **kwargs: Any) -> Any:
    """Calls `model.compute_loss`, also where it was overridden without a `training` argument."""
    return model._compute_loss(**kwargs)


def call(model: keras.Model, x: Any, *, training: bool) -> Any:
    """Calls the model as Keras's own steps do."""
    return model(x, training=training) if model._call_has_training_arg else model(x)


def loss_tracker(model: keras.Model) -> Any:
    """Returns the `Mean` behind the reported loss."""
    return model._loss_tracker


def overrides(model: keras.Model, method: str) -> bool:
    """Tells whether a subclass or the instance brings a `method` of its own."""
    trainer = module("keras.src.backend.tensorflow.trainer").TensorFlowTrainer
    return getattr(type(model), method) is not getattr(trainer, method) or method in vars(model)


def accumulators(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Returns the variables in which a built optimizer adds up gradients, in that order."""
    sums = optimizer._accumulated_gradients
    return [sums[optimizer._get_variable_index(variable)] for variable in variables]


def settings_of(optimizer: Any) -> tuple[Any, Any]:
    """Returns the variables that count an optimizer's calls, and hold its learning rate if any."""
    return optimizer._iterations, getattr(optimizer, "_learning_rate", None)


def flat_layers(model: keras.Model) -> list[Any]:
    """Returns the model and all layers in it, nested ones included."""
    return list(model._flatten_layers())


def reduction_axes(layer: Any) -> Any:
    """Returns the axes over which a BatchNormalization takes its moments."""
    return layer._reduction_axes


def made_under(model: keras.Model) -> tf.distribute.Strategy | None:
    """Returns the strategy in whose scope the model was made, or None."""
    return model._distribute_strategy


def assert_compiled(model: keras.Model, method: str) -> None:
    """Raises Keras's own ValueError where `compile` was not called."""
    model._assert_compile_called(method)


def symbolic_build(model: keras.Model, batch: Any) -> None:
    """Creates all variables of the model, its losses, metrics and optimizer.

    Args:
        model: A compiled model.
        batch: Structure of tensors or tensor specs like one batch: `x`, `(x, y)`, or
            `(x, y, sample_weight)`.
    """
    model._symbolic_build(data_batch=batch)


def flat_results(model: keras.Model, logs: Mapping[str, Any]) -> Any:
    """Orders `logs` as `evaluate` returns them without `return_dict`."""
    return model._flatten_metrics_in_order(logs)


def is_validation_epoch(model: keras.Model, epoch: int, validation_freq: Any) -> bool:
    """Tells whether `validation_freq` asks for a validation after this epoch (from 0)."""
    return model._should_eval(epoch, validation_freq)


def restored_epoch(model: keras.Model) -> int:
    """Takes the number of epochs that a callback has found done; 0 where none says so."""
    epoch, model._initial_epoch = getattr(model, "_initial_epoch", None), None
    return epoch or 0


def data_adapter(**kwargs: Any) -> Any:
    """Returns Keras's adapter for `x`, `y`, `sample_weight`, ... as `fit` would choose it."""
    return module("keras.src.trainers.data_adapters").get_data_adapter(**kwargs)


def is_arrays(data: Any) -> bool:
    """Tells whether every leaf of `data` can be sliced by rows."""
    return module("keras.src.trainers.data_adapters.array_data_adapter").can_convert_arrays(data)


def array_adapter_class() -> type:
    """Returns the class of the adapters of arrays."""
    return module("keras.src.trainers.data_adapters.array_data_adapter").ArrayDataAdapter


def py_dataset_adapter_class() -> type:
    """Returns the class of the adapters of `keras.utils.PyDataset`."""
    return module("keras.src.trainers.data_adapters.py_dataset_adapter").PyDatasetAdapter


def adapter_arrays(adapter: Any) -> Any:
    """Returns an array adapter's inputs as tensors, or wrappers of sparse ones."""
    slicing = module("keras.src.trainers.data_adapters.array_slicing")
    arrays = slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
    return keras.tree.lists_to_tuples(arrays)


def take_rows(arrays: Any, indices: tf.Tensor) -> Any:
    """Gathers rows of a structure of `adapter_arrays`."""
    slicing = module("keras.src.trainers.data_adapters.array_slicing")

    def take(value: Any) -> Any:
        if isinstance(value, slicing.TensorflowSparseWrapper):  # a tuple itself
            return slicing.slice_tensorflow_sparse_wrapper(value, indices)
        if value is None or isinstance(value, (list, tuple, dict)):
            return None  # go into it
        return tf.gather(value, indices, axis=0)

    return keras.tree.traverse(take, arrays)


def validation_split(arrays: Any, fraction: float) -> tuple[Any, Any]:
    """Splits arrays as `fit(validation_split=...)` does: the last rows validate."""
    slicing = module("keras.src.trainers.data_adapters.array_slicing")
    return slicing.train_validation_split(arrays, validation_split=fraction)


def concat_batches(batches: list[Any]) -> Any:
    """Joins `predict`'s outputs of all batches, ragged ones included."""
    return module("keras.src.backend.tensorflow.trainer").potentially_ragged_concat(batches)


def python_logs(logs: Any) -> dict[str, Any]:
    """Turns logs into floats, as Keras's callbacks get them."""
    return module("keras.src.utils.python_utils").pythonify_logs(logs)


def random_seed() -> int | None:
    """Returns the seed given to `keras.utils.set_random_seed`, or None."""
    return module("keras.src.utils.rng_utils").get_random_seed()


def global_seed_generator() -> Any:
    """Returns this thread's generator for draws without a seed, or None where there is none yet."""
    name = module("keras.src.random.seed_generator").GLOBAL_SEED_GENERATOR
    return module("keras.src.backend.common.global_state").get_global_attribute(name)


def make_global_seed_generator() -> Any:
    """Returns this thread's generator for draws without a seed; a new one where there is none."""
    return module("keras.src.random.seed_generator").global_seed_generator()


def random_functions() -> Any:
    """Returns the module of the TensorFlow backend's drawing functions."""
    return module("keras.src.backend.tensorflow.random")


# ---- TensorFlow: applying in cross-replica context -------------------------------------------


@contextlib.contextmanager
def default_replica_mode() -> Iterator[None]:
    """Runs a block as if no strategy were in scope, wherever it stands.

    Keras's optimizers update mirrored variables right from there, and only from there: inside a
    scope they refuse, and in replica context they sum the gradients once more.
    """
    lib = module("tensorflow.python.distribute.distribute_lib")
    lib._push_per_thread_mode(lib._get_default_replica_mode())
    try:
        yield
    finally:
        lib._pop_per_thread_mode()


def reduces_on_one_device(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether a strategy sums by copies to one device, without collective operations."""
    operations = getattr(strategy.extended, "_cross_device_ops", None)
    return isinstance(operations, tf.distribute.ReductionToOneDevice)


# ---- TensorFlow runtime ----------------------------------------------------------------------


def collective_context() -> Any:
    """Returns the object whose `enable_collective_ops(server_def)` starts a worker's server."""
    return module("tensorflow.python.eager.context").context()


def has_kernel(operation: str) -> bool:
    """Tells whether this TensorFlow can run an operation at all.

    Where TensorFlow does not say, it is taken to: running the operation then tells.
    """
    try:
        kernels = importlib.import_module("tensorflow.python.framework.kernels")
        return len(kernels.get_registered_kernels_for_op(operation).kernel) > 0
    except (ImportError, AttributeError):
        return True


def initialized_tpus() -> tuple[str, ...]:
    """Returns the addresses of the TPUs that this process has initialized; () where not known."""
    try:
        tpus = importlib.import_module("tensorflow.python.tpu.tpu_strategy_util")
        return tuple(tpus.get_initialized_tpu_systems())
    except (ImportError, AttributeError):
        return ()


# ---- TensorFlow: what a dataset is made of ----------------------------------------------------


def batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """Returns what the last `.batch(n)` of a dataset was given; None where none shows."""
    sizes = (getattr(part, "_batch_size", None) for part in dataset_parts(dataset))
    return next((int(size) for size in sizes if size is not None), None)


def first_of_generator(adapter: Any) -> Any:
    """Returns the batch that Keras has read ahead of a Python generator; None where it has not."""
    return next(iter(getattr(adapter, "_first_batches", ())), None)


def dataset_parts(dataset: tf.data.Dataset) -> Iterator[Any]:
    """Gives a dataset, all datasets that it reads from, and the graphs of their functions.

    What a release does not show is left out: it is a look for unset seeds, not a proof.
    """
    waiting, seen = [dataset], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += getattr(part, "_inputs", list)()
        for function in getattr(part, "_functions", list)():
            yield function.function.graph.as_graph_def()


def iterator_resource(iterator: Any) -> tf.Tensor:
    """Returns the handle by which TensorFlow's operations know an iterator."""
    return iterator._iterator_resource
