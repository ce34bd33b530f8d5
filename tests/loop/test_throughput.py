"""Does Keras's bar show the examples a second of all workers, and nothing else get them?"""

from __future__ import annotations

import keras
import pytest

from tfdist.loop import throughput


@pytest.fixture
def now():
    """A clock that is set."""
    return {"secs": 100.0}


def _bar(now, *, verbose=1, steps=4):
    bar = keras.callbacks.ProgbarLogger()
    history = keras.callbacks.History()
    throughput.show_examples_per_sec(
        [history, bar], examples_of_step=32.5, clock=lambda: now["secs"]
    )
    inside = keras.callbacks.CallbackList(
        [history, bar], verbose=verbose, epochs=1, steps=steps, model=keras.Sequential()
    )
    inside.on_train_begin()
    return inside, history


def test_it_is_shown_in_an_epoch_and_at_its_end(now, capsys):
    bar, history = _bar(now)
    bar.on_epoch_begin(0)
    now["secs"] += 2.0
    bar.on_train_batch_end(1, {"loss": 1.0})  # two of four steps
    assert "loss: 1.0000 - examples/s: 32.0000" in capsys.readouterr().out  # 65 / 2, to even
    now["secs"] += 2.0
    bar.on_train_batch_end(3, {"loss": 0.5})
    logs = {"loss": 0.5}
    bar.on_epoch_end(0, logs)
    assert "loss: 0.5000 - examples/s: 32.0000" in capsys.readouterr().out  # 130 / 4
    assert logs == {"loss": 0.5}
    assert history.history == {"loss": [0.5]}


def test_the_time_of_validation_does_not_count(now, capsys):
    bar, _ = _bar(now, verbose=2)  # no batch is told
    bar.on_epoch_begin(0)
    now["secs"] += 1.0
    bar.on_test_begin()
    now["secs"] += 9.0
    bar.on_epoch_end(0, {"loss": 0.5, "val_loss": 0.25})
    assert "val_loss: 0.2500 - examples/s: 130.0000" in capsys.readouterr().out


def test_an_epoch_that_another_process_began_has_none(now, capsys):
    bar, _ = _bar(now)
    now["secs"] += 1.0
    bar.on_train_batch_end(3, {"loss": 1.0})
    shown = capsys.readouterr().out
    assert "loss: 1.0000" in shown
    assert "examples/s" not in shown
