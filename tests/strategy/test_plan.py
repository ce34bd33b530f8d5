"""Does the right strategy, or the right refusal, follow from every request?  No TensorFlow here."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tfdist.cluster.detection import Cluster
from tfdist.strategy.devices import Inventory, TpuSight, parse_device
from tfdist.strategy.plan import Plan, decide, refuse_if_too_late


def _worker(rank: int, size: int = 2, **kwargs) -> Cluster:
    addresses = tuple(f"host{n}:2222" for n in range(size))
    return Cluster(rank=rank, size=size, addresses=addresses, source="TF_CONFIG", **kwargs)


def _gpus(count: int, **kwargs) -> Inventory:
    return Inventory(num_gpus=count, can_drive_gpus=True, tensorflow="2.21.0", **kwargs)


_CPU = Inventory(tensorflow="2.21.0")
_CHIPS = TpuSight("local", "4 TPU chips in /dev")
_TPU = Inventory(tpu=_CHIPS, can_drive_tpus=True, tensorflow="2.20.0")
_TPU_UNUSABLE = Inventory(tpu=_CHIPS, tensorflow="2.21.0")
_EVALUATOR = Cluster(rank=0, size=1, task_type="evaluator", source="TF_CONFIG")
_SHARED = {"local_size": 2, "size": 4}  # two hosts with two workers each


@pytest.mark.parametrize(
    ("device", "cluster", "inventory", "kind", "devices"),
    [
        # This process alone.
        ("cpu", None, _CPU, "one_device", "/cpu:0"),
        ("1xcpu", None, _CPU, "one_device", "/cpu:0"),
        ("4xcpu", None, _CPU, "mirrored", "/cpu:0 /cpu:1 /cpu:2 /cpu:3"),
        ("cpu", None, _gpus(2), "one_device", "/cpu:0"),
        ("2xcpu", None, _gpus(2), "mirrored", "/cpu:0 /cpu:1"),
        ("gpu", None, _gpus(1), "one_device", "/gpu:0"),
        ("gpu", None, _gpus(3), "mirrored", "/gpu:0 /gpu:1 /gpu:2"),
        ("1xgpu", None, _gpus(3), "one_device", "/gpu:0"),
        ("2xgpu", None, _gpus(3), "mirrored", "/gpu:0 /gpu:1"),
        ("gpu:1", None, _gpus(2), "one_device", "/gpu:1"),
        ("gpu:3,0", None, _gpus(4), "mirrored", "/gpu:3 /gpu:0"),
        ("tpu", None, _TPU, "tpu", "local"),
        ("tpu:local", None, Inventory(can_drive_tpus=True), "tpu", "local"),
        ("tpu:mine", None, _TPU, "tpu", "mine"),
        ("tpu:mine", None, _CPU, "tpu", "mine"),  # another host's TensorFlow drives it
        ("tpu:grpc://h:1", None, _CPU, "tpu", "grpc://h:1"),
        # What "auto" takes.
        ("auto", None, _CPU, "one_device", "/cpu:0"),
        ("auto", None, _gpus(1), "one_device", "/gpu:0"),
        ("auto", None, _gpus(2), "mirrored", "/gpu:0 /gpu:1"),
        ("auto", None, _TPU, "tpu", "local"),
        ("auto", None, dataclasses.replace(_TPU, num_gpus=2), "tpu", "local"),
        ("auto", None, Inventory(tpu=TpuSight("mine", "TPU_NAME='mine'")), "tpu", "mine"),
        ("auto", None, _TPU_UNUSABLE, "one_device", "/cpu:0"),
        ("auto", None, dataclasses.replace(_TPU_UNUSABLE, num_gpus=1), "one_device", "/gpu:0"),
        # One worker of several.
        ("auto", _worker(0), _CPU, "multi_worker", "/cpu:0"),
        ("auto", _worker(0), _TPU_UNUSABLE, "multi_worker", "/cpu:0"),
        ("multi_worker", _worker(1), _CPU, "multi_worker", "/cpu:0"),
        ("multi_worker", _worker(1), _gpus(2), "multi_worker", "/gpu:0 /gpu:1"),
        ("cpu", _worker(1), _gpus(2), "multi_worker", "/cpu:0"),
        ("1xcpu", _worker(1), _CPU, "multi_worker", "/cpu:0"),
        ("gpu", _worker(1), _gpus(2), "multi_worker", "/gpu:0 /gpu:1"),
        ("1xgpu", _worker(1), _gpus(2), "multi_worker", "/gpu:0"),
        ("gpu:1", _worker(1), _gpus(2), "multi_worker", "/gpu:1"),
        # Workers of one host share its GPUs.
        ("auto", _worker(2, local_rank=0, **_SHARED), _gpus(4), "multi_worker", "/gpu:0 /gpu:1"),
        ("gpu", _worker(3, local_rank=1, **_SHARED), _gpus(4), "multi_worker", "/gpu:2 /gpu:3"),
        ("gpu", _worker(3, local_rank=1, **_SHARED), _gpus(3), "multi_worker", "/gpu:1"),
        ("1xgpu", _worker(3, local_rank=1, **_SHARED), _gpus(4), "multi_worker", "/gpu:2"),
        ("gpu:0", _worker(3, local_rank=1, **_SHARED), _gpus(4), "multi_worker", "/gpu:0"),
        (
            "gpu",
            _worker(3, local_rank=1, **_SHARED),
            _gpus(2, visible_gpus="2,3", has_own_gpus=True),
            "multi_worker",
            "/gpu:0 /gpu:1",
        ),
        (
            "gpu",
            _worker(3, local_rank=1, **_SHARED),
            _gpus(1, visible_gpus="1"),
            "multi_worker",
            "/gpu:0",
        ),
        # Clusters that are none.
        ("auto", _worker(0, 1), _CPU, "one_device", "/cpu:0"),
        ("multi_worker", _worker(0, 1), _CPU, "one_device", "/cpu:0"),
        ("2xcpu", _worker(0, 1), _CPU, "mirrored", "/cpu:0 /cpu:1"),
        ("auto", _EVALUATOR, _gpus(2), "mirrored", "/gpu:0 /gpu:1"),
        ("multi_worker", _EVALUATOR, _CPU, "one_device", "/cpu:0"),
        ("2xcpu", _EVALUATOR, _CPU, "mirrored", "/cpu:0 /cpu:1"),
        ("tpu", _EVALUATOR, _TPU, "tpu", "local"),
    ],
)
def test_decision(device, cluster, inventory, kind, devices):
    plan = decide(parse_device(device), cluster, inventory)
    assert (plan.kind, plan.devices) == (kind, tuple(devices.split()))
    assert plan.cluster == (cluster if kind == "multi_worker" else None)
    assert plan.num_workers == (cluster.size if kind == "multi_worker" else 1)
    assert plan.is_on_gpus == devices.startswith("/gpu")


@pytest.mark.parametrize(
    ("device", "cluster", "inventory", "error", "words"),
    [
        ("multi_worker", None, _CPU, RuntimeError, ["no cluster was found", "tfdist.launch"]),
        (
            "2xcpu",
            _worker(0),
            _CPU,
            ValueError,
            ["device='2xcpu'", "2 workers", "TF_CONFIG", "one CPU replica only", "cluster=None"],
        ),
        (
            "auto",
            Cluster(rank=0, size=1, task_type="ps", source="TF_CONFIG"),
            _CPU,
            RuntimeError,
            ["task_type='ps'", "synchronous training", "Leave 'ps' out"],
        ),
        ("gpu", None, _CPU, RuntimeError, ["device='gpu'", "0 GPUs", "without GPU", "tfdist[gpu]"]),
        ("gpu:0", None, _CPU, RuntimeError, ["device='gpu:0'", "0 GPUs"]),
        (
            "gpu",
            None,
            _gpus(0, visible_gpus="-1"),
            RuntimeError,
            ["0 GPUs", "nvidia-smi", "CUDA_VISIBLE_DEVICES='-1'", "device='cpu'"],
        ),
        ("3xgpu", None, _gpus(2), RuntimeError, ["device='3xgpu'", "found 2 GPUs"]),
        ("2xgpu", None, _gpus(1), RuntimeError, ["device='2xgpu'", "found 1 GPU."]),
        ("gpu:0,2", None, _gpus(2), RuntimeError, ["device='gpu:0,2'", "2 GPUs", "from 0"]),
        ("gpu", _worker(0), _CPU, RuntimeError, ["device='gpu'", "0 GPUs"]),
        (
            "2xgpu",
            _worker(0, **_SHARED),
            _gpus(2),
            RuntimeError,
            ["found 1 of 2 GPUs, which 2 workers of this host share", "fewer workers on a host"],
        ),
        (
            "auto",
            _worker(1, local_rank=1, **_SHARED),
            _gpus(1),
            RuntimeError,
            ["found 0 of 1 GPU, which 2 workers of this host share"],
        ),
        ("tpu", None, _CPU, RuntimeError, ["no TPU was found", "/dev/accel*", "TPU_NAME"]),
        (
            "tpu",
            None,
            _TPU_UNUSABLE,
            RuntimeError,
            ["device='tpu'", "TensorFlow 2.21.0", "no TPU support", "tfdist[tpu]"],
        ),
        ("tpu:local", None, _CPU, RuntimeError, ["no TPU support", "tfdist[tpu]"]),
        ("tpu", _worker(0), _TPU, RuntimeError, ["4 TPU chips", "2 workers", "cluster=None"]),
        ("auto", _worker(0), _TPU, RuntimeError, ["4 TPU chips", "2 workers", "device='cpu'"]),
        ("tpu:mine", _worker(0), _CPU, RuntimeError, ["mine", "2 workers"]),
        (
            "tpu",
            None,
            dataclasses.replace(_TPU, tpu=dataclasses.replace(_CHIPS, num_hosts=4)),
            RuntimeError,
            ["4 TPU chips", "slice of 4 hosts", "tpu:NAME"],
        ),
    ],
)
def test_refusal(device, cluster, inventory, error, words):
    with pytest.raises(error) as caught:
        decide(parse_device(device), cluster, inventory)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("device", "cluster", "inventory", "reason"),
    [
        ("cpu", None, _CPU, "device=cpu, no cluster: as asked for"),
        ("auto", None, _CPU, "device=auto, no cluster: no TPU was found; no GPU was found"),
        ("auto", None, _gpus(1), "device=auto, no cluster: no TPU was found; the only GPU"),
        ("gpu", None, _gpus(2), "device=gpu, no cluster: all 2 GPUs"),
        ("auto", None, _TPU, "device=auto, no cluster: 4 TPU chips in /dev"),
        (
            "auto",
            None,
            _TPU_UNUSABLE,
            "device=auto, no cluster: the TPU cannot be used; no GPU was found",
        ),
        (
            "gpu",
            _worker(1, local_rank=1, local_size=2),
            _gpus(4),
            "device=gpu, worker 1 of 2 (from TF_CONFIG): 2 of 4 GPUs, which 2 workers of this host"
            " share evenly",
        ),
        (
            "cpu",
            _EVALUATOR,
            _CPU,
            "device=cpu, evaluator 0 (from TF_CONFIG), outside the training world: as asked for",
        ),
    ],
)
def test_reason(device, cluster, inventory, reason):
    assert decide(parse_device(device), cluster, inventory).reason == reason


@pytest.mark.parametrize(
    ("device", "cluster", "inventory", "words"),
    [
        ("auto", None, _TPU_UNUSABLE, ["4 TPU chips", "no TPU support", "tfdist[tpu]"]),
        (
            "auto",
            None,
            dataclasses.replace(_CPU, num_nvidia_files=2),
            ["2 NVIDIA GPUs", "sees none", "device='gpu'"],
        ),
        (
            "gpu",
            _worker(0, local_size=2),
            _gpus(2, visible_gpus="0,1"),
            ["CUDA_VISIBLE_DEVICES='0,1'", "2 workers", "device='gpu:0,1'"],
        ),
    ],
)
def test_caution(device, cluster, inventory, words):
    (caution,) = decide(parse_device(device), cluster, inventory).cautions
    assert [word for word in words if word not in caution] == []


@pytest.mark.parametrize(
    ("device", "inventory"),
    [
        ("cpu", _TPU_UNUSABLE),
        ("cpu", dataclasses.replace(_CPU, num_nvidia_files=2)),
        ("auto", dataclasses.replace(_CPU, num_nvidia_files=2, visible_gpus="")),
        ("auto", dataclasses.replace(_CPU, num_nvidia_files=2, visible_gpus="-1")),
        ("auto", _gpus(2, num_nvidia_files=2)),
        ("auto", _TPU),
        ("auto", _CPU),
    ],
)
def test_no_caution(device, inventory):
    assert decide(parse_device(device), None, inventory).cautions == ()


@pytest.mark.parametrize("local_size", [1, 2, 3, 4])
def test_workers_of_a_host_get_different_gpus(local_size):
    plans = [
        decide(
            parse_device("gpu"),
            _worker(rank, 4, local_rank=rank, local_size=local_size),
            _gpus(4),
        )
        for rank in range(local_size)
    ]
    used = list(itertools.chain.from_iterable(plan.devices for plan in plans))
    assert len(set(used)) == len(used)
    assert len({len(plan.devices) for plan in plans}) == 1


@pytest.mark.parametrize(
    ("device", "cluster", "num_cpus", "words"),
    [
        ("4xcpu", None, 1, ["device='4xcpu'", "with 1", "logical_cpus(4)"]),
        ("4xcpu", None, 3, ["needs 4 logical CPUs", "with 3", "tfdist.get_strategy before"]),
        ("cpu", _worker(0, 3), 4, ["3 workers", "tfdist.get_strategy before"]),
        ("gpu", _worker(0, 3), 4, ["3 workers", "before any other TensorFlow operation"]),
    ],
)
def test_too_late(device, cluster, num_cpus, words):
    inventory = _gpus(2, num_cpus=num_cpus, is_started=True)
    plan = decide(parse_device(device), cluster, inventory)
    with pytest.raises(RuntimeError, match="has already started its runtime") as caught:
        refuse_if_too_late(plan, inventory)
    assert [word for word in words if word not in str(caught.value)] == []
    refuse_if_too_late(plan, dataclasses.replace(inventory, is_started=False))


@pytest.mark.parametrize("device", ["cpu", "4xcpu", "gpu", "5xgpu"])
def test_not_too_late(device):
    inventory = _gpus(5, num_cpus=4, is_started=True)
    refuse_if_too_late(decide(parse_device(device), None, inventory), inventory)


def test_key_tells_strategies_apart():
    plans = [
        Plan("one_device", ("/cpu:0",)),
        Plan("one_device", ("/gpu:0",)),
        Plan("mirrored", ("/cpu:0", "/cpu:1")),
        Plan("multi_worker", ("/cpu:0",), cluster=_worker(0)),
        Plan("multi_worker", ("/cpu:0",), cluster=_worker(1)),
        Plan("multi_worker", ("/cpu:0",), cluster=_worker(0, 3)),
        Plan("tpu", ("local",)),
    ]
    assert len({plan.key for plan in plans}) == len(plans)
    again = dataclasses.replace(plans[3], reason="another", cautions=("one",))
    assert again.key == plans[3].key
    given = dataclasses.replace(plans[3], cluster=dataclasses.replace(_worker(0), source="given"))
    assert given.key == plans[3].key
