"""Is the strategy that was planned the one that is made, with the right devices?"""

from __future__ import annotations

import types

import pytest
import tensorflow as tf

from tfdist.cluster.detection import Cluster
from tfdist.strategy import bring_up
from tfdist.strategy.bring_up import check_world, grow_gpu_memory, make_strategy
from tfdist.strategy.devices import take_inventory
from tfdist.strategy.plan import Plan


def _mirrored(count: int) -> Plan:
    return Plan("mirrored", tuple(f"/cpu:{n}" for n in range(count)))


def test_one_device():
    strategy = make_strategy(Plan("one_device", ("/cpu:0",)), take_inventory())
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    with strategy.scope():
        variable = tf.Variable(1.0)
    assert variable.device.endswith("/device:CPU:0")


@pytest.mark.parametrize("count", [2, 4])
def test_several_cpus(count):
    strategy = make_strategy(_mirrored(count), take_inventory())
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == count
    assert _sum_of_places(strategy) == [sum(range(count))] * count


def test_strategies_of_one_process_do_not_meet():
    """Collectives number their groups alike in each strategy, and abort when sizes differ."""
    strategies = [make_strategy(_mirrored(count), take_inventory()) for count in (2, 4, 2)]
    for _ in range(2):
        sums = [_sum_of_places(strategy) for strategy in strategies]
        assert sums == [[1, 1], [6, 6, 6, 6], [1, 1]]


def _sum_of_places(strategy: tf.distribute.Strategy) -> list[float]:
    @tf.function
    def step():
        def replica_fn():
            context = tf.distribute.get_replica_context()
            replica = tf.cast(context.replica_id_in_sync_group, tf.float32)
            values = [replica, replica + tf.zeros(3)]
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)[0]

        return strategy.run(replica_fn)

    return [float(value) for value in strategy.experimental_local_results(step())]


def test_too_late_is_refused():
    tf.constant(1)
    with pytest.raises(RuntimeError, match="needs 5 logical CPUs"):
        make_strategy(_mirrored(5), take_inventory())


def test_world_of_another_size_is_refused():
    plan = Plan("multi_worker", ("/cpu:0",), cluster=Cluster(rank=0, size=2))
    with pytest.raises(RuntimeError, match=r"2 replicas were asked for.*but TensorFlow made 1\."):
        check_world(tf.distribute.OneDeviceStrategy("/cpu:0"), plan)


# ------------------------------------------- GPUs, by stand-ins: what TensorFlow would be asked for


@pytest.fixture
def gpus(monkeypatch) -> types.SimpleNamespace:
    """Stands in for TensorFlow's configuration of two GPUs before it has started."""
    state = types.SimpleNamespace(
        visible=["gpu 0", "gpu 1"], growth={}, parts={}, is_started=False, devices=[], operations=[]
    )

    def mirrored(devices, cross_device_ops):
        state.devices.append(devices)
        state.operations.append(cross_device_ops)
        return types.SimpleNamespace(num_replicas_in_sync=len(devices))

    config, experimental = tf.config, tf.config.experimental
    monkeypatch.setattr(config, "get_visible_devices", lambda kind: list(state.visible))
    monkeypatch.setattr(
        config, "set_visible_devices", lambda devices, kind: setattr(state, "visible", devices)
    )
    monkeypatch.setattr(
        config, "get_logical_device_configuration", lambda gpu: state.parts.get(gpu)
    )
    monkeypatch.setattr(experimental, "get_memory_growth", lambda gpu: state.growth.get(gpu))
    monkeypatch.setattr(experimental, "set_memory_growth", state.growth.__setitem__)
    monkeypatch.setattr(bring_up, "is_runtime_started", lambda: state.is_started)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", mirrored)
    return state


def test_gpu_memory_grows(gpus):
    grow_gpu_memory({})
    assert gpus.growth == {"gpu 0": True, "gpu 1": True}


@pytest.mark.parametrize(
    ("environ", "change", "growth"),
    [
        ({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, {}, {}),
        ({}, {"is_started": True}, {}),
        ({}, {"parts": {"gpu 1": ["half", "half"]}}, {}),
        ({}, {"growth": {"gpu 1": False}}, {"gpu 1": False}),
    ],
)
def test_gpu_memory_is_left_as_configured(gpus, environ, change, growth):
    vars(gpus).update(change)
    grow_gpu_memory(environ)
    assert gpus.growth == growth


def test_what_is_made_is_prepared_and_checked(gpus, monkeypatch):
    plan = Plan("mirrored", ("/gpu:0", "/gpu:1"))
    make_strategy(plan, take_inventory())
    assert gpus.growth == {"gpu 0": True, "gpu 1": True}
    alone = types.SimpleNamespace(num_replicas_in_sync=1)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda *_, **__: alone)
    with pytest.raises(RuntimeError, match=r"2 replicas were asked for.*made 1\."):
        make_strategy(plan, take_inventory())


def test_only_the_first_strategy_on_gpus_uses_collectives(gpus):
    plan = Plan("mirrored", ("/gpu:0", "/gpu:1"))
    inventory = take_inventory()
    make_strategy(plan, inventory)
    make_strategy(plan, inventory, use_collectives=False)
    assert gpus.devices == [["/gpu:0", "/gpu:1"]] * 2
    first, second = gpus.operations
    assert first is None  # TensorFlow's choice
    assert isinstance(second, tf.distribute.ReductionToOneDevice)


@pytest.mark.parametrize(
    ("indices", "visible"),
    [([0], ["gpu 0", "gpu 1"]), ([0, 1], ["gpu 0", "gpu 1"]), ([1], ["gpu 1"])],
)
def test_worker_shows_its_own_gpus(gpus, indices, visible):
    bring_up._show_gpus(indices)
    assert gpus.visible == visible


def test_divided_gpus_cannot_be_hidden(gpus):
    gpus.parts["gpu 0"] = ["half", "half"]
    bring_up._show_gpus([0])
    with pytest.raises(RuntimeError, match=r"GPUs \[1\] were chosen .* divided into logical"):
        bring_up._show_gpus([1])


@pytest.mark.parametrize(
    ("environ", "secs"), [({}, 600.0), ({"TFDIST_ROLL_CALL_SECS": "2.5"}, 2.5)]
)
def test_time_to_wait_for_workers(environ, secs):
    assert bring_up._await_secs(environ) == secs


def test_wrong_time_to_wait_is_refused():
    with pytest.raises(ValueError, match="TFDIST_ROLL_CALL_SECS='soon' must be a number"):
        bring_up._await_secs({"TFDIST_ROLL_CALL_SECS": "soon"})


def _configured(monkeypatch, secs):
    """Returns what TensorFlow is told of its own watch over the workers, and how often."""
    told = []

    class Context:
        def configure_coordination_service(self, **kwargs):
            told.append(kwargs)

    context = Context()
    monkeypatch.setattr(bring_up.tf_internals, "collective_context", lambda: context)
    with bring_up._watching_for(secs):
        context.configure_coordination_service(service_type="standalone")
    assert not vars(context), "put back"
    return told


@pytest.mark.parametrize(
    ("secs", "limit_ms"), [(0.0, None), (5.0, None), (6.0, 12_000), (60.0, 120_000),
                           (1e5, 86_400_000)],
)
def test_tensorflow_waits_longer_for_a_silent_worker_than_the_heartbeat(
    monkeypatch, secs, limit_ms
):
    limit = {} if limit_ms is None else {"heartbeat_timeout_in_ms": limit_ms}
    assert _configured(monkeypatch, secs) == [{"service_type": "standalone", **limit}]


def test_a_tensorflow_that_cannot_wait_is_told_of(monkeypatch):
    monkeypatch.setattr(bring_up.tf_internals, "collective_context", types.SimpleNamespace)
    with bring_up._watching_for(5.0):
        pass
    with pytest.raises(RuntimeError, match="TFDIST_HEARTBEAT_SECS=60 is longer than .* 5 or less"):
        with bring_up._watching_for(60.0):
            pass
