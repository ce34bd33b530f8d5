"""Do workers on two hosts, with a network between them, train, and notice when it is gone?"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import launching
import pytest
import two_hosts

from tfdist.cluster.contract import PEER_LOST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not two_hosts.are_there(), reason="needs Linux, root and iproute2"),
]

_JOB = pathlib.Path(__file__).parents[1] / "support" / "engine_jobs.py"
_THREADS = dict.fromkeys(
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"
)
_TRAIN_FOR_LONG = """
import time, keras, numpy as np, tfdist

with tfdist.get_strategy("cpu").scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
slow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: print("epoch", flush=True))
data = np.zeros([64, 4])
tfdist.fit(model, data, data[:, :1], epochs=100_000, verbose=0, callbacks=[slow])
"""


def sagemaker(rank):
    """What the containers of a training job with two instances are given."""
    return {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": f"algo-{rank + 1}"}


def torchrun(rank):
    return {"RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": two_hosts.ADDRESSES[0], "MASTER_PORT": "29500"}  # fmt: skip


def tf_config(rank):
    peers = [f"algo-{number}:2222" for number in (1, 2)]
    config = {"cluster": {"worker": peers}, "task": {"type": "worker", "index": rank}}
    return {"TF_CONFIG": json.dumps(config)}


def start(hosts, variables, *command):
    """Starts a command on each of the hosts."""
    environ = {"TFDIST_ROLL_CALL_SECS": "40", "TFDIST_SECRET": "for these two", **_THREADS}
    return [
        subprocess.Popen(
            hosts.command(rank, sys.executable, *map(str, command)),
            env=launching.environ_with(**environ, **variables(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip


def end(processes):
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def trained_here():
    done = launching.launch("--threads=1", _JOB, "train", limit_secs=150)
    assert done.returncode == 0, done.stderr
    return launching.lines_of(done, 0)[-1]


@pytest.mark.parametrize("variables", [sagemaker, torchrun, tf_config])
def test_training_equals_that_on_one_host(variables, trained_here):
    assert "trained" in trained_here
    with two_hosts.two_hosts() as hosts:
        processes = start(hosts, variables, _JOB, "train")
        try:
            said = [process.communicate(timeout=150) for process in processes]
        finally:
            end(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == [trained_here] * 2


@pytest.mark.skipif(not two_hosts.have_wireguard(), reason="needs wireguard-go")
def test_a_private_network_lets_workers_train_and_nobody_in(trained_here, tmp_path):
    """The recipe of SECURITY.md: some 15 s, and a port that answers outside is found here alone."""

    def over_the_tunnel(rank):
        peers = [f"{address}:2222" for address in two_hosts.TUNNEL]
        task = {"type": "worker", "index": rank}
        return {"TF_CONFIG": json.dumps({"cluster": {"worker": peers}, "task": task})}

    with two_hosts.two_hosts() as hosts, two_hosts.private_network(hosts, tmp_path) as inside:
        processes = start(inside, over_the_tunnel, _JOB, "train")
        try:
            launching.wait_for(
                lambda: is_let_in(inside, 0, two_hosts.TUNNEL[1]), limit_secs=100
            )
            outside = [is_let_in(hosts, rank, two_hosts.ADDRESSES[1]) for rank in (0, 1)]
            said = [process.communicate(timeout=150) for process in processes]
        finally:
            end(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.splitlines()[-1] for out, _ in said] == [trained_here] * 2
    assert outside == [False, False]


def is_let_in(hosts, rank, address):
    """Whether a worker's port at this address answers somebody on a host."""
    connect = f"import socket; socket.create_connection(('{address}', 2222), timeout=1)"
    command = hosts.command(rank, sys.executable, "-c", connect)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_pulled_cable_ends_both_with_the_others_name():
    with two_hosts.two_hosts() as hosts:
        processes = start(hosts, tf_config, "-c", textwrap.dedent(_TRAIN_FOR_LONG))
        try:
            for process in processes:
                os.set_blocking(process.stdout.fileno(), True)
                assert [process.stdout.readline() for _ in range(3)] == ["epoch\n"] * 3
            hosts.pull_the_cable()
            pulled = time.monotonic()
            said = [process.communicate(timeout=60)[1] for process in processes]
            assert time.monotonic() - pulled < 12
        finally:
            end(processes)
    for rank, text in enumerate(said):
        assert f"tfdist: worker {1 - rank} (algo-{2 - rank}:2222) " in text, text[-2000:]
    assert [process.returncode for process in processes] == [PEER_LOST] * 2
