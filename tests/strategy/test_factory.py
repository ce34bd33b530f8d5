"""Does get_strategy give the strategy that was asked for, or one sentence why not?"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import testing
from tfdist.cluster.detection import Cluster
from tfdist.cluster.ports import reserved_port
from tfdist.strategy import bring_up, factory
from tfdist.strategy.devices import Inventory, TpuSight
from tfdist.strategy.factory import describe, get_strategy, made_strategies, refuse_outside_scope
from tfdist.strategy.plan import Plan


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch):
    monkeypatch.setattr(factory, "_made", {})


def _tf_config(task_type="worker", index=0, **jobs) -> str:
    jobs = jobs or {"worker": ["h:1", "h:2"]}
    return json.dumps({"cluster": jobs, "task": {"type": task_type, "index": index}})


# -------------------------------------------------------------------------------- in this process


@pytest.mark.parametrize(
    ("device", "kind", "replicas", "devices"),
    [
        ("auto", tf.distribute.OneDeviceStrategy, 1, "/cpu:0"),
        ("cpu", tf.distribute.OneDeviceStrategy, 1, "/cpu:0"),
        ("1xcpu", tf.distribute.OneDeviceStrategy, 1, "/cpu:0"),
        ("2xcpu", tf.distribute.MirroredStrategy, 2, "/cpu:0, /cpu:1"),
        ("4xCPU", tf.distribute.MirroredStrategy, 4, "/cpu:0, /cpu:1, /cpu:2, /cpu:3"),
    ],
)
def test_strategy_on_cpus(device, kind, replicas, devices):
    if device == "auto" and tf.config.list_physical_devices("GPU"):
        pytest.skip('"auto" takes the GPU that is here')
    strategy = get_strategy(device)
    assert type(strategy) is kind
    assert strategy.num_replicas_in_sync == replicas
    name, devices_line, why = describe(strategy).splitlines()
    assert name == f"{kind.__name__}: replicas={replicas} workers=1 rank=0"
    assert devices_line == f"  devices: {devices}"
    assert why.startswith(f"  why: device={device.lower().replace('1xcpu', 'cpu')}, no cluster: ")


@pytest.mark.parametrize("device", ["cpu", "2xcpu"])
def test_keras_trains_under_it(device):
    """Keras's own loop, under which plain SGD and even batches are right."""
    weights = []
    for scope in (tf.distribute.get_strategy().scope, get_strategy(device).scope):
        keras.utils.set_random_seed(1)
        with scope():
            layers = [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
            model = keras.Sequential(layers)
            model.compile(keras.optimizers.SGD(0.1), "mse")
        x = np.linspace(-1, 1, 24).reshape(8, 3)
        model.fit(x, x[:, :1], batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5, atol=1e-6)


def test_second_call_returns_the_same_strategy():
    strategies = [get_strategy(device) for device in ("2xcpu", "cpu", "2xCPU", "1xcpu")]
    assert strategies[0] is strategies[2]
    assert strategies[1] is strategies[3]
    assert strategies[0] is not strategies[1]
    assert get_strategy("cpu", cluster=None) is strategies[1]
    assert get_strategy("cpu", cluster=Cluster(rank=0, size=1)) is strategies[1]


def test_tpu_is_brought_up_once(monkeypatch):
    """A notebook cell that is run again must not wipe the variables on the chips."""
    started = []

    def start(address):
        started.append(address)
        return tf.distribute.OneDeviceStrategy("/cpu:0")

    sight = TpuSight("local", "4 TPU chips in /dev")
    inventory = Inventory(tpu=sight, can_drive_tpus=True)
    monkeypatch.setattr(factory, "take_inventory", lambda: inventory)
    monkeypatch.setattr(bring_up, "start_tpu", start)
    strategy = get_strategy("tpu")
    assert [get_strategy(device) for device in ("tpu", "tpu:local", "auto")] == [strategy] * 3
    assert started == ["local"]
    get_strategy("tpu:other")
    assert started == ["local", "other"]


def test_made_strategies_are_in_the_order_of_their_requests():
    two, one = get_strategy("2xcpu"), get_strategy("cpu")
    assert made_strategies() == (two, one)
    get_strategy("2xcpu")
    assert made_strategies() == (one, two)


def test_choice_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="tfdist"):
        get_strategy("2xcpu")
        get_strategy("2xcpu")
    assert [record.getMessage() for record in caplog.records] == [
        "mirrored on /cpu:0, /cpu:1; device=2xcpu, no cluster: as asked for"
    ]


def test_caution_is_a_warning(monkeypatch, caplog, tmp_path):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip('"auto" takes the GPU that is here')
    monkeypatch.setenv("ISTPUVM", "1")
    if factory.take_inventory().can_drive_tpus:
        pytest.skip("this TensorFlow has TPU support")
    get_strategy("auto")
    [message] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "There is a TPU (ISTPUVM='1')" in message


@pytest.mark.parametrize(
    ("device", "error", "words"),
    [
        ("banana", ValueError, "device='banana' is not a device"),
        (None, ValueError, "device=None is not a text"),
        ("gpu", RuntimeError, "device='gpu' was asked for, but this worker found 0 GPUs"),
        ("3xgpu", RuntimeError, "device='3xgpu' was asked for"),
        ("tpu", RuntimeError, "device='tpu' was asked for, but no TPU was found"),
        ("tpu:local", RuntimeError, "no TPU support"),
        ("multi_worker", RuntimeError, "no cluster was found"),
        ("5xcpu", RuntimeError, "needs 5 logical CPUs"),
    ],
)
def test_refusal(device, error, words):
    if device in ("gpu", "3xgpu") and tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    tf.constant(1)
    for _ in range(2):  # a refusal is not remembered as a strategy
        with pytest.raises(error, match="[.]$") as caught:
            get_strategy(device)
        assert words in str(caught.value)
    assert made_strategies() == ()


@pytest.mark.parametrize("cluster", ["none", 3, {"worker": ["a:1"]}])
def test_wrong_cluster_is_refused(cluster):
    with pytest.raises(ValueError, match="is neither 'auto', None nor a tfdist.Cluster"):
        get_strategy("cpu", cluster=cluster)


def test_cluster_of_the_environment(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _tf_config())
    tf.constant(1)
    with pytest.raises(RuntimeError, match="strategy over 2 workers cannot be made after that"):
        get_strategy("cpu")
    with pytest.raises(ValueError, match="one CPU replica only"):
        get_strategy("2xcpu")
    assert get_strategy("2xcpu", cluster=None).num_replicas_in_sync == 2


def test_broken_tf_config_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ValueError, match="TF_CONFIG is no valid JSON"):
        get_strategy("cpu")
    assert get_strategy("cpu", cluster=None).num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (_tf_config(worker=["h:1"]), "worker 0 of 1 (from TF_CONFIG)"),
        (_tf_config("evaluator"), "evaluator 0 (from TF_CONFIG), outside the training world"),
    ],
)
def test_alone_in_its_world(monkeypatch, text, why):
    monkeypatch.setenv("TF_CONFIG", text)
    strategy = get_strategy("2xcpu")
    assert type(strategy) is tf.distribute.MirroredStrategy
    assert why in describe(strategy)
    assert get_strategy("multi_worker").num_replicas_in_sync == 1


def test_parameter_server_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _tf_config("ps", ps=["h:3"], worker=["h:1", "h:2"]))
    with pytest.raises(RuntimeError, match="task_type='ps', a parameter server"):
        get_strategy("cpu")


def test_cluster_without_addresses_is_refused():
    with pytest.raises(RuntimeError, match="addresses of the 2 workers are not known"):
        bring_up.make_strategy(
            Plan("multi_worker", ("/cpu:0",), cluster=Cluster(rank=0, size=2)), Inventory()
        )


def test_foreign_strategies_are_described():
    mine = tf.distribute.MirroredStrategy(
        ["/cpu:0", "/cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    assert describe(mine) == (
        "MirroredStrategy: replicas=2 workers=1 rank=0\n"
        "  devices: /cpu:0, /cpu:1\n"
        "  why: not made by tfdist.get_strategy"
    )
    assert "replicas=1 workers=1 rank=0" in describe(tf.distribute.get_strategy())
    with pytest.raises(ValueError, match="'cpu' is not a tf.distribute.Strategy"):
        describe("cpu")


# ------------------------------------------------------------------------------ outside the scope


def test_outside_the_scope_of_several_replicas():
    refuse_outside_scope()
    get_strategy("2xcpu")
    with pytest.raises(ValueError, match=r"outside .* of 2 replicas.*with tfdist.get_strategy"):
        refuse_outside_scope()
    get_strategy("cpu")
    refuse_outside_scope()


def test_outside_the_scope_in_a_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _tf_config(index=1))
    with pytest.raises(ValueError, match="worker 1 of 2 .from TF_CONFIG., and each would train"):
        refuse_outside_scope()
    get_strategy("cpu", cluster=None)
    refuse_outside_scope()


def test_outside_the_scope_alone(monkeypatch):
    for text in (_tf_config(worker=["h:1"]), _tf_config("evaluator"), "{}"):
        monkeypatch.setenv("TF_CONFIG", text)
        refuse_outside_scope()


# --------------------------------------------------------------------------- in several processes


@pytest.mark.slow
def test_two_workers_by_the_environment():
    found = testing.run_workers(_join, workers=2)
    for rank, worker in enumerate(found):
        assert worker["kind"] == "MultiWorkerMirroredStrategy"
        assert worker["replicas"] == 2
        assert worker["sum"] == 3.0
        assert worker["description"] == (
            f"MultiWorkerMirroredStrategy: replicas=2 workers=2 rank={rank}\n"
            f"  devices: /job:worker/replica:0/task:{rank}/cpu:0\n"
            f"  why: device=auto, worker {rank} of 2 (from TF_CONFIG): no TPU was found;"
            " no GPU was found"
        )
        assert worker["are_same"] == [True, True, True]
        assert worker["environ_changes"] == {}
        assert "can join only one in its life" in worker["other_cluster"]
        assert "one CPU replica only" in worker["two_cpus"]
        assert worker["local"].startswith("OneDeviceStrategy: replicas=1 workers=1 rank=0\n")
        assert "MultiWorkerMirroredStrategy: replicas=2" in worker["foreign"]


def _join() -> dict[str, object]:
    environ = dict(os.environ)
    strategy = get_strategy()
    changes = {k: v for k, v in os.environ.items() if environ.get(k) != v}
    cluster = tfdist.detect_cluster()
    given = Cluster(rank=cluster.rank, size=2, addresses=cluster.addresses)
    others = [f"127.0.0.1:{n}" for n in (1, 2)]
    return {
        "kind": type(strategy).__name__.replace("CollectiveAllReduce", "MultiWorkerMirrored"),
        "replicas": strategy.num_replicas_in_sync,
        "sum": _sum_of_ranks(strategy, cluster.rank),
        "description": describe(strategy),
        "are_same": [
            get_strategy() is strategy,
            get_strategy("cpu", cluster=given) is strategy,
            get_strategy("multi_worker") is strategy,
        ],
        "environ_changes": changes,
        "other_cluster": _error(
            lambda: get_strategy(cluster=Cluster(rank=0, size=2, addresses=others))
        ),
        "two_cpus": _error(lambda: get_strategy("2xcpu")),
        "local": describe(get_strategy("cpu", cluster=None)),
        "foreign": describe(
            tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=strategy.cluster_resolver)
        ),
    }


@pytest.mark.slow
def test_chief_and_worker_by_a_given_cluster():
    found = testing.run_workers(_join_as_chief_or_worker, workers=2)
    assert [worker["sum"] for worker in found] == [3.0, 3.0]
    for rank, (worker, job) in enumerate(zip(found, ("chief", "worker"), strict=True)):
        assert f"replicas=2 workers=2 rank={rank}\n" in worker["description"]
        assert f"devices: /job:{job}/replica:0/task:0/cpu:0\n" in worker["description"]
        assert "(from given)" in worker["description"]


def _join_as_chief_or_worker() -> dict[str, object]:
    mine = tfdist.detect_cluster()
    cluster = Cluster(
        rank=mine.rank,
        size=2,
        addresses=mine.addresses,
        task_type=("chief", "worker")[mine.rank],
        task_index=0,
    )
    strategy = get_strategy("multi_worker", cluster=cluster)
    return {"sum": _sum_of_ranks(strategy, mine.rank), "description": describe(strategy)}


def _sum_of_ranks(strategy: tf.distribute.Strategy, rank: int) -> float:
    @tf.function
    def step():
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(rank + 1.0)), axis=None)

    return float(step())


def _error(fn) -> str:
    try:
        fn()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def _run(code: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(tfdist.__file__).parents[1],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_configured_cpus_are_kept_where_they_are_enough():
    _run("""
import tensorflow as tf, tfdist
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
assert tfdist.get_strategy("2xcpu").num_replicas_in_sync == 2
assert len(tf.config.list_logical_devices("CPU")) == 3
try:
    tfdist.get_strategy("4xcpu")
except RuntimeError as error:
    assert "TensorFlow has already started its runtime with 3" in str(error), error
else:
    raise SystemExit("4xcpu was not refused")
""")


def test_fresh_process():
    """A worker that does not come is named; the CPU is split; then it is too late for a cluster."""
    with reserved_port() as mine, reserved_port() as other:
        text = _tf_config(worker=[f"127.0.0.1:{mine}", f"127.0.0.1:{other}"])
    code = """
import time, tensorflow as tf, tfdist
from tfdist.strategy.devices import is_runtime_started
def error():
    try:
        tfdist.get_strategy("cpu")
    except RuntimeError as error:
        return str(error)
start = time.monotonic()
assert "worker 1 (127.0.0.1:OTHER) did not listen" in error()
assert time.monotonic() - start < 20
assert not is_runtime_started()
assert tfdist.get_strategy("3xcpu", cluster=None).num_replicas_in_sync == 3
assert len(tf.config.list_logical_devices("CPU")) == 3
assert "has already started its runtime, and a strategy over 2 workers" in error()
"""
    _run(code.replace("OTHER", str(other)), TF_CONFIG=text, TFDIST_ROLL_CALL_SECS="0.5")
