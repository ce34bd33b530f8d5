"""Do callbacks know after a stop what they knew before it?"""

from __future__ import annotations

import json
import logging

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.checkpoint import plain_values
from tfdist.checkpoint.callback_state import CallbackState


class Counter(keras.callbacks.Callback):
    """Keeps values of many kinds, one of them without a plain form."""

    def __init__(self, limit: int = 3) -> None:
        super().__init__()
        self.limit, self.seen, self.best, self.resource = limit, [], None, object()

    def on_train_begin(self, logs=None):
        self.seen = []


class Own(keras.callbacks.Callback):
    """Says itself what it knows."""

    def __init__(self, state: object) -> None:
        super().__init__()
        self.state = state

    def get_state(self) -> object:
        return self.state

    def set_state(self, state: object) -> None:
        self.state = state


def _begun(*callbacks) -> CallbackState:
    state = CallbackState(callbacks)
    for callback in callbacks:
        callback.on_train_begin()
    state.begin()
    return state


def _travelled(state: CallbackState) -> dict:
    arrays: dict[str, np.ndarray] = {}
    return plain_values.decode(json.loads(json.dumps(state.take(arrays))), arrays)


def test_what_changed_since_the_beginning_is_the_state():
    before, after = Counter(limit=3), Counter(limit=5)
    state = _begun(before)
    before.seen.append((1, 0.5))
    before.best = {"weights": [np.arange(3.0)], "at": np.float32(2)}
    saved = _travelled(state)
    assert saved.keys() == {"Counter"}
    assert saved["Counter"].keys() == {"seen", "best"}
    _begun(after).give(saved)
    assert after.seen == [(1, 0.5)]
    assert after.best["weights"][0].tolist() == [0, 1, 2]
    assert type(after.best["at"]) is np.float32
    assert after.limit == 5  # configuration is that of the present command


def test_what_came_back_to_its_beginning_is_not():
    callback = Counter()
    state = _begun(callback)
    callback.best = 1
    assert "best" in _travelled(state)["Counter"]
    callback.best = None
    assert "best" not in _travelled(state)["Counter"]


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (lambda: keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
         ("best", "wait", "best_epoch", "stopped_epoch")),
        (lambda: keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, cooldown=2),
         ("best", "wait", "cooldown_counter")),
        (lambda: keras.callbacks.ModelCheckpoint("x.keras", save_best_only=True, monitor="loss"),
         ("best",)),
    ],
)
def test_callbacks_of_keras(make, attributes):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.save = lambda *args, **kwargs: None
    callbacks = [make(), make()]
    states = []
    for callback in callbacks:
        callback.set_model(model)
        states.append(_begun(callback))
    for epoch, loss in enumerate([3.0, 2.0, 2.5]):
        callbacks[0].on_epoch_begin(epoch)
        callbacks[0].on_epoch_end(epoch, {"loss": loss, "val_loss": loss})
    assert callbacks[1].best != callbacks[0].best
    states[1].give(_travelled(states[0]))
    for name in attributes:
        assert getattr(callbacks[1], name) == getattr(callbacks[0], name)
    if getattr(callbacks[0], "best_weights", None):
        for one, other in zip(callbacks[0].best_weights, callbacks[1].best_weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_callback_can_say_it_itself():
    after = Own(None)
    _begun(after).give(_travelled(_begun(Own({"a": (1, 2)}))))
    assert after.state == {"a": (1, 2)}


def test_what_it_says_must_be_plain():
    with pytest.raises(ValueError, match=r"Own.get_state\(\) returned .*object.* cannot be saved"):
        _travelled(_begun(Own([object()])))


def test_what_is_lost_is_said_once(caplog):
    callback = Counter()
    state = _begun(callback)
    with caplog.at_level(logging.WARNING, "tfdist"):
        _travelled(state)
        assert not caplog.records
        callback.resource = object()
        _travelled(state)
        _travelled(state)
    assert [record.getMessage() for record in caplog.records] == [
        "What Counter keeps in resource cannot be saved, and begins anew after a stop. Give the "
        "class get_state() and set_state(state) with plain values."
    ]


def test_callbacks_are_told_apart_by_class_and_number(caplog):
    before = [Counter(), Own(1), Counter()]
    state = _begun(*before)
    before[0].best, before[2].best = "first", "second"
    saved = _travelled(state)
    after = [keras.callbacks.ProgbarLogger(), Counter(), Counter(), keras.callbacks.History()]
    with caplog.at_level(logging.WARNING, "tfdist"):
        _begun(*after).give(saved)
    assert [after[1].best, after[2].best] == ["first", "second"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "The checkpoint does not know the callback History; it begins now.",
        "The checkpoint knows a callback Own, which is not given now.",
    ]


class Files(keras.callbacks.Callback):
    """Has files, and keeps what it has learnt of them."""

    def __init__(self, folder, limit=None, name=None):
        super().__init__()
        self.path, self.limit, self.name = f"{folder}/a", limit, name
        self.parts, self.phase, self.last, self.rates = [folder], None, None, {"a": 1}


@pytest.mark.parametrize(
    "forged",
    [
        {"path": "/etc/passwd"},
        {"path": 3},
        {"parts": []},
        {"parts": ["/etc/passwd"]},
        {"name": "other"},  # an argument
        {"limit": ["a", {"b": "c"}]},
        {"last": "/etc/passwd"},
        {"last": {"a": ("x", ["b/../../c"])}},
        {"last": "~/file"},
        {"last": "gs://bucket/file"},
        {"new": "..\\file"},
        {"on_epoch_end": 1},
        {"set_model": None},
        {"_model": None},
        {"params": {}},
    ],
    ids=str,
)
def test_configuration_is_not_taken_from_a_checkpoint(forged, caplog):
    callback = Files("logs")
    before = dict(vars(callback))
    state = _begun(callback)
    state.give({"Files": {**forged, "rates": {"a": 2}}})
    assert vars(callback) == {**before, "rates": {"a": 2}}
    [key] = forged
    assert f"The checkpoint gives {key!r} as state of Files." in caplog.text


@given(st.dictionaries(
    st.sampled_from(["path", "parts", "name", "last", "rates", "_model", "params", "set_params"]),
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ), max_size=3,
))  # fmt: skip
@settings(max_examples=60)
def test_no_forged_state_reaches_what_names_files(forged):
    callback = Files("logs")
    state = _begun(callback)
    state.give({"Files": forged})
    assert (callback.path, callback.parts) == ("logs/a", ["logs"])
    assert callable(callback.set_params)
    assert "_model" not in vars(callback) or callback._model is None


def test_what_may_be_state_is_taken():
    callback = Files("logs")
    learnt = {"limit": [3], "phase": "warm", "last": "model-3.keras", "new": ["loss", "val/loss"]}
    state = _begun(callback)
    state.give({"Files": learnt})
    assert {name: vars(callback)[name] for name in learnt} == learnt


def test_the_file_of_a_callback_of_keras_is_not_taken_from_a_checkpoint(tmp_path):
    callback = keras.callbacks.ModelCheckpoint(str(tmp_path / "a.keras"))
    _begun(callback).give({"ModelCheckpoint": {"filepath": "/etc/passwd", "best": 0.5}})
    assert (callback.filepath, callback.best) == (str(tmp_path / "a.keras"), 0.5)


def test_what_would_not_come_back_is_not_saved_and_told(caplog):
    callback = Files("logs")
    state = _begun(callback)
    callback.path, callback.rates = "logs/b", {"a": 3}
    assert _travelled(state) == {"Files": {"rates": {"a": 3}}}
    assert "What Files keeps in path cannot be saved" in caplog.text


def test_a_list_that_holds_itself_is_lost_and_told(caplog):
    callback = Counter()
    callback.seen.append(callback.seen)
    state = _begun(callback)  # on_train_begin makes another list
    callback.seen.append(callback.seen)
    assert "seen" not in _travelled(state)["Counter"]
    assert "What Counter keeps in seen cannot be saved" in caplog.text


@pytest.mark.parametrize("size", [-1, "many", [], 2.5])
def test_forged_size_of_a_csv_log_cuts_nothing(tmp_path, size):
    path = tmp_path / "log.csv"
    path.write_text("epoch\n0\n")
    callback = keras.callbacks.CSVLogger(str(path))
    CallbackState([callback]).prepare({"CSVLogger": {"file size": size}})
    assert path.read_text() == "epoch\n0\n"


def test_rows_of_a_csv_log_come_once(tmp_path):
    path = tmp_path / "log.csv"

    def logger():
        callback = keras.callbacks.CSVLogger(str(path))
        callback.set_model(keras.Sequential())
        return callback

    before = logger()
    state = _begun(before)
    before.on_epoch_end(0, {"loss": 1.0})
    saved = _travelled(state)
    before.on_epoch_end(1, {"loss": 9.0})  # after the checkpoint: the process is killed here
    before.csv_file.close()
    after = logger()
    state = CallbackState([after])
    state.prepare(saved)
    after.on_train_begin()
    state.begin()
    state.give(saved)
    after.on_epoch_end(1, {"loss": 0.5})
    after.on_train_end()
    assert path.read_text().split() == ["epoch,loss,val_loss", "0,1.0,NA", "1,0.5,NA"]
