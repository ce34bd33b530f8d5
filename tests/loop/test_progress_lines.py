"""Does Keras's bar write whole lines into files, and stay as it is where it is watched?"""

from __future__ import annotations

import io
import os
import sys

import keras
import pytest

import tfdist
from tfdist.cluster import contract
from tfdist.loop import progress_lines

_STEPS = 8


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _written(monkeypatch, stream):
    """Returns what a fit, an evaluation and a prediction write."""
    monkeypatch.setattr(sys, "stdout", stream)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = keras.ops.convert_to_numpy(keras.ops.ones((_STEPS, 2)))
    tfdist.fit(model, x, x[:, :1], batch_size=1, epochs=2, verbose=1)
    tfdist.evaluate(model, x, x[:, :1], batch_size=1, verbose=1)
    tfdist.predict(model, x, batch_size=1, verbose=1)
    return stream.getvalue()


def test_a_file_gets_a_line_an_epoch(monkeypatch):
    lines = [line for line in _written(monkeypatch, io.StringIO()).split("\n") if line.strip()]
    assert not any("\b" in line or "\r" in line for line in lines)
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert len(lines) == 6  # a bar an epoch, one of the evaluation, one of the prediction
    assert sum(f"{_STEPS}/{_STEPS}" in line for line in lines) == 4


def test_it_grows_by_a_line_where_it_lasts(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar = keras.callbacks.ProgbarLogger()
    bar.set_params({"verbose": 1, "epochs": 1, "steps": 3})
    progress_lines.write_lines([bar], secs=0.0)
    bar.on_epoch_begin(0)
    for batch in range(3):
        bar.on_train_batch_end(batch, {"loss": float(batch)})
    shown = sys.stdout.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert [word for word in shown.split() if word[1:2] == "/"] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize("why", ["terminal", "launcher"])
def test_where_it_is_watched_it_is_drawn_over_itself(monkeypatch, why):
    stream = _Terminal() if why == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    environ = {contract.RANK: "0"} if why == "launcher" else {}
    assert progress_lines.is_watched(stream, {}, environ)
    bar = keras.callbacks.ProgbarLogger()
    before = bar.on_epoch_begin
    monkeypatch.setattr(os, "environ", environ)
    progress_lines.write_lines([bar])
    assert bar.on_epoch_begin == before


def test_a_notebook_watches():
    assert progress_lines.is_watched(io.StringIO(), {"ipykernel": None}, {})
    assert progress_lines.is_watched(io.StringIO(), {}, {"PYCHARM_HOSTED": "1"})
    assert not progress_lines.is_watched(io.StringIO(), {}, {})
