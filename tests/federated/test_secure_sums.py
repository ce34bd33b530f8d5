"""Does a model that is trained by secure sums equal that of plain sums, whoever leaves when?

And does the server, which is the real one, ever hold an update without its masks?
"""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import keras
import numpy as np
import pytest

from tfdist import federated
from tfdist.federated import messages, secure_sums
from tfdist.federated.channel import InProcess
from tfdist.federated.site import Site

_RNG = np.random.default_rng(4)
_SIZES = [3, 17, 11, 9, 30, 4, 8, 25, 13, 6]
_CLIENTS = {
    f"site {letter}": (_RNG.normal(size=(n, 5)), _RNG.normal(size=(n, 1)))
    for letter, n in zip("abcdefghij", _SIZES, strict=True)
}
_ASKED = federated.SecureSums(largest=2.0, max_examples=100)
# Of each round: who leaves in which phase.
_LEAVE = [
    {"site b": "shares", "site e": "masked", "site h": "unmask"},
    {"site a": "keys", "site j": "masked", "site c": "consistency"},
]


def _build() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((5,)), layers.Dense(4, activation="tanh"), layers.BatchNormalization(),
        layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def _fit(**kwargs: Any) -> federated.Federated:
    kwargs = {"rounds": 2, "batch_size": 4, "device": "cpu", "verbose": 0, **kwargs}
    return federated.fit(_build, kwargs.pop("clients", _CLIENTS), **kwargs)


@pytest.fixture
def _float64():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def _held(start: Any) -> list[bytes]:
    """The content of all arrays and bytes that an object holds, directly or not."""
    seen, todo, found = {id(start)}, [start], []
    while todo:
        for held in gc.get_referents(todo.pop()):
            if id(held) in seen or isinstance(held, (type, InProcess)):
                continue  # the clients themselves are no part of the server
            seen.add(id(held))
            todo.append(held)
            if isinstance(held, (bytes, bytearray)):
                found.append(bytes(held))
            elif isinstance(held, np.ndarray) and held.dtype != object:
                found.append(held.tobytes())
    return found


@pytest.mark.usefixtures("_float64")
def test_ten_clients_of_which_three_leave_are_plain_sums_and_nothing_else_is_seen(monkeypatch):
    """The server's messages, and all that it holds when it has them, hold no update."""
    learnt: list[tuple[str, bytes]] = []
    looked_at: list[int] = []
    numbers = Site._numbers

    def noted(self, request):
        values, examples = numbers(self, request)
        ring = _ASKED.setup("s", 0, sorted(_CLIENTS), len(values)).ring
        head = values[4:8]  # of a kernel: none of them 0
        assert np.all(head != 0)
        for seen in (head, head * examples, ring.encode(head, 1), ring.encode(head, examples),
                     head.astype("f4")):  # fmt: skip
            learnt.append((self.name, seen.tobytes()))
        return values, examples

    class Looked(secure_sums.SecureServer):
        def take(self, name: str, answer: bytes) -> None:
            super().take(name, answer)
            for content in [answer, *_held(self)]:
                looked_at.append(len(content))
                assert not [who for who, seen in learnt if seen in content]

    monkeypatch.setattr(Site, "_numbers", noted)
    monkeypatch.setattr(secure_sums, "SecureServer", Looked)
    found = _fit(secure=_ASKED, drop_out=lambda number, name: _LEAVE[number].get(name))
    assert len(learnt) == 5 * (8 + 8)
    assert len(looked_at) > 1000
    monkeypatch.undo()

    def as_plain(number: int, name: str) -> str | None:
        phase = _LEAVE[number].get(name)
        return "train" if phase in ("keys", "shares", "masked") else None

    plain = _fit(drop_out=as_plain)
    resolution = _ASKED.setup("s", 0, sorted(_CLIENTS), 3).ring.resolution
    for one, other in zip(found.model.get_weights(), plain.model.get_weights(), strict=True):
        # Each round adds half a step; what differs then is trained on, hence some more.
        np.testing.assert_allclose(one, other, rtol=0, atol=20 * resolution)
    for told, same, left in zip(found.rounds, plain.rounds, (["site b", "site e"],
                                ["site a", "site j"]), strict=True):  # fmt: skip
        assert (told["clients"], told["examples"]) == (same["clients"], same["examples"])
        assert list(told["left"]) == left
        assert told["logs"] == told["by_client"] == {}


def test_a_client_that_sends_something_else_is_left_out(caplog):
    """Of another length; all others go on without it."""
    own = InProcess.answer

    def shorter(self, request, name):
        if (request.phase, name) != ("masked", "site d"):
            return own(self, request, name)
        sent = messages.unpack(own(self, request, name), "masked").arrays["sum"][1:]
        return messages.pack("masked", {}, {"sum": sent})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcess, "answer", shorter)
        found = _fit(secure=_ASKED, rounds=1)
    assert "'site d' has sent" in caplog.text
    assert "site d" in found.rounds[0]["left"]
    assert len(found.rounds[0]["clients"]) == 9


@pytest.mark.parametrize("secure", [_ASKED, None])
def test_a_client_that_says_nothing_is_named(secure):
    """On any way to the clients it may be silent, which is not what one that leaves does."""
    asked = InProcess.ask

    def ask(self, request):
        for name, answer in asked(self, request):
            silent = {"masked": "site d", "train": "site d", "shares": "site g"}
            if silent.get(request.phase) != name:
                yield name, answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcess, "ask", ask)
        [told] = _fit(secure=secure, rounds=1).rounds
    wanted = {"site d": "it has not answered"}
    if secure is not None:
        wanted = {
            "site d": "it has not answered in the phase masked",
            "site g": "it has not answered in the phase shares",
        }
    assert told["left"] == wanted
    assert told["clients"] == sorted(set(_CLIENTS) - set(wanted))


def test_too_few_are_an_error():
    with pytest.raises(RuntimeError, match=r"round 1 has 6 clients left .*, and needs 7"):
        _fit(secure=_ASKED, drop_out=lambda number, name: "masked" if name < "site e" else None)


def test_an_update_out_of_bounds_is_an_error_of_its_client():
    with pytest.raises(ValueError, match="numbers are larger than largest=0.0001"):
        _fit(secure=federated.SecureSums(largest=1e-4, max_examples=100))
    with pytest.raises(ValueError, match="max_examples=5 bounds it"):
        _fit(secure=federated.SecureSums(largest=2.0, max_examples=5))


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"secure": True}, r"secure=True must be a tfdist\.federated\.SecureSums"),
        ({"validation_clients": _CLIENTS}, "the metrics of a client tell of its data"),
        ({"keep_local": "statistics"}, "keep_local was given with secure"),
        ({"fraction": 0.1}, "Ask at least two"),
        ({"secure": federated.SecureSums(threshold=11)}, "threshold=11 of 10 clients must be"),
    ],
)
def test_refused_in_one_sentence(kwargs, told):
    with pytest.raises(ValueError, match=told):
        _fit(**{"secure": _ASKED, **kwargs})


def test_a_client_of_secure_sums_sends_nothing_in_the_open():
    """A server that leaves secure out gets nothing."""
    site = Site("a", None, secure=object())
    for kind in ("train", "evaluate"):
        with pytest.raises(ValueError, match=r"in the open|metrics of its own data"):
            site.handle(messages.pack(kind, {}))


def test_a_client_hides_among_as_many_as_were_asked_for():
    """Whatever a server asks of it that was given a lower threshold."""
    identity, names = federated.Identity.generate(), ["a", "b", "c", "d"]
    asked = federated.SecureSums(threshold=4)
    client = asked.client("a", identity, dict.fromkeys(names, identity.public))
    lower = dataclasses.replace(asked, threshold=3).setup("s", 0, names, 2)
    with pytest.raises(ValueError, match="hides among 4 or more"):
        client.keys(messages.pack("keys", lower.told()))
