"""Is a secure sum the plain sum of integers, whoever leaves when, and does nothing else show?

The server of these tests is the real one, and gets messages alone, all of which are kept and looked
through. What a client refuses of a server that cheats is in test_client.py.
"""

from __future__ import annotations

import gc
import types
from typing import Any

import numpy as np
import pytest
from secure_round import LENGTH, NAMES, Sum

from tfdist.federated import messages
from tfdist.federated.secure import shamir
from tfdist.federated.secure.setup import PHASES


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
    left = sorted(set(NAMES) - gone)
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
    for name in NAMES:
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
        one = Sum(NAMES[:3], round_number=round_number)
        one.numbers = dict.fromkeys(one.numbers, np.zeros(LENGTH))
        one.run("masked")
        vectors += [messages.unpack(m, "masked").arrays["sum"] for m in one.received[-3:]]
    words = np.concatenate(vectors)
    assert len(set(words.tolist())) == len(words)
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * len(words))


def test_too_few_leave_no_sum():
    for phase in ("shares", "consistency", "unmask"):
        one = Sum(NAMES[:3])
        one.leaves = {"site b": phase}
        with pytest.raises(RuntimeError, match=r"has 2 clients left .*, and needs 3"):
            one.run().server.result()


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
    wanted, count = one.wanted([name for name in NAMES if name != "site d"])
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
    assert len(one.server.ask_masked()) == len(NAMES)
