"""Is what a private training spends told, kept over stops, and never more than was promised?"""

from __future__ import annotations

import math
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import pytest
from parity.worlds import local_strategy

import tfdist
from tfdist.privacy import DPSGD, Mechanism, epsilon

_X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
_Y = np.arange(40) % 3
_PRIVACY = {
    "l2_norm_clip": 1.0, "noise_multiplier": 1.5, "delta": 1e-3, "expected_batch_size": 8, "seed": 1
}  # fmt: skip
_STEPS = 5  # of an epoch
_CAP = DPSGD(**_PRIVACY).cap(40)
_MECHANISM = Mechanism(1.5, 8 / 40, _CAP, 40)


def _model() -> keras.Model:
    keras.utils.set_random_seed(0)
    with local_strategy(2).scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
    return model


def _fit(model: keras.Model, *, x: Any = _X, epochs: int = 2, **given: Any) -> Any:
    asked = {name: given.pop(name) for name in list(given) if name in DPSGD.__dataclass_fields__}
    return tfdist.fit(
        model, x, _Y[: len(x)], epochs=epochs, verbose=0, **given,
        privacy=DPSGD(**_PRIVACY | asked),
    ).history


class _Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == 7:
            raise KeyboardInterrupt


def test_epsilon_is_told_each_epoch_and_adds_up_over_fits(logical_cpus):
    model = _model()
    history = _fit(model)
    expected = [epsilon([(_MECHANISM, n * _STEPS)], delta=1e-3) for n in (1, 2)]
    assert history["epsilon"] == expected
    other = Mechanism(3.0, 8 / 40, _CAP, 40)
    history = _fit(model, noise_multiplier=3.0, epochs=1)
    both = [(_MECHANISM, 2 * _STEPS), (other, _STEPS)]
    assert history["epsilon"] == [epsilon(both, delta=1e-3)]


@pytest.mark.slow  # 10 s: only it sees a ledger that begins anew after a stop
def test_a_run_goes_on_with_what_it_has_spent(tmp_path, logical_cpus):
    whole = _model()
    logs = _fit(whole, epochs=3)
    kept = {"checkpoint_dir": str(tmp_path), "save_every": 3}
    with pytest.raises(KeyboardInterrupt):
        _fit(_model(), epochs=3, callbacks=[_Stop()], **kept)
    resumed = _model()
    again = _fit(resumed, epochs=3, **kept)
    assert again["epsilon"] == logs["epsilon"]
    for own, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)  # with the seed that tests may give
    # What was spent before a run is part of its checkpoints, too.
    more = {"checkpoint_dir": str(tmp_path / "more")}
    first = _fit(resumed, epochs=1, **more)
    assert _fit(_model(), epochs=2, **more)["epsilon"][:1] == first["epsilon"]
    expected = epsilon([(_MECHANISM, 4 * _STEPS)], delta=1e-3)
    assert first["epsilon"] == pytest.approx([expected], rel=1e-6)


@pytest.fixture(scope="module")
def checkpoints(logical_cpus, tmp_path_factory):
    """Returns a folder with the checkpoints of a private training."""
    folder = str(tmp_path_factory.mktemp("private"))
    _fit(_model(), epochs=1, checkpoint_dir=folder)
    return folder


@pytest.mark.parametrize(
    "changed",
    [{"x": _X[:39]}, {"expected_batch_size": 7}, {"l2_norm_clip": 2.0}, {"noise_multiplier": 1.0},
     {"batch_cap": 12}, {"delta": 1e-4, "batch_cap": _CAP}],  # by default, delta decides the cap
)  # fmt: skip
def test_another_run_does_not_go_on_from_it(changed, checkpoints):
    model = _model()
    with pytest.raises(ValueError, match="privacy|data"):
        _fit(model, epochs=2, checkpoint_dir=checkpoints, **changed)


def test_a_run_goes_on_in_pieces(checkpoints, tmp_path, logical_cpus):
    found = []
    for size in (None, 3):
        folder = str(tmp_path / str(size))
        shutil.copytree(checkpoints, folder)
        model = _model()
        told = _fit(model, epochs=2, checkpoint_dir=folder, physical_batch_size=size)
        found.append((model.get_weights(), told["epsilon"]))
    (weights, spent), (others, other_spent) = found
    assert spent == other_spent
    for own, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)


def test_a_run_without_privacy_does_not_go_on_from_it(checkpoints):
    model = _model()
    with pytest.raises(ValueError, match="privacy"):
        tfdist.fit(model, _X, _Y, checkpoint_dir=checkpoints, verbose=0, batch_size=8)


@pytest.mark.slow  # 5 s: only it sees a secret in a checkpoint
def test_no_file_holds_the_secret_of_a_training(tmp_path, monkeypatch, logical_cpus):
    drawn: list[bytes] = []

    def kept(size: int) -> bytes:
        drawn.append(bytes(range(len(drawn), len(drawn) + size)))
        return drawn[-1]

    monkeypatch.setattr("tfdist.privacy.draws.os.urandom", kept)
    for epochs in (1, 2):  # the second one goes on
        _fit(_model(), epochs=epochs, seed=None, checkpoint_dir=str(tmp_path))
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]
    files = [path.read_bytes() for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()]
    assert files
    for secret in drawn:
        number = str(int.from_bytes(secret, "little")).encode()
        assert not any(secret in one or secret.hex().encode() in one for one in files)
        assert not any(number in one for one in files)


@pytest.mark.slow  # 5 s: only it sees a fit that spends more than its target
def test_a_target_is_kept_by_the_noise_that_is_told(capsys, logical_cpus):
    asked = DPSGD(**_PRIVACY | {"noise_multiplier": None, "target_epsilon": 1.0})
    found = tfdist.fit(_model(), _X, _Y, verbose=2, privacy=asked)
    assert 0.98 < found.history["epsilon"][-1] <= 1.0
    assert capsys.readouterr().out.count("keeps epsilon 1.0 at delta 0.001 over 5 steps") == 1


def test_what_is_not_private_is_said(caplog, logical_cpus):
    stopping = [keras.callbacks.EarlyStopping("loss"), keras.callbacks.EarlyStopping("val_loss")]
    _fit(_model(), epochs=1, callbacks=stopping, validation_data=(_X, _Y))
    told = [one for one in caplog.messages if "trained privately" in one]
    assert len(told) == 1
    assert told[0].count("EarlyStopping") == 1


def test_without_noise_nothing_is_promised(logical_cpus):
    assert _fit(_model(), epochs=1, noise_multiplier=0.0)["epsilon"] == [math.inf]
