"""Does a client leave a secure sum, and send nothing, where the server or another client cheats?

Each test changes what an honest server holds, or asks, and the client is the real one.
"""

from __future__ import annotations

import numpy as np
import pytest
from secure_round import BOUNDS, LENGTH, NAMES, Sum

from tfdist.federated import messages
from tfdist.federated.secure import keys
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure.server import SecureServer
from tfdist.federated.secure.setup import PHASES
from tfdist.federated.secure.texts import signed_keys

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
        ({"names": [*NAMES, "stranger"], "threshold": 8}, "no identity is pinned for 'stranger'"),
        ({"names": NAMES[1:], "threshold": 7}, "it is not among the clients"),
        ({"threshold": 2}, "more than two thirds of them"),
        ({"names": ["site a"], "threshold": 1}, "Ask at least two"),
        ({"names": ["site a"] * 3, "threshold": 3}, "each once"),
    ]:
        with pytest.raises(ValueError, match=told):
            one.clients["site a"].keys(messages.pack("keys", {**one.setup.told(), **change}))


def test_a_client_hides_among_as_many_as_it_wants():
    """A server cannot ask it beside two that help the server."""
    one = Sum(NAMES[:4])
    identity = one.clients["site a"]._identity
    asked = SecureClient("site a", identity, one.pinned, threshold=4, **BOUNDS)
    with pytest.raises(ValueError, match="a sum of 3 clients is asked for, .* hides among 4"):
        asked.keys(messages.pack("keys", one.setup.told()))
    wider = Sum(NAMES[:4], threshold=4)
    asked.keys(messages.pack("keys", wider.setup.told()))


def test_numbers_out_of_bounds_are_an_error_before_anything_is_sent():
    one = Sum().run("shares")
    request = one.requests("masked")["site a"]
    one.numbers["site a"] = np.full(LENGTH, 4.1)
    with pytest.raises(ValueError, match=r"40 of 40 numbers are larger than largest=4"):
        one.answer("masked", "site a", request)


def test_an_identity_that_is_not_pinned_cannot_take_part():
    with pytest.raises(ValueError, match="signs with another identity than is pinned"):
        SecureClient("a", keys.Identity.generate(), {"a": bytes(32)}, **BOUNDS)


@pytest.mark.parametrize(
    ("phase", "held"),
    [("shares", "_keys"), ("masked", "_boxes"), ("consistency", "_in_sum"),
     ("unmask", "_signatures")],
)  # fmt: skip
def test_a_client_leaves_a_sum_of_too_few_whatever_the_server_says(phase, held, monkeypatch):
    one = Sum().run(PHASES[PHASES.index(phase) - 1])
    monkeypatch.setattr(one.server, "_refuse_few", lambda present: None)
    few, there = NAMES[:6], getattr(one.server, held)
    fewer = [n for n in there if n in few] if held == "_in_sum" else {n: there[n] for n in few}
    setattr(one.server, held, fewer)
    with pytest.raises(ValueError, match="6 clients are left, fewer than the threshold 7"):
        one.answer(phase, "site a", one.requests(phase)["site a"])


def test_a_sum_that_names_a_client_twice_is_refused():
    one = Sum().run("masked")
    header = {"context": one.setup.context.hex(), "names": [*NAMES, "site b"]}
    with pytest.raises(ValueError, match="the sum is said to be of"):
        one.answer("consistency", "site a", messages.pack("consistency", header))


def test_a_round_that_could_overflow_is_refused_before_any_key():
    """By a client that has agreed to the bounds, and by a server, which makes no such round."""
    one = Sum()
    bounds = {"largest": 2.0**40, "max_weight": 2**20}  # of one client, it would fit
    client = SecureClient("site a", one.clients["site a"]._identity, one.pinned, **bounds)
    asked = one.setup.told() | bounds
    with pytest.raises(ValueError, match="over 10 clients .* does not fit into 63 bits"):
        client.keys(messages.pack("keys", asked))
    with pytest.raises(ValueError, match="does not fit into 63 bits"):
        Sum(largest=2.0**40, max_weight=2**20)
