"""Does no client change the sum by more than it may, and is the noise as large as is promised?

Draws of the system's random source are replaced by seeded ones here, so none of these tests is a
matter of luck.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import tfdist
from tfdist import federated
from tfdist.federated import messages
from tfdist.federated.channel import InProcess
from tfdist.federated.collecting import Plain
from tfdist.federated.learner import Learner
from tfdist.federated.secure.ring import Ring
from tfdist.federated.site import WEIGHTS, Site
from tfdist.federated.task import Task
from tfdist.federated.user_privacy import Releasing, clipped
from tfdist.privacy.accountant import Mechanism, epsilon

_RNG = np.random.default_rng(2)
_CLIENTS = {name: (_RNG.normal(size=(n, 3)), _RNG.normal(size=n)) for n, name in
            enumerate("abcde", start=3)}  # fmt: skip
_ASKED = federated.UserPrivacy(clip=0.3, delta=1e-5, noise_multiplier=1.5)


def _build() -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


def _fit(clients: Any = None, **kwargs: Any) -> federated.Federated:
    kwargs = {"rounds": 1, "batch_size": 40, "device": "cpu", "verbose": 0, **kwargs}
    return federated.fit(_build, clients or _CLIENTS, **kwargs)


_numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


@hypothesis.example([], [np.nan], 1.0)
@hypothesis.example([1.0], [np.nan, 2.0], 1.0)
@hypothesis.given(st.lists(_numbers, max_size=6), st.lists(_numbers, max_size=6),
                  st.floats(1e-3, 1e3))  # fmt: skip
def test_no_change_is_longer_than_the_clip(first, second, norm):
    """Of any numbers, infinite, huge and tiny ones among them."""
    change = {"a": np.array(first, np.float64), "b": np.array(second, np.float64)}
    found = clipped(change, norm)
    numbers = np.concatenate([*change.values(), *found.values()])
    own, others = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    assert np.linalg.norm(others) <= norm * (1 + 1e-12)
    if not np.isfinite(own).all():
        assert not others.any()
    elif np.abs(own).max(initial=0) < 1e150 and np.linalg.norm(own) <= norm:
        np.testing.assert_array_equal(own, others)


def test_without_noise_it_is_the_mean_of_clipped_changes_over_the_expected_number():
    """By hand, with a client whose training breaks down, which counts as no change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Releasing, "drawn", lambda self, names: names[1:])
        asked = federated.UserPrivacy(clip=1.4, delta=1e-5, noise_multiplier=0.0)
        broken = {"f": (np.full((2, 3), np.nan), np.ones(2))}
        found = _fit({**_CLIENTS, **broken}, privacy=asked, fraction=0.9)
    start = _build().get_weights()
    total = [np.zeros(w.shape) for w in start]
    norms = []
    for name in "bcde":
        alone = _build()
        alone.fit(*_CLIENTS[name], batch_size=40, shuffle=False, verbose=0)
        change = [w.astype("f8") - s for w, s in zip(alone.get_weights(), start, strict=True)]
        norms.append(np.sqrt(sum(np.sum(c**2) for c in change)))
        for one, c in zip(total, change, strict=True):
            one += c * min(1, 1.4 / norms[-1])
    assert min(norms) < 1.4 < max(norms)  # both kinds
    for one, other, begin in zip(found.model.get_weights(), total, start, strict=True):
        np.testing.assert_allclose(one, begin + other / (0.9 * 6), rtol=1e-5, atol=1e-6)
    # Who was there, how many, and what they have lost is not told.
    [told] = found.rounds
    assert (told["clients"], told["left"], told["by_client"]) == ([], {}, {})
    assert told["examples"] == pytest.approx(0.9 * 6)
    assert told["logs"] == {"epsilon": float("inf")}


def test_secure_sums_are_clipped_after_rounding():
    """The integers of a client whose numbers all round up are no longer than the clip."""
    ring = Ring(1.0, 2**40, 2**15)
    assert ring.bits == 7
    clip = 5.6 / 2**7 * np.sqrt(50)  # clipped, each of 50 equal numbers is 5.6 steps

    class Learnt:
        shared = ("w",)

        def values(self, names: Any) -> Any:
            return {"w": np.full(50, 10.5)}

    class Rounding:
        resolution = ring.resolution

    site = Site("a", Learnt(), secure=Rounding(), clip=clip)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_values", lambda request, carried: {"w": np.full(50, 10.0)})
        patch.setattr(site, "_learnt", lambda request, values, carried: (9, {}))
        numbers, weight = site._numbers(None)
    assert weight == 1  # not the number of its examples
    sent = ring.encode(numbers, 1).view(np.int64)
    assert sent.all()
    assert np.linalg.norm(sent) * ring.resolution <= clip


def test_a_private_run_on_secure_sums_is_that_of_plain_ones():
    asked = federated.UserPrivacy(clip=0.3, delta=1e-5, noise_multiplier=0.0)
    one, other = (
        _fit(privacy=asked, secure=secure, rounds=2).model.get_weights()
        for secure in (None, federated.SecureSums(largest=0.3, max_examples=1))
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_private_site_tells_nothing_but_its_clipped_change():
    """Neither rows, logs nor metrics; and its clip, which a server has to reckon with."""
    learner = Learner(_build, tfdist.get_strategy("cpu"))
    data = _CLIENTS["a"]
    site = Site("a", learner, data=data, validation=data, clip=0.3)
    task, values = Task(round_number=0, seed=0), learner.values()
    arrays = {WEIGHTS + name: value for name, value in values.items()}
    asked = {kind: messages.pack(kind, {"task": task.told()}, arrays)
             for kind in ("train", "evaluate")}  # fmt: skip
    told = messages.unpack(site.handle(asked["train"]), "update").header
    assert told == {"clip": 0.3, "examples": 1, "logs": {}}
    with pytest.raises(ValueError, match="metrics of its own data, which tell of it"):
        site.handle(asked["evaluate"])
    other = Plain(InProcess({"a": site}), learner.shared, clip=0.2)
    with pytest.raises(ValueError, match="clips to 0.3, and the server reckons with 0.2"):
        other.collect(task, values, {}, ["a"])


def _releasing(seed: int = 0, sigma: float = 1.5, q: float = 0.2, n: int = 30) -> Releasing:
    found = Releasing(_ASKED, Mechanism(sigma, sampling_probability=q), population=n)
    found._noise = np.random.Generator(np.random.PCG64DXSM(seed))
    found._source = random.Random(seed)  # type: ignore[assignment]
    return found


def test_the_noise_has_the_scale_that_is_promised():
    """Chi-square of 400,000 numbers: sees a scale that is wrong by one per cent."""
    one = _releasing()
    zeros = {"a": np.zeros(200_000), "b": np.zeros(200_000)}
    first, second = one.mean(zeros), one.mean(zeros)
    wanted = 1.5 * 0.3 / (0.2 * 30)
    drawn = np.concatenate([*first.values()]) / wanted
    assert abs(drawn.mean()) < 5 / np.sqrt(400_000)
    assert abs(np.sum(drawn**2) - 400_000) < 5 * np.sqrt(2 * 400_000)
    for other in (first["b"], second["a"]):  # no two draws are the same, or alike
        assert abs(np.corrcoef(first["a"], other)[0, 1]) < 5 / np.sqrt(200_000)


def test_each_client_is_drawn_by_itself():
    """Inclusions, and the spread of the sizes, which draws of a fixed size do not have."""
    one, names = _releasing(), [str(i) for i in range(30)]
    draws = [one.drawn(names) for _ in range(4000)]
    counts = np.array([sum(name in drawn for drawn in draws) for name in names])
    spread = np.sqrt(4000 * 0.2 * 0.8)
    assert np.abs(counts - 800).max() < 5 * spread
    sizes = np.array([len(drawn) for drawn in draws])
    assert 0.9 < sizes.var() / (30 * 0.2 * 0.8) < 1.1
    assert (sizes == 0).sum() + (sizes == 1).sum() > 0  # also few


def test_noise_and_draws_have_no_seed():
    found = [_fit(privacy=_ASKED).model.get_weights()[0].tobytes() for _ in range(2)]
    assert found[0] != found[1]


def test_what_was_spent_is_told_and_goes_on(tmp_path):
    pytest.importorskip("dp_accounting", reason="pip install 'tfdist[privacy]'")
    kwargs: dict[str, Any] = {"fraction": 0.4, "privacy": _ASKED, "checkpoint_dir": tmp_path}
    _fit(rounds=2, **kwargs)
    found = _fit(rounds=3, **kwargs)
    step = Mechanism(1.5, sampling_probability=0.4)
    wanted = [epsilon([(step, rounds)], delta=1e-5) for rounds in (1, 2, 3)]
    assert found.history["epsilon"] == wanted
    for other in ({"clip": 0.2}, {"delta": 1e-6}, {"noise_multiplier": 1.6}):
        asked = dataclasses.replace(_ASKED, **other)
        with pytest.raises(ValueError, match=r"privacy: \[0.3, 1e-05, 1.5\] in the checkpoint"):
            _fit(rounds=4, **{**kwargs, "privacy": asked})


def test_a_target_is_kept():
    pytest.importorskip("dp_accounting", reason="pip install 'tfdist[privacy]'")
    asked = federated.UserPrivacy(clip=0.3, delta=1e-5, target_epsilon=2.0)
    [*_, last] = _fit(privacy=asked, fraction=0.5, rounds=3).history["epsilon"]
    assert 1.9 < last <= 2.0


def test_a_round_without_a_client_is_one():
    """On plain and on secure sums: the weights move by noise alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Releasing, "drawn", lambda self, names: [])
        for secure in (None, federated.SecureSums()):
            found = _fit(privacy=_ASKED, secure=secure).model.get_weights()
            assert (found[0] != _build().get_weights()[0]).all()


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"privacy": 3.0}, r"privacy=3.0 must be a tfdist\.federated\.UserPrivacy"),
        ({"privacy": _ASKED, "validation_clients": _CLIENTS}, "metrics of a client tell"),
        ({"privacy": _ASKED, "secure": federated.SecureSums(largest=0.2)}, "below clip=0.3"),
        ({"privacy": _ASKED, "min_clients": 3}, "would tell how many there were"),
    ],
)
def test_refused_in_one_sentence(kwargs, told):
    with pytest.raises(ValueError, match=told):
        _fit(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"clip": 0.0, "noise_multiplier": 1.0}, "clip=0.0 must be a number above 0"),
        ({"clip": 1.0}, "Give one of them"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "target_epsilon": 1.0}, "Give one of them"),
    ],
)
def test_what_is_asked_has_to_be_whole(kwargs, told):
    with pytest.raises(ValueError, match=told):
        federated.UserPrivacy(delta=1e-5, **kwargs)
