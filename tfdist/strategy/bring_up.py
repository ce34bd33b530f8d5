"""How is a plan carried out?  A Plan -> the TensorFlow strategy that it describes.

Synopsis:

    >>> from tfdist.strategy.devices import take_inventory
    >>> strategy = make_strategy(Plan("mirrored", ("/cpu:0", "/cpu:1")), take_inventory())
    >>> strategy.num_replicas_in_sync
    2
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfdist.cluster.contract import HEARTBEAT_SECS, ROLL_CALL_SECS, parse_secs
from tfdist.cluster.peers import await_peers
from tfdist.cluster.ports import warn_if_exposed
from tfdist.cluster.tf_config import TRAINING_TYPES
from tfdist.compat import tf_internals
from tfdist.strategy import process_scope
from tfdist.strategy.devices import Inventory, is_runtime_started
from tfdist.strategy.plan import Plan, refuse_if_too_late
from tfdist.strategy.tpu import start_tpu

# Without a launcher the other workers may come much later: cluster schedulers take their time.
_AWAIT_SECS = 600.0
# For the wire a piece of a reduction is copied into strings of this size. With TensorFlow's 4 KB,
# 84 MB take twenty thousand of them; sizes between 64 KB and 1 MB are equally fast.
_CHUNK_BYTES = 2**18
# After this silence TensorFlow's coordination service ends the workers, unless it is set.
_TF_SILENCE_SECS = 10.0
_LONGEST_SECS = 86_400.0  # what it is set to at most: its limit is a 32-bit number
_LOG = logging.getLogger("tfdist")


def make_strategy(
    plan: Plan, inventory: Inventory, *, use_collectives: bool = True
) -> tf.distribute.Strategy:
    """Makes the strategy of a plan.

    Args:
        plan: The plan.
        inventory: The inventory that the plan is based on.
        use_collectives: Whether several GPUs may reduce by collective operations. Two strategies
            of one process must not: they number them from the same start, and get mixed up.

    Raises:
        RuntimeError: TensorFlow has started too early, a worker did not come, or a TPU failed.
    """
    process_scope.refuse_another()
    refuse_if_too_late(plan, inventory)
    grow_gpu_memory(os.environ)
    if plan.kind == "tpu":
        return start_tpu(plan.devices[0])
    if plan.kind == "multi_worker":
        strategy = _make_multi_worker(plan)
    elif plan.kind == "mirrored":
        strategy = _make_mirrored(plan, use_collectives=use_collectives and plan.is_on_gpus)
    else:
        strategy = tf.distribute.OneDeviceStrategy(plan.devices[0])
    check_world(strategy, plan)
    return strategy


def check_world(strategy: tf.distribute.Strategy, plan: Plan) -> None:
    """Raises a RuntimeError if a strategy does not have the planned number of replicas."""
    asked = plan.num_workers * len(plan.devices)
    if strategy.num_replicas_in_sync != asked:
        raise RuntimeError(
            f"{asked} replicas were asked for ({plan.num_workers} workers with"
            f" {len(plan.devices)} each), but TensorFlow made {strategy.num_replicas_in_sync}."
            " Check that every worker has the same devices and the same cluster."
        )


def grow_gpu_memory(environ: Mapping[str, str]) -> None:
    """Lets GPUs take memory as they need it, unless the user has configured them otherwise."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus or "TF_FORCE_GPU_ALLOW_GROWTH" in environ or is_runtime_started():
        return
    for gpu in gpus:
        if tf.config.get_logical_device_configuration(gpu) is not None:
            return
        if tf.config.experimental.get_memory_growth(gpu) is not None:
            return
    for gpu in gpus:  # TensorFlow requires the same for all of them
        tf.config.experimental.set_memory_growth(gpu, True)


# --------------------------------------------------------------------------------- several replicas


def _make_mirrored(plan: Plan, *, use_collectives: bool) -> tf.distribute.Strategy:
    if not plan.is_on_gpus:
        _split_cpu(len(plan.devices))
    # TensorFlow's own choice is collectives, which on GPUs is NCCL. On the CPU they take two to
    # five times as long as adding up on one device (TensorFlow 2.21, five million floats), and a
    # second strategy in the process breaks both: their groups have the same keys.
    operations = None if use_collectives else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(plan.devices), cross_device_ops=operations)


def _split_cpu(count: int) -> None:
    """Divides the CPU into logical devices, unless there are enough already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or [None]
    if not is_runtime_started() and len(configured) < count:
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)


# ---------------------------------------------------------------------------------- several workers


def _make_multi_worker(plan: Plan) -> tf.distribute.Strategy:
    cluster = plan.cluster
    if cluster is None:
        raise ValueError(f"A plan over several workers needs a cluster. Received: {plan!r}")
    jobs = cluster.to_tf_config()["cluster"]  # refuses where the addresses are not known
    if cluster.rank == 0:
        warn_if_exposed(cluster.addresses)
    await_peers(cluster.addresses, rank=cluster.rank, timeout_secs=_await_secs(os.environ))
    if plan.is_on_gpus:
        _show_gpus([int(device.rpartition(":")[2]) for device in plan.devices])
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: jobs[job] for job in TRAINING_TYPES if job in jobs}),
        task_type=cluster.task_type,
        task_id=cluster.task_index,
        num_accelerators={"GPU": len(plan.devices)} if plan.is_on_gpus else {},
        rpc_layer="grpc",
    )
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kinds.NCCL if plan.is_on_gpus else kinds.RING
    )
    try:
        patience = _watching_for(_silence_secs(os.environ))
        with _kept_sigterm(), _answering_in_chunks(_CHUNK_BYTES), patience:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(
                cluster_resolver=resolver, communication_options=options
            )
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"Worker {cluster.rank} of {cluster.size} could not join the others from its address"
            f" {cluster.addresses[cluster.rank]}: {error.message.splitlines()[0]}. Look for the"
            " first error among all workers, and start all of them again."
        ) from error

    def explained(name: str, cause: str) -> Exception:
        return ValueError(
            f"Worker {cluster.rank} makes the variable {name!r}, and another worker makes another"
            f" one, or does something else ({cause}). Make the same models, with the same layers"
            " and optimizers, in the same order on all workers."
        )

    tf_internals.send_small_types(strategy)
    tf_internals.explain_failing_variables(strategy, explained)
    return strategy


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Restores the handler of SIGTERM, which TensorFlow's collective runtime replaces."""
    yield
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows handlers only there
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _answering_in_chunks(size: int) -> Iterator[None]:
    """Makes a server that starts in the block cut its answers into strings of `size` bytes."""
    context = tf_internals.collective_context()
    start = getattr(context, "enable_collective_ops", None)
    if start is None:
        _LOG.info("TensorFlow %s does not say how its server starts: reductions travel in chunks "
                  "of 4 KB, which is slower.", tf.__version__)
        yield
        return

    def enable_collective_ops(server_def: Any) -> Any:
        server_def.default_session_config.experimental.recv_buf_max_chunk = size
        return start(server_def)

    context.enable_collective_ops = enable_collective_ops
    try:
        yield
    finally:
        del context.enable_collective_ops


@contextlib.contextmanager
def _watching_for(silence_secs: float) -> Iterator[None]:
    """Makes TensorFlow's own watch over the workers wait longer than tfdist's does.

    TensorFlow ends all workers, in words that name the wrong one, once one was silent for 10 s.

    Args:
        silence_secs: After which tfdist counts a worker as lost; 0, for never, leaves it to
            TensorFlow.
    """
    context = tf_internals.collective_context()
    configure = getattr(context, "configure_coordination_service", None)
    if 2 * silence_secs <= _TF_SILENCE_SECS:
        yield
        return
    if configure is None:
        raise RuntimeError(
            f"{HEARTBEAT_SECS}={silence_secs:g} is longer than TensorFlow {tf.__version__} waits"
            f" for a silent worker, which cannot be set here. Give {_TF_SILENCE_SECS / 2:g} or"
            " less."
        )
    limit_ms = int(1000 * min(2 * silence_secs, _LONGEST_SECS))

    def configure_coordination_service(*args: Any, **kwargs: Any) -> Any:
        return configure(*args, **{**kwargs, "heartbeat_timeout_in_ms": limit_ms})

    context.configure_coordination_service = configure_coordination_service
    try:
        yield
    finally:
        del context.configure_coordination_service


def _silence_secs(environ: Mapping[str, str]) -> float:
    """Reads what communication/presence.py checks, when the workers connect."""
    try:
        return float(environ.get(HEARTBEAT_SECS) or 0.5 * _TF_SILENCE_SECS)
    except ValueError:
        return 0.5 * _TF_SILENCE_SECS


def _show_gpus(indices: list[int]) -> None:
    """Hides the other GPUs, since a worker's strategy takes the first visible ones."""
    gpus = tf.config.get_visible_devices("GPU")
    if indices == list(range(len(indices))):
        return
    if any(tf.config.get_logical_device_configuration(gpu) is not None for gpu in gpus):
        raise RuntimeError(
            f"GPUs {indices} were chosen for this worker, but GPUs here are divided into logical"
            " ones, of which a worker can only take the first. Leave them whole, or use"
            " CUDA_VISIBLE_DEVICES."
        )
    tf.config.set_visible_devices([gpus[index] for index in indices], "GPU")


def _await_secs(environ: Mapping[str, str]) -> float:
    return parse_secs(environ.get(ROLL_CALL_SECS) or _AWAIT_SECS, ROLL_CALL_SECS)
