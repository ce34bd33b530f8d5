"""Is a secure sum the plain sum of integers, whoever leaves when, and does nothing else show?

The server of these tests is the real one, and gets messages alone, all of which are kept and looked
through.
"""

from __future__ import annotations

import gc
import types
from typing import Any

import numpy as np
import pytest

from tfdist.federated import messages
from tfdist.federated.secure import keys, shamir
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure.server import SecureServer
from tfdist.federated.secure.setup import PHASES, Setup
from tfdist.federated.secure.texts import signed_keys

_LENGTH = 40
_BOUNDS = {"largest": 4.0, "max_weight": 100}
_NAMES = [f"site {letter}" for letter in "abcdefghij"]


class Sum:
    """Runs the phases of a round; tests step in between through `change`."""

    def __init__(self, names: Any = _NAMES, *, round_number: int = 0, **kwargs: Any) -> None:
        identities = {name: keys.Identity.generate() for name in names}
        self.pinned = {name: one.public for name, one in identities.items()}
        self.setup = Setup(
            session="s", round_number=round_number, names=tuple(names),
            threshold=kwargs.pop("threshold", 2 * len(names) // 3 + 1), length=_LENGTH,
            **{**_BOUNDS, **kwargs},
        )
        self.clients = {
            name: SecureClient(name, identities[name], self.pinned, **_BOUNDS) for name in names
        }
        self.server = SecureServer(self.setup, self.pinned)
        rng = np.random.default_rng(len(names))
        self.numbers = {name: rng.uniform(-4, 4, _LENGTH) for name in names}
        self.weights = {name: int(rng.integers(1, 101)) for name in names}
        self.received: list[bytes] = []
        self.leaves: dict[str, str] = {}  # phase by client

    def requests(self, phase: str) -> dict[str, bytes]:
        """What the server asks in a phase, by client."""
        if phase == "masked":
            return self.server.ask_masked()
        common, names = getattr(self.server, f"ask_{phase}")()
        return dict.fromkeys(names, common)

    def answer(self, phase: str, name: str, request: bytes) -> bytes:
        """What a client answers."""
        client = self.clients[name]
        if phase == "masked":
            return client.masked(request, lambda: (self.numbers[name], self.weights[name]))
        return getattr(client, phase)(request)

    def phase(self, phase: str) -> None:
        """Runs a phase."""
        for name, request in self.requests(phase).items():
            if self.leaves.get(name) != phase:
                answer = self.answer(phase, name, request)
                self.received.append(answer)
                self.server.take(name, answer)

    def run(self, until: str = "unmask") -> Sum:
        """Runs the phases up to this one."""
        for phase in PHASES[: PHASES.index(until) + 1]:
            self.phase(phase)
        return self

    def wanted(self, names: Any) -> tuple[np.ndarray, int]:
        """The plain sum of integers."""
        total = np.zeros(_LENGTH, np.int64)
        for name in names:
            scaled = np.rint(self.numbers[name] * 2.0**self.setup.ring.bits).astype(np.int64)
            total = total + self.weights[name] * scaled
        return total, sum(self.weights[name] for name in names)


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"site b": "keys", "site e": "shares", "site j": "masked"},
        {"site a": "masked", "site j": "masked", "site e": "masked"},
        {"site a": "consistency", "site c": "unmask", "site h": "masked"},
        {"site d": "unmask", "site f": "unmask", "site g": "unmask"},
    ],
    ids=lambda leaves: ", ".join(f"{n[-1]} {p}" for n, p in leaves.items()) or "nobody",
)
def test_the_sum_is_that_of_plain_integers(leaves):
    one = Sum()
    one.leaves = leaves
    total, weight = one.run().server.result()
    gone = {name for name, phase in leaves.items() if phase in ("keys", "shares", "masked")}
    left = sorted(set(_NAMES) - gone)
    wanted, count = one.wanted(left)
    assert one.server.in_sum == left
    assert weight == count
    np.testing.assert_array_equal(total.view(np.int64), wanted)
    exact = sum(one.weights[name] * one.numbers[name] for name in left)
    half = one.setup.ring.resolution / 2 * count
    np.testing.assert_allclose(one.setup.ring.decode(total), exact, atol=half, rtol=1e-15)


def _reachable(start: Any) -> list[Any]:
    """All objects that an object holds, directly or not; no modules and classes."""
    seen, todo = {id(start): start}, [start]
    while todo:
        for held in gc.get_referents(todo.pop()):
            if id(held) not in seen and not isinstance(held, (type, types.ModuleType)):
                seen[id(held)] = held
                todo.append(held)
    return list(seen.values())


def test_the_server_never_holds_what_a_client_has():
    """Looks through every message, and all that the server holds after each phase."""
    one = Sum()
    one.leaves = {"site b": "shares", "site e": "masked", "site c": "unmask"}
    ring = one.setup.ring
    secrets = set()
    for name in _NAMES:
        values, weight = one.numbers[name], one.weights[name]
        encoded = ring.encode(values, weight)
        plain = ring.encode(values, 1)
        for number in (values[:2], encoded[:2], plain[:2], values.astype("f4")[:2]):
            secrets.add(number.tobytes())
    looked_at = 0
    for phase in PHASES:
        one.phase(phase)
        held = [h for h in _reachable(one.server) if isinstance(h, (bytes, np.ndarray))]
        for value in [*held, *one.received]:
            content = value if isinstance(value, bytes) else value.tobytes()
            assert not any(secret in content for secret in secrets)
            looked_at += 1
    one.server.result()
    held = [h for h in _reachable(one.server) if isinstance(h, (bytes, np.ndarray))]
    assert not any(s in bytes(memoryview(h).cast("B") if isinstance(h, bytes) else h.tobytes())
                   for h in held for s in secrets)
    assert looked_at > 500
    # The test sees what it looks for: the vector of a client without masks holds it.
    assert any(s in ring.encode(one.numbers["site a"], one.weights["site a"]).tobytes()
               for s in secrets)


def test_what_is_masked_is_uniform_and_new_each_round():
    """Numbers that are all zero look like any others: 8,000 bits of masks, and no repetition."""
    vectors = []
    for round_number in range(2):
        one = Sum(_NAMES[:3], round_number=round_number)
        one.numbers = dict.fromkeys(one.numbers, np.zeros(_LENGTH))
        one.run("masked")
        vectors += [messages.unpack(m, "masked").arrays["sum"] for m in one.received[-3:]]
    words = np.concatenate(vectors)
    assert len(set(words.tolist())) == len(words)
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * len(words))


def test_too_few_leave_no_sum():
    for phase in ("shares", "consistency", "unmask"):
        one = Sum(_NAMES[:3])
        one.leaves = {"site b": phase}
        with pytest.raises(RuntimeError, match=r"has 2 clients left .*, and needs 3"):
            one.run().server.result()


# Each changes something after a phase, and says who notices in the next one, and how.


def _swap_keys(one: Sum) -> None:
    """A server in the middle that puts its own key in place of a client's."""
    one.server._keys["site b"]["mask"] = keys.Exchange.generate().public


def _swap_own(one: Sum) -> None:
    held = one.server._keys["site a"]
    one.clients["site a"]._round.mask = keys.Exchange.generate()
    assert held


def _copy_keys(one: Sum) -> None:
    """A client that signs another one's key as its own, to have masks cancel."""
    sent = one.server._keys["site b"]
    sent["mask"] = one.server._keys["site c"]["mask"]
    text = signed_keys(one.setup, "site b", sent)
    sent["signature"] = one.clients["site b"]._identity.sign(text)


def _take_of_another_round(one: Sum) -> None:
    other = Sum(round_number=7)
    other.pinned, other.clients = one.pinned, one.clients
    clients = one.clients
    answer = clients["site b"].keys(messages.pack("keys", other.setup.told()))
    one.server._keys["site b"] = {
        key: array.tobytes() for key, array in messages.unpack(answer, "keys").arrays.items()
    }


def _change_box(one: Sum) -> None:
    box = bytearray(one.server._boxes["site b"]["site a"])
    box[20] ^= 1
    one.server._boxes["site b"]["site a"] = bytes(box)


def _exchange_boxes(one: Sum) -> None:
    boxes = one.server._boxes
    boxes["site b"]["site a"], boxes["site c"]["site a"] = (
        boxes["site c"]["site a"], boxes["site b"]["site a"],
    )


def _claim_another_sum(one: Sum) -> None:
    """A server that tells one client that another has left, to get both of its shares."""
    one.clients["site a"]._round.sum_of.remove("site c")


def _forge_signature(one: Sum) -> None:
    one.server._signatures["site b"] = bytes(64)


@pytest.mark.parametrize(
    ("after", "change", "noticed_in", "told"),
    [
        ("keys", _swap_keys, "shares", "keys of 'site b' are not signed by its identity"),
        ("keys", _take_of_another_round, "shares", "'site b' are not signed by its identity"),
        ("keys", _copy_keys, "shares", "two clients have the same key"),
        ("keys", _swap_own, "shares", "its own keys were swapped"),
        ("shares", _change_box, "unmask", "the share of 'site b' was changed"),
        ("shares", _exchange_boxes, "unmask", "the share of 'site b' was changed"),
        ("consistency", _claim_another_sum, "unmask", "are named"),
        ("consistency", _forge_signature, "unmask", "'site b' has not signed the same clients"),
    ],
)
def test_a_server_that_cheats_is_refused(after, change, noticed_in, told):
    one = Sum().run(after)
    change(one)
    for phase in PHASES[PHASES.index(after) + 1 : PHASES.index(noticed_in)]:
        one.phase(phase)
    request = one.requests(noticed_in)["site a"]
    with pytest.raises(ValueError, match=f"The client 'site a' leaves the secure sum.*{told}"):
        one.answer(noticed_in, "site a", request)


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_is_answered_once(phase):
    one = Sum().run(phase) if phase == "keys" else Sum().run(PHASES[PHASES.index(phase) - 1])
    if phase == "keys":
        with pytest.raises(ValueError, match="the round came before"):
            one.clients["site a"].keys(messages.pack("keys", one.setup.told()))
        return
    request = one.requests(phase)["site a"]
    one.answer(phase, "site a", request)
    with pytest.raises(ValueError, match=r"came again, or out of its order|of another round came"):
        one.answer(phase, "site a", request)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_request_of_another_round_is_refused(phase):
    """What was kept of a round, sent again where it would be in its order in the next one."""
    one = Sum().run(PHASES[PHASES.index(phase) - 1])
    kept = one.requests(phase)["site a"]
    later = Sum(round_number=1)
    later.clients, later.server = one.clients, SecureServer(later.setup, one.pinned)
    later.run(PHASES[PHASES.index(phase) - 1])
    with pytest.raises(ValueError, match=f"the phase '{phase}' of another round came"):
        later.answer(phase, "site a", kept)


def test_the_client_refuses_a_round_that_it_has_not_agreed_to():
    one = Sum()
    for change, told in [
        ({"largest": 8.0}, "where 4 and 100 were agreed"),
        ({"max_weight": 7}, "where 4 and 100 were agreed"),
        ({"names": [*_NAMES, "stranger"], "threshold": 8}, "no identity is pinned for 'stranger'"),
        ({"names": _NAMES[1:], "threshold": 7}, "it is not among the clients"),
        ({"threshold": 2}, "more than two thirds of them"),
        ({"names": ["site a"], "threshold": 1}, "Ask at least two"),
        ({"names": ["site a"] * 3, "threshold": 3}, "each once"),
    ]:
        with pytest.raises(ValueError, match=told):
            one.clients["site a"].keys(messages.pack("keys", {**one.setup.told(), **change}))


def test_a_client_hides_among_as_many_as_it_wants():
    """A server cannot ask it beside two that help the server."""
    one = Sum(_NAMES[:4])
    identity = one.clients["site a"]._identity
    asked = SecureClient("site a", identity, one.pinned, threshold=4, **_BOUNDS)
    with pytest.raises(ValueError, match="a sum of 3 clients is asked for, .* hides among 4"):
        asked.keys(messages.pack("keys", one.setup.told()))
    wider = Sum(_NAMES[:4], threshold=4)
    asked.keys(messages.pack("keys", wider.setup.told()))


def test_a_client_that_sends_something_else_is_refused_and_left_out():
    one = Sum()
    requests = one.requests("keys")
    answers = {name: one.answer("keys", name, request) for name, request in requests.items()}
    with pytest.raises(ValueError, match="'site a' are not signed by the identity"):
        one.server.take("site a", answers["site b"])
    with pytest.raises(ValueError, match="kind 'shares' came where keys was expected"):
        one.server.take("site a", messages.pack("shares", {}))
    with pytest.raises(ValueError, match="'stranger' has answered .* again, or is not asked"):
        one.server.take("stranger", answers["site b"])
    for name, answer in answers.items():
        one.server.take(name, answer)
    with pytest.raises(ValueError, match="'site a' has answered the phase 'keys' again"):
        one.server.take("site a", answers["site a"])
    one.phase("shares")
    requests = one.requests("masked")
    for name, request in requests.items():
        answer = one.answer("masked", name, request)
        if name == "site d":  # shorter
            vector = messages.unpack(answer, "masked").arrays["sum"][:-1]
            with pytest.raises(ValueError, match="'site d' has sent 40 numbers, and 41 are summed"):
                one.server.take(name, messages.pack("masked", {}, {"sum": vector}))
        else:
            one.server.take(name, answer)
    one.phase("consistency")
    one.phase("unmask")
    total, weight = one.server.result()
    wanted, count = one.wanted([name for name in _NAMES if name != "site d"])
    assert weight == count
    np.testing.assert_array_equal(total.view(np.int64), wanted)


def test_wrong_shares_are_found_out():
    for owner, leaves in (("site b", {}), ("site e", {"site e": "masked"})):
        one = Sum()
        one.leaves = leaves
        one.run()
        wrong = shamir.split(b"x" * 32, points=range(1, 11), threshold=7)
        for holder, sent in one.server._shares.items():
            sent[owner] = wrong[one.setup.point(holder)]
        with pytest.raises(ValueError, match=f"shares of the client '{owner}' give another secret"):
            one.server.result()


def test_numbers_out_of_bounds_are_an_error_before_anything_is_sent():
    one = Sum().run("shares")
    request = one.requests("masked")["site a"]
    one.numbers["site a"] = np.full(_LENGTH, 4.1)
    with pytest.raises(ValueError, match=r"40 of 40 numbers are larger than largest=4"):
        one.answer("masked", "site a", request)


def test_an_identity_that_is_not_pinned_cannot_take_part():
    with pytest.raises(ValueError, match="signs with another identity than is pinned"):
        SecureClient("a", keys.Identity.generate(), {"a": bytes(32)}, **_BOUNDS)


def test_a_client_that_masks_otherwise_shows_in_the_weights():
    one = Sum().run("shares")
    for name, request in one.requests("masked").items():
        vector = messages.unpack(one.answer("masked", name, request), "masked").arrays["sum"].copy()
        vector[0] += np.uint64(10**4) if name == "site c" else np.uint64(0)
        one.server.take(name, messages.pack("masked", {}, {"sum": vector}))
    one.phase("consistency")
    one.phase("unmask")
    with pytest.raises(ValueError, match="weights add up to .* more than max_examples allows"):
        one.server.result()


def test_a_sum_is_signed_by_each_client_itself():
    one = Sum().run("masked")
    requests = one.requests("consistency")
    answers = {name: one.answer("consistency", name, asked) for name, asked in requests.items()}
    with pytest.raises(ValueError, match="'site a' has not signed who is in the sum"):
        one.server.take("site a", answers["site b"])
    short = {"signature": np.zeros(63, np.uint8)}
    with pytest.raises(ValueError, match="'site a' has not signed who is in the sum"):
        one.server.take("site a", messages.pack("consistency", {}, short))
    one.server.take("site a", answers["site a"])


def test_the_server_asks_the_phases_in_their_order():
    one = Sum().run("shares")
    for ask in (one.server.ask_keys, one.server.ask_shares, one.server.ask_unmask):
        with pytest.raises(RuntimeError, match="out of its order"):
            ask()
    assert len(one.server.ask_masked()) == len(_NAMES)


@pytest.mark.parametrize(
    ("phase", "held"),
    [("shares", "_keys"), ("masked", "_boxes"), ("consistency", "_in_sum"),
     ("unmask", "_signatures")],
)  # fmt: skip
def test_a_client_leaves_a_sum_of_too_few_whatever_the_server_says(phase, held, monkeypatch):
    one = Sum().run(PHASES[PHASES.index(phase) - 1])
    monkeypatch.setattr(one.server, "_refuse_few", lambda present: None)
    few, there = _NAMES[:6], getattr(one.server, held)
    fewer = [n for n in there if n in few] if held == "_in_sum" else {n: there[n] for n in few}
    setattr(one.server, held, fewer)
    with pytest.raises(ValueError, match="6 clients are left, fewer than the threshold 7"):
        one.answer(phase, "site a", one.requests(phase)["site a"])


def test_a_sum_that_names_a_client_twice_is_refused():
    one = Sum().run("masked")
    header = {"context": one.setup.context.hex(), "names": [*_NAMES, "site b"]}
    with pytest.raises(ValueError, match="the sum is said to be of"):
        one.answer("consistency", "site a", messages.pack("consistency", header))


def test_a_round_that_could_overflow_is_refused_before_any_key():
    one = Sum()
    bounds = {"largest": 2.0**40, "max_weight": 2**22}
    client = SecureClient("site a", one.clients["site a"]._identity, one.pinned, **bounds)
    asked = one.setup.told() | bounds
    with pytest.raises(ValueError, match="does not fit into 63 bits"):
        client.keys(messages.pack("keys", asked))
