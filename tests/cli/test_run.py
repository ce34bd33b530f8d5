"""Does an unchanged program run distributed, from outside?"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tfdist.tracking import JsonLines

_PROGRAM = """
import sys
import keras, numpy as np
keras.utils.set_random_seed(1)
x = np.arange(30.0).reshape(10, 3)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
model.fit(x / 30, x[:, :2] / 30, batch_size=3, shuffle=False, verbose=0)
print(sys.argv[1:], __name__, model.distribute_strategy.num_replicas_in_sync)
print("weights", *np.concatenate([w.ravel() for w in model.get_weights()]))
if "fail" in sys.argv and __import__("os").environ.get("TFDIST_RANK") == "1":
    print("words of the other worker")
    raise KeyError("planted")
"""
_SUM = """
import keras, numpy as np
keras.utils.set_random_seed(0)  # others begin with weights for which the step is one device's
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", lambda y, p: keras.ops.sum((y - p) ** 2, -1) * keras.ops.mean(p))
model.fit(np.arange(12.0).reshape(4, 3) / 12, np.ones((4, 2)), batch_size=4, verbose=0)
print("trained")
"""
_NOTHING = "import keras; print(keras.Variable([1.0]).shape)"


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    return str(path)


def _run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=200,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == code, done.stderr
    return done


def _weights(done: subprocess.CompletedProcess[str]) -> list[float]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("weights")]
    assert len(lines) == 1
    return [float(text) for text in lines[0].split()[1:]]


@pytest.mark.slow
def test_replicas_train_as_one_device(program):
    expected = _weights(_run(program, "a"))
    track = f"--track=json:{program}.jsonl"
    done = _run("-m", "tfdist", "run", "--device=2xcpu", track, program, "a", "--b=1")
    start, *_, end = JsonLines.read(f"{program}.jsonl")
    assert start["config"]["replicas"] == 2
    assert end["status"] == "finished"
    assert "['a', '--b=1'] __main__ 2" in done.stdout
    assert "nothing was distributed" not in done.stderr
    assert _weights(done) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_workers_train_as_one_device(program):
    run = ("-m", "tfdist", "run", "--workers=2", "--device=cpu")
    done = _run(*run, program, "fail", code=1)
    chosen = [line for line in done.stderr.splitlines() if line.startswith("tfdist: ")]
    assert len(chosen) == 1
    assert "replicas=2 workers=2 rank=0" in chosen[0]
    assert "['fail'] __main__ 2" in done.stdout
    assert "[worker" not in done.stdout
    assert _weights(done) == pytest.approx(_weights(_run(program, "a")), abs=1e-5)
    assert "words of the other worker" not in done.stderr
    # The worker and the sentence, the traceback, and the path of the log, in this order.
    told = [line for line in done.stderr.splitlines() if line.startswith("tfdist.launch:")]
    told = [line.removeprefix("tfdist.launch:").strip() for line in told]
    assert told[0] == "worker 1 failed first: exit code 1: KeyError: 'planted'"
    assert told[1] == "Traceback (most recent call last):"
    assert told[2].startswith(f'File "{program}"')
    assert told[-1].startswith("the whole output of worker 1: ")
    log = pathlib.Path(told[-1].rpartition(": ")[2])
    assert "words of the other worker" in log.read_text()
    shutil.rmtree(log.parent)


def test_a_program_that_distributes_nothing_is_told_so(tmp_path):
    path = tmp_path / "nothing.py"
    path.write_text(_NOTHING)
    done = _run("-m", "tfdist", "run", "--device=2xcpu", str(path))
    assert "nothing was distributed over the 2 replicas" in done.stderr
    assert done.stdout.strip() == "(1,)"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("no_such.py",), "program='no_such.py' is not there"),
        (("--workers=0", __file__), "workers=0 must be a whole number from 1"),
        (("--track=csv", __file__), "names 'csv', which is none of json, mlflow"),
        (("--device=banana", __file__), "tfdist run: device='banana'"),
    ],
)
def test_wrong_flags_are_told(flags, text):
    assert text in _run("-m", "tfdist", "run", *flags, code=2).stderr


@pytest.mark.slow
def test_the_first_step_is_checked_unless_it_is_told_not_to(tmp_path):
    path = tmp_path / "sum.py"
    path.write_text(_SUM)
    done = _run("-m", "tfdist", "run", "--device=2xcpu", str(path), code=1)
    assert "The first step is not one device's" in done.stderr
    assert "--check=off" in done.stderr
    done = _run("-m", "tfdist", "run", "--device=2xcpu", "--check=off", str(path))
    assert done.stdout == "trained\n"


_BY_HAND = """
import keras, tensorflow as tf
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)

@tf.function
def step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

step(tf.ones((4, 2)))
"""


def test_a_loop_by_hand_is_told_what_it_needs(tmp_path):
    path = tmp_path / "by_hand.py"
    path.write_text(_BY_HAND)
    done = _run("-m", "tfdist", "run", "--device=2xcpu", str(path), code=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"RuntimeError: {path} takes gradients in a loop of its own")
    assert "Make the loop's step by tfdist.make_train_step" in last
