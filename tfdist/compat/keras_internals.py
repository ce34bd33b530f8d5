"""Which private names of Keras does tfdist depend on?

What a step replaces while it is traced is in replacing.py, and TensorFlow's names in
tf_internals.py. Everything that is not public API is used through the files of this folder only.
Each name is probed for, instead of comparing version numbers, at the first call of tfdist
(private_names.py, which says why each is needed): an untested release works as long as the names
still do the same.

Checked with Keras 3.13 to 3.16 and TensorFlow 2.18 to 2.22.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import private_names

# Modules that Keras 3.16 has moved.
_LATER_HOMES = {"keras.src.backend.tensorflow.nn": "keras.src.backend.tensorflow.ops.nn"}


def module(name: str) -> Any:
    """Returns a private module; raises an ImportError that names it if the release lacks it."""
    for home in (name, _LATER_HOMES.get(name, name)):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(home)
    raise ImportError(lacking(name))


def lacking(name: str) -> str:
    """Says that Keras has no such name, and what to install."""
    return private_names.sentence(name, "exact training on several replicas")


def compute_loss(model: keras.Model, **kwargs: Any) -> Any:
    """Calls `model.compute_loss`, even if it was overridden without a `training` argument."""
    return model._compute_loss(**kwargs)


def compiled_loss(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """Computes the loss that a model was compiled with, without those that its layers add."""
    return model._compile_loss(y, y_pred, sample_weight)


def call(model: keras.Model, x: Any, *, training: bool) -> Any:
    """Calls the model as Keras's own steps do."""
    return model(x, training=training) if model._call_has_training_arg else model(x)


def loss_tracker(model: keras.Model) -> Any:
    """Returns the `Mean` behind the reported loss."""
    return model._loss_tracker


def trainer_class() -> Any:
    """Returns the class that gives a model `fit`; also to a layer that it is mixed into."""
    home = module("keras.src.backend.tensorflow.trainer")
    return getattr(home, "TensorFlowTrainer", None) or home.Trainer  # the name since Keras 3.16


def overrides(model: keras.Model, method: str) -> bool:
    """Tells whether a subclass or the instance overrides a `method`."""
    is_own = getattr(type(model), method) is not getattr(trainer_class(), method)
    return is_own or method in vars(model)


def has_unbuilt_metrics(model: Any) -> bool:
    """Tells whether the metrics that a model was compiled with have no variables yet."""
    return model._compile_metrics is not None and not model._compile_metrics.built


def accumulators(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Returns the variables in which a built optimizer adds up gradients, in that order."""
    sums = optimizer._accumulated_gradients
    return [sums[optimizer._get_variable_index(variable)] for variable in variables]


def settings_of(optimizer: Any) -> tuple[Any, Any]:
    """Returns an optimizer's variables for its calls, and for its learning rate, or None."""
    return optimizer._iterations, getattr(optimizer, "_learning_rate", None)


def trainable_variables_of(optimizer: Any) -> Any:
    """Returns the variables that an optimizer was built for."""
    return optimizer._trainable_variables


def function_of(metric: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns the function that a `MeanMetricWrapper` takes the mean of, and its options."""
    return metric._fn, metric._fn_kwargs


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
    """Takes the number of epochs that a callback has restored; 0 if none has."""
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


def adapter_inputs(adapter: Any) -> Any:
    """Returns an array adapter's inputs, as they were given."""
    return adapter._inputs


def num_samples(adapter: Any) -> int:
    """Returns the number of rows of an array adapter's inputs."""
    return int(adapter._num_samples)


def adapter_arrays(adapter: Any) -> Any:
    """Returns an array adapter's inputs as tensors, or wrappers of sparse ones."""
    slicing = module("keras.src.trainers.data_adapters.array_slicing")
    arrays = slicing.convert_to_sliceable(adapter_inputs(adapter), target_backend="tensorflow")
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


def sample_weights_of(y: Any, class_weight: Any) -> Any:
    """Returns the weight of each row of targets, by its class."""
    adapters = module("keras.src.trainers.data_adapters.data_adapter_utils")
    return adapters.class_weight_to_sample_weights(y, class_weight)


def class_weight_map(class_weight: dict[int, float]) -> Any:
    """Returns the function by which Keras adds the weights of classes to a dataset's batches."""
    adapters = module("keras.src.trainers.data_adapters.tf_dataset_adapter")
    return adapters.make_class_weight_map_fn(class_weight)


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
    """Returns this thread's generator for draws without a seed; None if it does not exist yet."""
    name = module("keras.src.random.seed_generator").GLOBAL_SEED_GENERATOR
    return module("keras.src.backend.common.global_state").get_global_attribute(name)


def keep_global_seed_generator() -> Callable[[Any], None]:
    """Returns a function that keeps a generator for this thread's draws without a seed.

    Keras keeps one for each thread. The function may be called in any thread, such as one in which
    a replica is traced, and means the thread that has asked for it.
    """
    name = module("keras.src.random.seed_generator").GLOBAL_SEED_GENERATOR
    of_this_thread = vars(module("keras.src.backend.common.global_state").GLOBAL_STATE_TRACKER)
    return functools.partial(of_this_thread.__setitem__, name)


def make_global_seed_generator() -> Any:
    """Returns this thread's generator for draws without a seed, and creates it if missing."""
    return module("keras.src.random.seed_generator").global_seed_generator()


def random_functions() -> Any:
    """Returns the module of the TensorFlow backend's drawing functions."""
    return module("keras.src.backend.tensorflow.random")


def seed_caster(functions: Any) -> Callable[[Any], Any]:
    """Returns the function that casts a seed for the `random_functions`."""
    caster: Callable[[Any], Any] = functions._cast_seed
    return caster


def batches_of_saving(callback: Any) -> tuple[int, int | None] | None:
    """Returns the counters of a callback that saves every n batches.

    Returns:
        The batches since its last save, and the number of the last batch in its epoch (None before
        the first one); just None if it has no such counters.
    """
    names = ("_batches_seen_since_last_saving", "_last_batch_seen")
    if not all(hasattr(callback, name) for name in names):
        return None
    return callback._batches_seen_since_last_saving, callback._last_batch_seen


def is_bar_of_fit(callback: Any) -> bool:
    """Tells whether a progress bar belongs to `fit`, and so does not draw a validation."""
    return bool(getattr(callback, "_called_in_fit", False))


def write_lines(progbar: Any, *, secs: float) -> None:
    """Lets a `Progbar` write whole lines, the first of them after `secs`."""
    progbar.interval = secs
    progbar._dynamic_display = False
    progbar._last_update = time.time()  # by this clock it measures the interval


def traces_batches(callback: Any) -> bool:
    """Tells whether a TensorBoard profiles single batches."""
    return bool(getattr(callback, "_should_trace", True))


def first_of_generator(adapter: Any) -> Any:
    """Returns the batch that Keras has read ahead from a Python generator, or None."""
    return next(iter(getattr(adapter, "_first_batches", ())), None)
