"""Does this Keras, and this TensorFlow, have the private names that tfdist depends on?

Synopsis:

    >>> check()
    >>> missing()
    []

`check` runs at the first call of tfdist, so that an untested release fails at once, with the name
that it lacks, and not in the middle of tracing. It looks only at modules that importing Keras and
TensorFlow has loaded. In one file, since it is one table.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterator
from typing import Any

# The tested releases, as in setup.cfg.
RELEASES = {"keras": ">=3.13,<3.17", "tensorflow": ">=2.18,<2.23"}


@dataclasses.dataclass(frozen=True)
class Names:
    """Private names of one kind, in one place.

    Attributes:
        homes: The modules to look in; a release has the names in one of them.
        names: Names in the module. "A|B" has either name; "A.build > x" is an attribute `x` that
            the method `A.build` gives its object.
        why: What tfdist needs them for.
        read_in: The release in which they were read last.
        until: What would make them unnecessary.
        is_needed: Whether tfdist cannot work without them.
    """

    homes: tuple[str, ...]
    names: tuple[str, ...]
    why: str
    until: str
    read_in: str = "Keras 3.15.1 and 3.16.0.dev"
    is_needed: bool = True


_PUBLIC = "a public name for it"
_LOSSES_HOOK = "a hook in Keras by which losses and metrics learn of the other replicas"
_DRAWS_HOOK = "a hook in Keras by which draws learn of the other replicas"
_TENSORFLOW = "TensorFlow 2.21.0 and 2.22.0rc0"

TABLE = (
    # ---- Keras: what a step replaces while it is traced
    Names(
        ("keras.src.losses.loss",),
        (
            "scale_loss_for_distribution", "unscale_loss_for_distribution", "reduce_values",
            "reduce_weighted_values", "apply_mask", "Loss.__call__",
        ),
        "losses of the global batch", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.metrics.reduction_metrics",),
        (
            "reduce_to_samplewise_values", "MeanMetricWrapper.update_state",
            "MeanMetricWrapper.__init__ > _fn", "MeanMetricWrapper.__init__ > _fn_kwargs",
        ),
        "metrics of the global batch", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.trainers.compile_utils",), ("MetricsList.update_state",),
        "weights of rows in metrics", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.layers.layer",),
        ("Layer.add_loss", "Layer.__init__ > _losses", "Layer.__init__ > _loss_ids"),
        "losses that layers add, apart for each replica", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.backend.common.masking",), ("set_keras_mask",),
        "masks of the rows that count", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.backend.tensorflow.nn", "keras.src.backend.tensorflow.ops.nn"),
        ("_get_logits", "softmax > _keras_logits", "sigmoid > _keras_logits"),
        "logits of the rows that count", _LOSSES_HOOK,
    ),
    Names(
        ("keras.src.backend.tensorflow.nn", "keras.src.backend.tensorflow.ops.nn"),
        ("_compute_moments_sync",),
        "statistics of a synchronized BatchNormalization", "sums of rows instead of means in Keras",
    ),
    Names(
        ("keras.src.layers.normalization.batch_normalization",),
        ("BatchNormalization._moments", "BatchNormalization.build > _reduction_axes"),
        "statistics of a synchronized BatchNormalization", "sums of rows instead of means in Keras",
    ),
    Names(
        ("keras.src.backend.tensorflow.random",),
        (
            "draw_seed", "_cast_seed", "categorical", "uniform", "normal", "dropout", "randint",
            "truncated_normal", "gamma", "binomial", "beta", "shuffle",
        ),
        "draws of the global batch", _DRAWS_HOOK,
    ),
    # ---- Keras: optimizers
    Names(
        ("keras.src.optimizers.base_optimizer",),
        (
            "BaseOptimizer.apply", "BaseOptimizer._get_variable_index",
            "BaseOptimizer.build > _accumulated_gradients", "BaseOptimizer.build > _iterations|"
            "BaseOptimizer.__init__ > _iterations", "BaseOptimizer.__init__ > _learning_rate",
            "BaseOptimizer.build > _trainable_variables",
        ),
        "one update by the sum of all gradients", _PUBLIC,
    ),
    Names(
        ("keras.src.backend.tensorflow.optimizer",), ("TFOptimizer._all_reduce_sum_gradients",),
        "updates of one replica alone, in local steps", "an argument of apply that sums nothing",
    ),
    Names(
        ("keras.src.optimizers.base_optimizer",),
        (
            "BaseOptimizer._clip_gradients", "BaseOptimizer._untrack_variable",
            "BaseOptimizer.__init__ > _variables",
            "BaseOptimizer.__init__ > _trainable_variables_indices",
            "BaseOptimizer.exclude_from_weight_decay > _exclude_from_weight_decay",
        ),
        "optimizers whose states are held in parts", _PUBLIC,
    ),
    Names(
        ("keras.src.backend.tensorflow.optimizer",),
        ("TFOptimizer.__init__ > _distribution_strategy", "TFOptimizer._var_key"),
        "optimizers whose states are held in parts", _PUBLIC,
    ),
    Names(
        ("keras.src.backend.common.variables",),
        (
            "KerasVariable|Variable", "KerasVariable.__init__ > _shape|Variable.__init__ > _shape",
            "KerasVariable.__init__ > _value|Variable.__init__ > _value",
            "KerasVariable.__init__ > _ndim|Variable.__init__ > _ndim",
            "KerasVariable.__init__ > _constraint|Variable.__init__ > _constraint",
        ),
        "parts of weights that an optimizer takes for weights", _PUBLIC,
    ),
    Names(
        ("keras.src.callbacks.swap_ema_weights",), ("SwapEMAWeights._apply_to_ema_optimizers",),
        "averages of weights that are held in parts", _PUBLIC, is_needed=False,
    ),
    # ---- Keras: the trainer's own helpers
    Names(
        ("keras.src.backend.tensorflow.trainer",),
        (
            "TensorFlowTrainer|Trainer", "potentially_ragged_concat",
            "TensorFlowTrainer.__init__ > _distribute_strategy|"
            "Trainer.__init__ > _distribute_strategy",
        ),
        "what a model overrides, and the strategy that it was made under", _PUBLIC,
    ),
    Names(
        ("keras.src.models.model",),
        (
            "Model._compute_loss", "Model._assert_compile_called", "Model._symbolic_build",
            "Model._flatten_metrics_in_order", "Model._should_eval", "Model._flatten_layers",
            "Model.compile > _loss_tracker", "Model.compile > _compile_metrics",
            "Model.compile > _compile_loss",
        ),
        "the loop of fit and evaluate", _PUBLIC,
    ),
    Names(
        ("keras.src.layers.layer",), ("Layer.__init__ > _call_has_training_arg",),
        "calling a model as Keras does", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.trainer",),
        ("Trainer.__init__ > _initial_epoch|BaseTrainer.__init__ > _initial_epoch",),
        "going on where BackupAndRestore has left off", _PUBLIC, is_needed=False,
    ),
    # ---- Keras: data
    Names(
        ("keras.src.trainers.data_adapters",), ("get_data_adapter",),
        "batches as fit makes them", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.array_data_adapter",),
        (
            "can_convert_arrays", "ArrayDataAdapter", "ArrayDataAdapter.__init__ > _inputs",
            "ArrayDataAdapter.__init__ > _num_samples",
        ),
        "each worker's own rows of arrays", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.array_slicing",),
        (
            "convert_to_sliceable", "TensorflowSparseWrapper", "slice_tensorflow_sparse_wrapper",
            "train_validation_split",
        ),
        "each worker's own rows of arrays", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.data_adapter_utils",),
        ("class_weight_to_sample_weights",), "class_weight in train_on_batch", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.tf_dataset_adapter",), ("make_class_weight_map_fn",),
        "class_weight of a dataset, for each worker's own rows", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.py_dataset_adapter",), ("PyDatasetAdapter",),
        "batches of a PyDataset", _PUBLIC,
    ),
    Names(
        ("keras.src.trainers.data_adapters.generator_data_adapter",),
        ("GeneratorDataAdapter.__init__ > _first_batches",),
        "the size of a generator's batches", _PUBLIC, is_needed=False,
    ),
    Names(
        ("keras.src.utils.python_utils",), ("pythonify_logs",), "logs as callbacks get them",
        _PUBLIC,
    ),
    # ---- Keras: callbacks
    Names(
        ("keras.src.callbacks.model_checkpoint",),
        (
            "ModelCheckpoint.__init__ > _batches_seen_since_last_saving",
            "ModelCheckpoint.__init__ > _last_batch_seen",
        ),
        "steps until a callback saves", _PUBLIC, is_needed=False,
    ),
    Names(
        ("keras.src.callbacks.progbar_logger",), ("ProgbarLogger.__init__ > _called_in_fit",),
        "whether a progress bar shows an epoch", _PUBLIC, is_needed=False,
    ),
    Names(
        ("keras.src.utils.progbar",),
        ("Progbar.__init__ > _dynamic_display", "Progbar.__init__ > _last_update"),
        "a bar of whole lines where it is not watched", _PUBLIC, is_needed=False,
    ),
    Names(
        ("keras.src.callbacks.tensorboard",), ("TensorBoard._init_profile_batch > _should_trace",),
        "whether TensorBoard's profiler looks at single batches", _PUBLIC, is_needed=False,
    ),
    # ---- Keras: files
    Names(
        ("keras.src.saving.saving_lib",), ("save_model", "load_model"),
        "models that are saved into memory, and encrypted there", "paths that are open files in "
        "keras.saving.save_model and load_model", is_needed=False,
    ),
    # ---- Keras: seeds
    Names(
        ("keras.src.utils.rng_utils",), ("get_random_seed", "GLOBAL_RANDOM_SEED"),
        "one seed on all workers, and one for each client", _PUBLIC,
    ),
    Names(
        ("keras.src.random.seed_generator",), ("GLOBAL_SEED_GENERATOR", "global_seed_generator"),
        "draws without a seed, the same on all workers", _PUBLIC,
    ),
    Names(
        ("keras.src.backend.common.global_state",),
        ("get_global_attribute", "GLOBAL_STATE_TRACKER"),
        "draws without a seed, the same on all workers", _PUBLIC,
    ),
    # ---- TensorFlow
    Names(
        ("tensorflow.python.distribute.distribute_lib",),
        ("_push_per_thread_mode", "_pop_per_thread_mode", "_get_default_replica_mode"),
        "updates in cross-replica context", "tf.cond in the replica context of MirroredStrategy",
        _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.eager.record",), ("could_possibly_record",),
        "whether somebody takes the gradient of a gradient", _PUBLIC, _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.distribute.mirrored_strategy",),
        ("MirroredExtended.__init__ > _cross_device_ops",),
        "sums on one device without collectives", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.distribute.cross_device_ops",),
        ("CollectiveAllReduce.__init__ > _launchers",),
        "collectives between workers that begin by themselves", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.distribute.cross_device_utils",),
        (
            "CollectiveReplicaLauncher._next_instance_key",
            "CollectiveReplicaLauncher.__init__ > _group_key",
            "CollectiveReplicaLauncher.__init__ > _group_size",
            "CollectiveReplicaLauncher.__init__ > _device",
        ),
        "collectives between workers that begin by themselves", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.framework.auto_control_deps",),
        ("AutomaticControlDependencies.run_independently",),
        "sums that begin before others are there", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.framework.ops",), ("Graph.__init__ > experimental_acd_manager",),
        "sums that begin before others are there", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.distribute.values",), ("DistributedVariable",),
        "numbers of Python made of variables", "conversions of distributed variables in TensorFlow",
        _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.eager.context",),
        ("context", "Context.enable_collective_ops", "Context.configure_coordination_service"),
        "the server of a worker, and how long it waits for a silent one", _PUBLIC, _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.eager.context",),
        ("Context.function_call_options", "FunctionCallOptions.config_proto_serialized"),
        "graphs of loops that are rewritten in less time",
        "these passes among the options of `tf.config.optimizer`", _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.distribute.collective_all_reduce_strategy",),
        ("CollectiveAllReduceExtended._create_variable",),
        "a sentence where workers make different variables", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.distribute.collective_all_reduce_strategy",),
        ("CollectiveAllReduceExtended._get_variable_creator_initial_value",),
        "variables of int8 and bfloat16 on several workers", "a broadcast in TensorFlow that takes "
        "their types", _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.iterator_ops",),
        ("OwnedIterator._create_iterator > _iterator_resource",),
        "batches fetched inside of the traced loop", "iterators in while_loop", _TENSORFLOW,
    ),
    Names(
        ("tensorflow.python.data.ops.dataset_ops",), ("DatasetV2._inputs", "DatasetV2._functions"),
        "a look for unset seeds in a dataset", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.shuffle_op",),
        ("_ShuffleDataset.__init__ > _seed", "_ShuffleDataset.__init__ > _seed2"),
        "a look for unset seeds in a dataset", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.batch_op",),
        (
            "_BatchDataset.__init__ > _batch_size", "_BatchDataset.__init__ > _drop_remainder",
            "_ParallelBatchDataset.__init__ > _num_parallel_calls",
        ),
        "the size of a dataset's batches, and how they are made", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.padded_batch_op",),
        (
            "_PaddedBatchDataset.__init__ > _padded_shapes",
            "_PaddedBatchDataset.__init__ > _padding_values",
        ),
        "how a dataset's batches are made", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.map_op",),
        ("_MapDataset.__init__ > _map_func", "_ParallelMapDataset.__init__ > _map_func"),
        "examples that are made for a worker's own rows only", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.zip_op",), ("_ZipDataset.__init__ > _datasets",),
        "examples that are made for a worker's own rows only", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.ops.repeat_op",), ("_RepeatDataset.__init__ > _count",),
        "examples that are made for a worker's own rows only", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.data.util.structure",), ("to_tensor_list", "from_tensor_list"),
        "examples that are made for a worker's own rows only", _PUBLIC, _TENSORFLOW,
        is_needed=False,
    ),
    Names(
        ("tensorflow.python.framework.op_def_registry",), ("get",),
        "whether the function of a map keeps a state", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.framework.kernels",), ("get_registered_kernels_for_op",),
        "whether this TensorFlow can drive a TPU", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
    Names(
        ("tensorflow.python.tpu.tpu_strategy_util",), ("get_initialized_tpu_systems",),
        "which TPUs are set up already", _PUBLIC, _TENSORFLOW, is_needed=False,
    ),
)  # fmt: skip


@functools.cache
def check() -> None:
    """Raises an ImportError if a needed name is missing; looks once per process."""
    for home, name, why in missing():
        raise ImportError(sentence(f"{home}.{name}", why))


def missing(*, also_optional: bool = False) -> list[tuple[str, str, str]]:
    """Returns home, name and purpose of each needed name that is not there."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    return [
        (entry.homes[-1], name, entry.why)
        for entry in TABLE
        if entry.is_needed or also_optional
        for name in entry.names
        if not any(_has(sys.modules.get(home), name) for home in entry.homes)
    ]


def sentence(name: str, why: str) -> str:
    """Says which private name is missing, and what to install."""
    package = "tensorflow" if name.startswith("tensorflow.") else "keras"
    title = {"keras": "Keras", "tensorflow": "TensorFlow"}[package]
    version, releases = sys.modules[package].__version__, RELEASES[package]
    return (
        f"{title} {version} has no {name!r}, which tfdist needs for {why}. Install a newer tfdist, "
        f"or a release that it was run with: pip install '{package}{releases}'."
    )


def _has(module: Any, name: str) -> bool:
    return any(_has_one(module, choice) for choice in name.split("|"))


def _has_one(module: Any, name: str) -> bool:
    path, _, attribute = name.partition(" > ")
    found = module
    for part in path.split("."):
        found = getattr(found, part, None)
        if found is None:
            return False
    return not attribute or attribute in _names_in(inspect.unwrap(found))


def _names_in(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return code.co_names if code else ()


def private_parts() -> Iterator[str]:
    """Yields each home, and each last part of a name, in the table."""
    for entry in TABLE:
        yield from entry.homes
        for name in entry.names:
            for choice in name.split("|"):
                yield choice.rpartition(" > ")[2].rpartition(".")[2]
