"""Is it seen how far each worker has come?"""

from __future__ import annotations

import keras
import numpy as np

import tfdist
from tfdist.cluster import contract
from tfdist.cluster.progress import Progress, read_progress


def _progress(folder, rank=0):
    return Progress({contract.RUN_DIR: str(folder), contract.RANK: str(rank)})


def test_count_is_there_within_blocks_alone(tmp_path):
    progress, seen = _progress(tmp_path, 3), []

    def look():
        seen.append(read_progress(str(tmp_path), 3))

    look()
    with progress:
        look()
        progress.ticking(look)()
        look()
        with progress:  # an `evaluate` inside a `fit`
            look()
        progress.tick()
        look()
    look()
    with progress:  # it never looks as if nothing had happened meanwhile
        look()
    assert seen == [0, 1, 2, 3, 4, 5, 0, 6]


def test_nothing_is_written_without_a_launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Progress({}) as progress:
        progress.tick()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_or_lost_folder_ends_no_run(tmp_path, caplog):
    (tmp_path / "progress_0").symlink_to("/dev/full")
    for folder in (tmp_path, tmp_path / "gone"):
        with _progress(folder) as progress:
            progress.tick()
            progress.tick()
    told = [record.getMessage() for record in caplog.records]
    assert ["No space left" in told[0], "No such file" in told[1], len(told)] == [True, True, 2]


def test_every_step_of_a_run_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv(contract.RUN_DIR, str(tmp_path))
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.look("fit")

        def on_test_batch_end(self, batch, logs=None):
            self.look("evaluate")

        def on_predict_batch_begin(self, batch, logs=None):
            self.look("predict")

        def look(self, name):
            seen.setdefault(name, []).append(read_progress(str(tmp_path), 0))

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    x, look = np.ones((6, 2)), {"callbacks": [Look()], "batch_size": 2, "verbose": 0}
    tfdist.fit(model, x, x, validation_data=(x, x), **look)
    tfdist.evaluate(model, x, x, **look)
    tfdist.predict(model, x, **look)
    assert {name: len(counts) for name, counts in seen.items()} == {
        "fit": 3, "evaluate": 6, "predict": 3,
    }
    assert all(np.diff(counts).min() >= 2 for counts in seen.values()), seen
    assert read_progress(str(tmp_path), 0) == 0
