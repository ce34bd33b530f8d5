"""Do SIGTERM and SIGUSR1 make a run save and leave, and a second SIGTERM end it at once?"""

from __future__ import annotations

import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import keras
import launching
import numpy as np
import pytest

import tfdist
from tfdist.checkpoint import preemption
from tfdist.cluster.contract import PREEMPTED

_TERM, _USR1 = signal.SIGTERM, signal.SIGUSR1


@pytest.mark.parametrize(
    ("signals", "number", "ends"),
    [
        ([(_TERM, 0.0)], _TERM, [False]),
        ([(_TERM, 0.0), (_TERM, 0.9)], _TERM, [False, False]),  # sent, and handed on
        ([(_TERM, 0.0), (_TERM, 1.1)], _TERM, [False, True]),
        ([(_USR1, 0.0), (_USR1, 9.0), (_TERM, 60.0)], _USR1, [False, False, False]),
        ([(_USR1, 0.0), (_TERM, 60.0), (_TERM, 62.0)], _USR1, [False, False, True]),
    ],
)
def test_notice(signals, number, ends):
    notice = preemption.Notice()
    assert notice.number == 0
    assert [notice.take(sent, now=now) for sent, now in signals] == ends
    assert notice.number == number


@pytest.mark.parametrize("number", [_TERM, _USR1])
def test_signal_is_kept_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with preemption.notices() as notice:
        os.kill(os.getpid(), number)
        launching.wait_for(lambda: notice.number)
    assert notice.number == number
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "tfdist-signals" not in [thread.name for thread in threading.enumerate()]


def test_nothing_changes_where_nothing_can_or_should():
    def show():
        return [signal.getsignal(number) for number in (_TERM, _USR1)]

    before, seen = show(), []
    with preemption.notices(is_wanted=False):
        seen.append(show())

    def elsewhere():
        with preemption.notices():
            seen.append(show())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before, before]


def test_ignored_signal_and_handler_of_the_program_are_left(request):
    def own(number, frame):
        """Of the program."""

    for number, handler in ((_TERM, signal.SIG_IGN), (_USR1, own)):
        request.addfinalizer(functools.partial(signal.signal, number, signal.getsignal(number)))
        signal.signal(number, handler)
    with preemption.notices():
        assert (signal.getsignal(_TERM), signal.getsignal(_USR1)) == (signal.SIG_IGN, own)


def test_whoever_listened_before_still_hears(request):
    read_end, write_end = os.pipe()
    request.addfinalizer(lambda: (os.close(read_end), os.close(write_end)))
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    request.addfinalizer(lambda: signal.set_wakeup_fd(-1))
    with preemption.notices() as notice:
        os.kill(os.getpid(), _TERM)
        launching.wait_for(lambda: notice.number)
    assert os.read(read_end, 1) == bytes([_TERM])


def test_second_one_ends_a_process_that_is_stuck_outside_python():
    code = """
    import ctypes, os, signal, sys, threading, time
    from tfdist.checkpoint import preemption
    def kill():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.2)
    with preemption.notices():
        threading.Thread(target=kill, daemon=True).start()
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)  # waits for itself
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[4:] for line in code.splitlines())],
        env=launching.environ_with(),
        timeout=30,
        check=False,
    )
    assert done.returncode == 128 + _TERM
    assert time.monotonic() - began < 10


# What a process that is forked inherits, each in a process without other threads.
_IN_A_FORK = {
    "told to end, as a pool ends its processes": """
        child = fork(lambda: time.sleep(60))
        time.sleep(0.5)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
    """,
    "told to end before it has put anything back": """
        child = fork(lambda: time.sleep(60))
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
    """,
    "forked within two blocks, and a handler of the program's own": """
        with preemption.notices() as inner:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
            child = fork(lambda: time.sleep(60))
            time.sleep(0.5)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            assert inner.number == 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    """,
    "forked by another thread": """
        made = []
        thread = threading.Thread(target=lambda: made.append(fork(lambda: time.sleep(60))))
        thread.start()
        thread.join()
        os.kill(made[0], signal.SIGTERM)
        assert os.waitpid(made[0], 0)[1] == signal.SIGTERM
    """,
    "leaves the block itself": """
        child = os.fork()
        if not child:
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    """,
    "a block of its own": """
        def own():
            with preemption.notices() as inner:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)
                os._exit(inner.number)
        child = fork(own)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == signal.SIGTERM
    """,
}


@pytest.mark.parametrize("what", _IN_A_FORK)
def test_forked_process_has_its_signals_for_itself(what):
    body = textwrap.dedent(_IN_A_FORK[what])
    _run_in_a_block(body + "time.sleep(0.2)\nassert notice.number == 0")


def test_forked_process_that_lives_on_keeps_nobody_waiting():
    _run_in_a_block("child = fork(lambda: time.sleep(60))", "os.kill(child, signal.SIGKILL)")


def _run_in_a_block(body, after="pass"):
    """Runs lines within `notices`, in a process of its own, and some after it; within 10 s."""
    begin = """
import os, signal, threading, time
os.register_at_fork(after_in_child=lambda: time.sleep(0.2))  # as on a busy machine
from tfdist.checkpoint import preemption
def fork(work):
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child
with preemption.notices() as notice:
"""
    code = begin + textwrap.indent(body, "    ") + f"\n{after}\n"
    code += "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=launching.environ_with(),
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------- in `fit`

_X = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
_Y = np.arange(20) % 3


class SignalAt(keras.callbacks.Callback):
    """Sends this process a signal at the n-th batch; waits until it has been heard."""

    def __init__(self, batch, number):
        super().__init__()
        self._left, self._number = batch, number

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
            time.sleep(0.2)


def _fit(folder, *callbacks, **kwargs):
    keras.utils.set_random_seed(5)
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dropout(0.4), keras.layers.Dense(3, "softmax")]
        )
        model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "checkpoint_dir": folder, **kwargs}
    history = tfdist.fit(model, _X, _Y, callbacks=list(callbacks), **options)
    return history, model.get_weights()


class SignalIn(keras.callbacks.Callback):
    """Sends this process SIGTERM in a hook of the first epoch."""

    def __init__(self, hook):
        super().__init__()
        self._hook, self._is_sent = hook, False

    def on_test_batch_end(self, batch, logs=None):
        self._send("on_test_batch_end", batch == 1)

    def on_epoch_begin(self, epoch, logs=None):
        self._send("on_epoch_begin", epoch == 0)

    def on_epoch_end(self, epoch, logs=None):
        self._send("on_epoch_end", epoch == 0)

    def _send(self, hook, is_now):
        if hook == self._hook and is_now and not self._is_sent:
            self._is_sent = True
            os.kill(os.getpid(), _TERM)
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("hook", "step", "kwargs"),
    [
        ("on_epoch_begin", 1, {}),
        ("on_test_batch_end", 5, {"save_every": 100}),
        ("on_epoch_end", 5, {}),
    ],
)
def test_fit_leaves_after_validation_and_callbacks_too(tmp_path, caplog, hook, step, kwargs):
    validation = {"validation_data": (_X[:9], _Y[:9]), "validation_batch_size": 3}
    undisturbed = _fit(None, **validation)
    with pytest.raises(SystemExit) as left:
        _fit(tmp_path, SignalIn(hook), **validation, **kwargs)
    assert left.value.code == PREEMPTED
    assert f"SIGTERM has come: the run is saved at step {step} " in caplog.text
    history, weights = _fit(tmp_path, **validation, **kwargs)
    assert history.history == undisturbed[0].history
    assert "val_loss" in history.history
    for after, expected in zip(weights, undisturbed[1], strict=True):
        np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("batch", "number", "kwargs"),
    [
        pytest.param(3, _TERM, {}, id="amid an epoch"),
        pytest.param(5, _USR1, {"save_every": 2}, id="at an epoch's end"),
        pytest.param(7, _TERM, {"save_every": 100}, id="long before a save is due"),
    ],
)
def test_fit_saves_leaves_and_goes_on_to_the_same_bits(tmp_path, caplog, batch, number, kwargs):
    undisturbed = _fit(None)
    with pytest.raises(SystemExit) as left:
        _fit(tmp_path, SignalAt(batch, number), **kwargs)
    assert left.value.code == PREEMPTED
    assert f"{number.name} has come: the run is saved at step {batch} " in caplog.text
    history, weights = _fit(tmp_path, **kwargs)
    assert history.history == undisturbed[0].history
    for after, expected in zip(weights, undisturbed[1], strict=True):
        np.testing.assert_array_equal(after, expected)


class _Rows(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, number):
        rows = slice(4 * number, 4 * number + 4)
        return _X[rows], _Y[rows]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Keras forks
def test_fit_is_not_told_to_leave_by_the_end_of_the_processes_that_read(tmp_path):
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
    data = _Rows(workers=2, use_multiprocessing=True)
    history = tfdist.fit(model, data, epochs=2, verbose=0, checkpoint_dir=tmp_path)
    assert len(history.history["loss"]) == 2


def test_signal_in_the_last_step_of_all_ends_as_if_none_had_come(tmp_path):
    history, _ = _fit(tmp_path, SignalAt(10, _TERM), epochs=1)
    assert len(history.history["loss"]) == 1


def test_without_a_folder_a_signal_does_what_it_always_does():
    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(signal.getsignal(_TERM))

    seen = []
    _fit(None, Look(), epochs=1)
    assert seen == [signal.getsignal(_TERM)]


# ------------------------------------------------------------------------- under the launcher

_TRAIN = """
import os, signal, sys, time, keras, numpy as np, tfdist

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)
        step = int(self.model.optimizer.iterations.numpy())
        print("step", step, flush=True)
        is_first = os.environ["TFDIST_RESTART_COUNT"] == "0"
        if step == int(sys.argv[2]) and os.environ["TFDIST_RANK"] == sys.argv[3] and is_first:
            os.kill(os.getpid(), signal.SIGTERM)

keras.utils.set_random_seed(5)
with tfdist.get_strategy("multi_worker").scope():
    layers = [keras.Input((5,)), keras.layers.Dropout(0.4), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
options = {"batch_size": 4, "epochs": 3, "verbose": 0, "checkpoint_dir": sys.argv[1]}
tfdist.fit(model, x, np.arange(40) % 3, callbacks=[Slow()], **options)
print("weights", b"".join(w.tobytes() for w in model.get_weights()).hex())
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_workers_leave_together_and_go_on_to_the_same_bits(tmp_path):
    path = launching.write_program(tmp_path, _TRAIN)
    device = ("--workers=2", path)

    def weights(done):
        assert done.returncode == 0, done.stderr
        return [launching.lines_of(done, rank)[-1] for rank in (0, 1)]

    expected = weights(launching.launch(*device, tmp_path / "a", 0, 0, limit_secs=120))
    assert expected[0].startswith("weights ")
    # One worker alone is told to leave; all are started anew.
    done = launching.launch("--max_restarts=1", *device, tmp_path / "b", 7, 1, limit_secs=120)
    assert weights(done) == expected
    assert "before restart 1, preempted: a worker was told to leave" in done.stderr
    # The launcher is told to stop; the same command goes on.
    with launching.start(*device, tmp_path / "c", 0, 0) as launcher:
        while "step 7" not in launcher.stdout.readline():
            pass
        launcher.send_signal(_USR1)
        _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == PREEMPTED
    assert "preempted: stopped by SIGUSR1; the run is saved" in err
    assert len([p for p in pathlib.Path(tmp_path / "c").iterdir() if p.is_dir()]) == 1
    assert weights(launching.launch(*device, tmp_path / "c", 0, 0, limit_secs=120)) == expected


_TRAIN_AND_VALIDATE = """
import os, signal, sys, time, keras, numpy as np, tfdist

class Tell(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        self.tell("validation")
    def on_epoch_end(self, epoch, logs=None):
        self.tell("callback")
    def tell(self, where):
        step = int(self.model.optimizer.iterations.numpy())
        is_first = os.environ["TFDIST_RESTART_COUNT"] == ("0" if where == "validation" else "1")
        is_here = step == (10 if where == "validation" else 20)
        if len(sys.argv) > 2 and is_first and is_here and os.environ["TFDIST_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

keras.utils.set_random_seed(5)
with tfdist.get_strategy("multi_worker").scope():
    layers = [keras.Input((5,)), keras.layers.Dropout(0.4), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
y = np.arange(40) % 3
options = {"batch_size": 4, "epochs": 3, "verbose": 0, "checkpoint_dir": sys.argv[1]}
history = tfdist.fit(
    model, x, y, validation_data=(x[:9], y[:9]), callbacks=[Tell()], **options
)
print("history", history.history)
print("weights", b"".join(w.tobytes() for w in model.get_weights()).hex())
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_workers_leave_after_validation_and_callbacks(tmp_path):
    path = launching.write_program(tmp_path, _TRAIN_AND_VALIDATE)
    undisturbed = launching.launch("--workers=2", path, tmp_path / "a", limit_secs=200)
    assert undisturbed.returncode == 0, undisturbed.stderr
    # One worker alone is told, in validation at first, and in a callback after the restart.
    flags = ("--workers=2", "--max_restarts=2")
    done = launching.launch(*flags, path, tmp_path / "b", "told", limit_secs=250)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        expected = launching.lines_of(undisturbed, rank)[-2:]
        assert expected[1].startswith("weights ")
        assert launching.lines_of(done, rank)[-2:] == expected
    for restart in (1, 2):
        cause = "preempted: a worker was told to leave"
        assert f"before restart {restart}, {cause}" in done.stderr
    for step in (10, 20):
        assert f"the run is saved at step {step} " in done.stderr
