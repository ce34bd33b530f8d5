"""tests of tfdist/training/callback_files.py; what workers write is in test_shared_events.py"""

from __future__ import annotations

import os

import keras
import pytest

from tfdist.training import callback_files

PATH_ATTRIBUTES = [
    (lambda p: keras.callbacks.ModelCheckpoint(f"{p}/{{epoch}}.keras"), "filepath"),
    (lambda p: keras.callbacks.BackupAndRestore(f"{p}/backup"), "backup_dir"),
    (lambda p: keras.callbacks.CSVLogger(f"{p}/log.csv"), "filename"),
    (lambda p: keras.callbacks.TensorBoard(f"{p}/board"), "log_dir"),
]


@pytest.mark.parametrize(
    ("make", "attribute"), PATH_ATTRIBUTES, ids=[row[1] for row in PATH_ATTRIBUTES]
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_worker_that_is_not_the_chief_writes_elsewhere(make, attribute, listed, tmp_path):
    callback = make(tmp_path)
    before = dict(vars(callback))
    given = keras.callbacks.CallbackList([callback]) if listed else [[callback]]
    with callback_files.files_of_chief_alone(given, is_chief=False):
        path = getattr(callback, attribute)
        assert not any(str(value).startswith(str(tmp_path)) for value in vars(callback).values())
        assert os.path.isdir(os.path.dirname(path))
        assert os.path.basename(path) == os.path.basename(before[attribute])
    assert vars(callback) == before
    assert not os.path.exists(os.path.dirname(path))


def test_the_chief_writes_where_it_was_told(tmp_path):
    callback = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    with callback_files.files_of_chief_alone([callback], is_chief=True):
        assert callback.filename == str(tmp_path / "log.csv")


def test_callbacks_are_as_they_were_after_an_error(tmp_path):
    callback, seen = keras.callbacks.RemoteMonitor(), []

    def fails():
        with callback_files.files_of_chief_alone(callback, is_chief=False):
            seen.append("on_epoch_end" in vars(callback))
            raise KeyError

    pytest.raises(KeyError, fails)
    assert seen == [True]
    assert "on_epoch_end" not in vars(callback)


def test_a_callback_that_cannot_be_led_elsewhere_is_refused():
    kind = type("OrbaxCheckpoint", (keras.callbacks.Callback,), {})
    with pytest.raises(ValueError, match="OrbaxCheckpoint.*checkpoint_dir"):
        callback_files.refuse_unable([kind()])
