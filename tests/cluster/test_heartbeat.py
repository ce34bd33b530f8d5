"""Is a peer that has died, fell silent or failed told from one that has done its part?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import time

import launching
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfdist.cluster import heartbeat
from tfdist.cluster.contract import PEER_LOST
from tfdist.cluster.heartbeat import Heart, Loss, Peer, State
from tfdist.cluster.places import Whereabouts
from tfdist.cluster.ports import reserved_port

_SILENCE_SECS = 1.0
_HELD: list[contextlib.ExitStack] = []


@pytest.fixture
def gang(monkeypatch):
    """Three hearts, as of three workers, and what each has lost; quick ones."""
    monkeypatch.setattr(heartbeat, "_BEAT_SECS", 0.1)
    monkeypatch.setattr(heartbeat, "_TICK_SECS", 0.05)
    monkeypatch.setattr(heartbeat, "_TELL_SECS", 0.2)  # the thread of one that lost a peer is gone
    pairs = {rank: socket.socketpair() for rank in (1, 2)}
    ends = [{rank: pair[0] for rank, pair in pairs.items()}, {0: pairs[1][1]}, {0: pairs[2][1]}]
    losses = [queue.Queue() for _ in ends]
    hearts = [
        Heart(
            peers, rank=rank, silence_secs=_SILENCE_SECS, on_loss=losses[rank].put,
            whereabouts=Whereabouts(),
        )
        for rank, peers in enumerate(ends)
    ]
    yield hearts, losses
    _HELD.clear()
    for heart in hearts:
        heart.close()


def _of(losses):
    with contextlib.suppress(queue.Empty):
        return losses.get(timeout=5)


def _enter(*hearts):
    """Begins a run on each; returns their stacks."""
    stacks = [contextlib.ExitStack() for _ in hearts]
    for stack, heart in zip(stacks, hearts, strict=True):
        stack.enter_context(heart.run())
    _HELD.extend(stacks)  # a stack that is forgotten would end its run
    return stacks


def test_nobody_is_lost_while_all_beat(gang):
    hearts, losses = gang
    for stack in _enter(*hearts):
        with stack:
            time.sleep(1.2 * _SILENCE_SECS)
    assert all(lost.empty() for lost in losses)


@pytest.fixture
def thousands_of_files():
    """Opens so many files that the descriptors of new ones have four digits."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 4096), limits[1]))
    with open(os.devnull) as file:
        files = [os.dup(file.fileno()) for _ in range(1100)]
    yield
    for number in files:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_many_open_files_are_no_loss(thousands_of_files, gang):
    test_nobody_is_lost_while_all_beat(gang)
    hearts, losses = gang
    _enter(*hearts)
    hearts[2].close()
    assert _of(losses[0]) == Loss(2, 2, heartbeat._FOREVER, "has ended")


@pytest.mark.parametrize("gone", [0, 2])
def test_one_that_dies_is_named_to_all(gang, gone):
    hearts, losses = gang
    _enter(*hearts)
    hearts[gone].close()
    for rank in {0, 1, 2} - {gone}:
        assert _of(losses[rank]) == Loss(gone, 1, heartbeat._FOREVER, "has ended")


def test_one_that_has_done_its_part_is_missed_in_the_next_run_only(gang):
    hearts, losses = gang
    stacks = _enter(*hearts)
    stacks[2].close()
    hearts[2].close()  # its process ends
    time.sleep(0.5)
    assert all(lost.empty() for lost in losses)  # the others finish what it does not take part in
    stacks[0].close()
    assert losses[0].empty()
    _enter(hearts[0])
    assert _of(losses[0]) == Loss(2, 2, heartbeat._FOREVER, "has ended")
    assert losses[1].empty()


def test_one_that_left_with_an_error_is_missed_after_a_while(gang):
    hearts, losses = gang
    _enter(hearts[0])
    stack = _enter(hearts[1])[0]
    with pytest.raises(ZeroDivisionError), hearts[2].run():
        1 / 0  # noqa: B018
    time.sleep(0.3)
    stack.close()  # it has learnt of the same error itself, if a little later
    assert _of(losses[0]) == Loss(2, 1, 1, "has left with an error")
    assert losses[1].empty()


def test_exit_of_all_together_is_no_error(gang):
    hearts, losses = gang
    stack = _enter(hearts[0])[0]
    with pytest.raises(SystemExit), hearts[2].run():
        sys.exit(75)
    hearts[2].close()
    time.sleep(0.5)
    stack.close()
    assert losses[0].empty()


def _come(*hearts, to):
    for heart in hearts:
        heart._whereabouts.come_to(to)


def test_one_that_left_early_and_lives_on_is_missed_where_it_never_came(gang):
    hearts, losses = gang
    stacks = _enter(*hearts)
    _come(*hearts, to="steps")
    stacks[2].close()  # a `break`, or a `sys.exit` that a thread outlives
    _come(*hearts[:2], to="an agreement")
    for rank in (0, 1):
        assert _of(losses[rank]) == Loss(2, 1, 1, "has left after steps")
    assert losses[2].empty()


def test_one_that_has_done_its_part_first_is_not_missed(gang):
    hearts, losses = gang
    stacks = _enter(*hearts)
    _come(*hearts, to="steps")
    stacks[2].close()
    time.sleep(2 * _SILENCE_SECS)  # the others are slow, and come no further than it was
    for stack in stacks[:2]:
        stack.close()
    assert all(lost.empty() for lost in losses)


def test_workers_at_different_places_are_all_told_where_the_others_are(gang):
    hearts, losses = gang
    _enter(*hearts)
    _come(*hearts, to="an agreement")
    time.sleep(0.5)
    assert all(lost.empty() for lost in losses)
    _come(hearts[0], to="the beginning")
    _come(*hearts[1:], to="steps")
    for lost in losses:
        loss = _of(lost)
        assert "worker 0 is at the beginning, and workers 1-2 at steps, so" in loss.why
        assert loss.is_of_all


def test_one_for_which_the_others_wait_is_named_and_not_ended(gang, monkeypatch, caplog):
    monkeypatch.setattr(heartbeat, "_PATIENCE_SECS", 0.3)
    hearts, losses = gang
    _enter(hearts[0], hearts[1])
    _come(*hearts[:2], to="the beginning")
    with caplog.at_level("WARNING", logger="tfdist"):
        time.sleep(2 * _SILENCE_SECS)
    assert all(lost.empty() for lost in losses)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "Worker 0 has waited 0 s at the beginning for worker 2, which is alive and last came to no "
        "call yet."
    ]


def test_a_loss_is_awaited_inside_a_run_only_and_not_for_ever(gang):
    hearts, losses = gang
    began = time.monotonic()
    hearts[0].await_loss()
    assert time.monotonic() - began < 0.1
    _enter(*hearts)
    hearts[0].await_loss()  # nobody is lost
    assert time.monotonic() - began > _SILENCE_SECS
    hearts[2].close()
    hearts[1].await_loss()
    assert losses[1].get_nowait().rank == 2


def test_silence_is_a_loss_and_a_nap_of_ones_own_is_none(monkeypatch):
    monkeypatch.setattr(heartbeat, "_TICK_SECS", 0.05)
    ours, theirs = socket.socketpair()
    losses = queue.Queue()
    with Heart({3: ours}, rank=0, silence_secs=0.5, on_loss=losses.put) as heart, heart.run():
        began = time.monotonic()
        loss = losses.get(timeout=5)
        assert 0.4 < time.monotonic() - began < 3
    assert (loss.rank, loss.first) == (3, 1)
    assert loss.why.startswith("was not heard for 0.5 s: it is stopped")
    theirs.close()
    # Whoever wakes up after a minute hears the others before it judges them.
    ours, theirs = socket.socketpair()
    with Heart({3: ours}, rank=0, silence_secs=5.0, on_loss=losses.put) as heart:
        peer = heart._peers[3]
        peer.heard_at -= 60
        heart._listen(time.monotonic() - 60)
        assert peer.loss(5.0, now=time.monotonic()) is None
    theirs.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"junk\n",
        b"{}\n",
        b'{"state": [1, 2], "losses": 3}\n',
        b'{"state": "abc", "losses": []}\n',
        b'{"state": [1, 0, 0], "losses": [[1]]}\n',
        b"x" * 300_000,
    ],
)
def test_junk_ends_a_connection(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(1, ours)
        theirs.setblocking(False)
        while sent and not peer.is_closed:
            sent = sent[theirs.send(sent) :]
            peer.hear(now=1.0)
        assert peer.is_closed


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
_STATE = st.lists(st.integers(0, 9), min_size=3, max_size=3)


@given(_STATE | _JSON, st.lists(st.lists(_JSON, max_size=5), max_size=2) | _JSON, _JSON)
@example([float("inf"), 0, 0], [], [0, ""])
@example([1, 0, 0], [["1", "2", 3, "why", False]], [1, "steps"])
@example([1, 0, 0], [], [float("nan"), 3, 3])
def test_any_message_is_taken_or_ends_a_connection(state, losses, place):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(1, ours)
        message = {"state": state, "losses": losses, "place": place}
        theirs.sendall(json.dumps(message).encode() + b"\n")
        peer.hear(now=1.0)
        if not peer.is_closed:
            assert all(type(number) is int for number in dataclasses.astuple(peer.state))
            assert (type(peer.place.count), type(peer.place.doing)) == (int, str)
        for loss in [*peer.reported, peer.loss(5.0, now=1.0)]:
            assert loss is None or loss.concerns(State(1)) in (True, False)


@pytest.mark.parametrize(
    ("state", "concerned"),
    [
        (State(), False),
        (State(entered=3, left=2), True),
        (State(entered=3, left=3), False),
        (State(entered=3, left=1, failed=3), False),
        (State(entered=2, left=1), False),
        (State(entered=5, left=1, failed=4), False),
    ],
)
def test_whom_a_loss_concerns(state, concerned):
    assert Loss(1, 3, 4, "").concerns(state) == concerned


# --------------------------------------------------------------------- workers that train, for real

_TRAIN = """
import keras, numpy as np, time, tfdist
class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)
        print("step", batch, flush=True)
with tfdist.get_strategy("multi_worker").scope():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
tfdist.fit(model, np.ones((4000, 2)), np.ones(4000), batch_size=2, verbose=0, callbacks=[Slow()])
"""


_LOOP = """
import sys, time, keras, numpy as np, tensorflow as tf, tfdist
strategy = tfdist.get_strategy("multi_worker")
with strategy.scope():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
def replica_step(batch):
    with tf.GradientTape() as tape:
        loss = tfdist.average_loss(tf.square(model(batch)), model=model)
    gradients = tape.gradient(loss, model.trainable_variables)
    tfdist.apply_gradients(optimizer, gradients, model.trainable_variables)
    return loss
train_step = tfdist.make_train_step(replica_step, strategy)
dataset = tf.data.Dataset.from_tensor_slices(np.ones((8, 2), "float32")).batch(2).repeat()
batches = tfdist.distribute_dataset(dataset, strategy)
import signal
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
for step in range(int(sys.argv[1])):
    if told:
        batches.close()
        time.sleep(100)
    train_step(next(batches))
    print("step", step, flush=True)
    time.sleep(0.05)
time.sleep(8 * tfdist.detect_cluster().rank)  # one ends long before the other one
"""
# Where the machine is busy, TensorFlow's collective ends with an error before the heart has looked.
_LATE = """
import time
from tfdist.cluster.heartbeat import Heart
def listen(heart, looked_at, in_time=Heart._listen):
    is_woken = in_time(heart, looked_at)
    if any(peer.is_closed for peer in heart._peers.values()):
        time.sleep(2)
    return is_woken
Heart._listen = listen
"""
_NOT_HEARD = "was not heard for 5 s"


@contextlib.contextmanager
def _two_workers(path, *arguments):
    """Two workers, and their addresses, without a launcher: TF_CONFIG comes from somebody else."""
    with reserved_port() as first, reserved_port() as second:
        addresses = [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
    workers = []
    for rank in (0, 1):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environ = launching.environ_with(TF_CONFIG=str(config).replace("'", '"'))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, path, *arguments]
        workers.append(subprocess.Popen(command, env=environ, text=True, **pipes))
    try:
        yield workers, addresses
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "number", "lost", "why"),
    [
        (_TRAIN, signal.SIGSTOP, 0, _NOT_HEARD),
        (_TRAIN, signal.SIGSTOP, 1, _NOT_HEARD),
        (_TRAIN, signal.SIGKILL, 0, "has ended"),
        (_LATE + _TRAIN, signal.SIGKILL, 1, "has ended"),
        (_LATE + _LOOP, signal.SIGKILL, 0, "has ended"),
        (_LOOP, signal.SIGSTOP, 1, _NOT_HEARD),
        (_LOOP, signal.SIGKILL, 0, "has ended"),
        (_LOOP, signal.SIGKILL, 1, "has ended"),
        # One that breaks out of the loop and lives on; before, the other one waited for ever.
        (_LOOP, signal.SIGUSR1, 1, "has left after a batch of a loop"),
    ],
)
def test_survivor_of_two_workers_ends_within_ten_seconds(tmp_path, program, number, lost, why):
    path = launching.write_program(tmp_path, program)
    with _two_workers(path, "10000") as (workers, addresses):
        survivor = workers[1 - lost]
        while "step 5" not in survivor.stdout.readline():
            assert survivor.poll() is None, survivor.stderr.read()
        began = time.monotonic()
        os.kill(workers[lost].pid, number)
        _, err = survivor.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert survivor.returncode == PEER_LOST
        assert f"tfdist: worker {lost} ({addresses[lost]}) {why}" in err


@pytest.mark.slow
def test_loop_that_nobody_finishes_ends_with_its_process_alone(tmp_path):
    path = launching.write_program(tmp_path, _LOOP)
    with _two_workers(path, "5") as (workers, _):
        for worker in workers:
            _, err = worker.communicate(timeout=100)
            assert worker.returncode == 0, err
