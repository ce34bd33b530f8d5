"""Does `tfdist verify` certify a right program, and find what differs in a wrong one?

Each run of it starts two processes of TensorFlow or three, so they are slow tests (half a minute).
"""

from __future__ import annotations

import textwrap

import pytest

from tfdist.cli import verify

_PROGRAM = """
import sys
import numpy as np, keras, tensorflow as tf
keras.config.set_floatx("float64")
x = np.random.rand(9, 3)

class Own(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = getattr(tf, sys.argv[1])((self(x) - y) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}

model = Own([keras.layers.Dense(1)])
model.compile("sgd")
model.fit(x, x[:, :1], batch_size=4, epochs=3)
raise RuntimeError("what comes after the steps does not happen")
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(_PROGRAM))
    return str(path)


@pytest.mark.slow
def test_a_right_program_agrees(program, capfd):
    assert verify.main(["--steps=4", program, "reduce_mean"]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith("agree to ")
    assert "4 steps on 2 replicas (1 x 2xcpu) against one device" in shown


@pytest.mark.slow
def test_a_wrong_program_is_found(program, capfd):
    assert verify.main(["--workers=2", "--device=cpu", program, "reduce_sum"]) == 1
    shown = capfd.readouterr().out
    assert shown.startswith("DIFFER in step 1")
    assert "2 replicas (2 x cpu) against one device" in shown


@pytest.mark.slow
def test_a_program_without_fit_is_told(tmp_path, capfd):
    path = tmp_path / "nothing.py"
    path.write_text("print('no fit here')")
    assert verify.main([str(path)]) == 2
    assert "ended without a call of Keras's fit" in capfd.readouterr().err


def test_a_missing_program_is_told(capfd):
    with pytest.raises(SystemExit):
        verify.main(["no_such.py"])
    assert "program='no_such.py' is not there" in capfd.readouterr().err
