"""What does the server do in each phase of a secure sum, and what does it refuse?

It passes on what clients send, adds up what is masked, and takes the masks off the sum. It only
ever holds what it was sent, in which no client's numbers can be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from tfdist.federated import messages
from tfdist.federated.secure import keys, shamir
from tfdist.federated.secure.setup import PHASES, Setup
from tfdist.federated.secure.texts import (
    KEYS,
    pair_key,
    refuse_lengths,
    signed_keys,
    signed_sum,
)


class SecureServer:
    """The server's side of one round.

    For each phase, `ask_...` returns the request, and `take` reads the answer of one client. A
    client that does not answer has left; what it has sent before is used, or taken off the sum.

    Args:
        setup: The round.
        pinned: Public identities by name, for which wrong signatures are refused here already; the
            clients do so in any case. None where the server knows none.
    """

    def __init__(self, setup: Setup, pinned: Mapping[str, bytes] | None = None) -> None:
        self.setup = setup
        self._pinned = dict(pinned or {})
        self._phase = -1
        self._keys: dict[str, dict[str, bytes]] = {}
        self._boxes: dict[str, dict[str, bytes]] = {}  # by sender and reader
        self._total = np.zeros(setup.length + 1, np.uint64)
        self._in_sum: list[str] = []
        self._signatures: dict[str, bytes] = {}
        self._shares: dict[str, dict[str, bytes]] = {}  # by holder and owner

    @property
    def in_sum(self) -> list[str]:
        """Whose numbers are in the sum."""
        return sorted(self._in_sum)

    def ask_keys(self) -> tuple[bytes, list[str]]:
        """Returns the first request, and whom it is for."""
        self._begin("keys")
        return messages.pack("keys", self.setup.told()), list(self.setup.names)

    def ask_shares(self) -> tuple[bytes, list[str]]:
        """Returns the request with everybody's keys, and whom it is for."""
        self._begin("shares", self._keys)
        arrays = {
            f"{key}/{name}": np.frombuffer(sent[key], np.uint8)
            for name, sent in sorted(self._keys.items())
            for key in KEYS
        }
        return messages.pack("shares", self._header(), arrays), sorted(self._keys)

    def ask_masked(self) -> dict[str, bytes]:
        """Returns the request for each client, which has the shares that it is to keep."""
        self._begin("masked", self._boxes)
        found = {}
        for reader in sorted(self._boxes):
            arrays = {
                sender: np.frombuffer(boxes[reader], np.uint8)
                for sender, boxes in sorted(self._boxes.items())
            }
            found[reader] = messages.pack("masked", self._header(), arrays)
        return found

    def ask_consistency(self) -> tuple[bytes, list[str]]:
        """Returns the request that says who is in the sum, and whom it is for."""
        self._begin("consistency", self._in_sum)
        header = {**self._header(), "names": self.in_sum}
        return messages.pack("consistency", header), self.in_sum

    def ask_unmask(self) -> tuple[bytes, list[str]]:
        """Returns the request with all signatures, and whom it is for."""
        self._begin("unmask", self._signatures)
        arrays = {n: np.frombuffer(s, np.uint8) for n, s in sorted(self._signatures.items())}
        return messages.pack("unmask", self._header(), arrays), sorted(self._signatures)

    def take(self, name: str, answer: bytes) -> None:
        """Takes a client's answer to the current phase.

        Raises:
            ValueError: It is wrong; the client counts as one that has left.
        """
        phase = PHASES[self._phase]
        message = messages.unpack(answer, phase)
        sent = {key: array.tobytes() for key, array in message.arrays.items()}
        {
            "keys": self._take_keys, "shares": self._take_shares,
            "consistency": self._take_signature, "unmask": self._take_unmask,
        }.get(phase, lambda name, sent: self._take_masked(name, message))(name, sent)

    def result(self) -> tuple[np.ndarray, int]:
        """Returns the sum of the weighted numbers as integers of the ring, and of the weights.

        Raises:
            RuntimeError: Fewer clients than the threshold are left.
            ValueError: The shares are wrong.
        """
        self._refuse_few(self._shares)
        for owner in sorted(self._boxes):
            point = self.setup.point
            shares = {point(holder): sent[owner] for holder, sent in self._shares.items()}
            secret = shamir.join(shares)
            if owner in self._in_sum:
                if hashlib.sha256(secret).digest() != self._keys[owner]["seed"]:
                    raise self._wrong_share(owner)
                keys.add_mask(self._total, secret, sign=-1)
                continue
            pair = keys.Exchange(secret)
            if pair.public != self._keys[owner]["mask"]:
                raise self._wrong_share(owner)
            for name in self._in_sum:  # what they have added for the one that has left
                key = pair_key(pair, self._keys[name]["mask"], self.setup)
                keys.add_mask(self._total, key, sign=-1 if name < owner else 1)
        weight, total = int(self._total[0]), self._total[1:]
        if weight > len(self._in_sum) * self.setup.max_weight:
            raise ValueError(
                f"The clients' weights add up to {weight}, more than max_examples allows. Look for "
                "a client that masks otherwise than this tfdist does."
            )
        return total, weight

    def _take_keys(self, name: str, sent: dict[str, bytes]) -> None:
        self._refuse(name, name in self.setup.names and name not in self._keys)
        refuse_lengths(name, sent)
        known = self._pinned.get(name)
        text = signed_keys(self.setup, name, sent)
        if known is not None and not keys.is_signed(known, sent["signature"], text):
            raise ValueError(
                f"The keys of the client {name!r} are not signed by the identity that is pinned "
                "for it. Look for another one that speaks in its name, or pin its new identity."
            )
        self._keys[name] = sent

    def _take_shares(self, name: str, sent: dict[str, bytes]) -> None:
        self._refuse(name, name in self._keys and name not in self._boxes)
        length = 12 + 2 * shamir.SHARE_BYTES + 16
        if set(sent) != set(self._keys) or any(len(box) != length for box in sent.values()):
            raise ValueError(
                f"The client {name!r} has sent shares for {len(sent)} clients of "
                f"{len(self._keys)}, or of another length. Let it have the same tfdist."
            )
        self._boxes[name] = sent

    def _take_masked(self, name: str, message: messages.Message) -> None:
        self._refuse(name, name in self._boxes and name not in self._in_sum)
        vector = message.arrays.get("sum")
        wanted = (self.setup.length + 1,)
        if vector is None or vector.dtype != np.uint64 or vector.shape != wanted:
            raise ValueError(
                f"The client {name!r} has sent {0 if vector is None else vector.size} numbers, and "
                f"{wanted[0]} are summed. Let all clients build the model of the server."
            )
        np.add(self._total, vector, out=self._total)
        self._in_sum.append(name)

    def _take_signature(self, name: str, sent: dict[str, bytes]) -> None:
        self._refuse(name, name in self._in_sum and name not in self._signatures)
        signature, known = sent.get("signature", b""), self._pinned.get(name)
        text = signed_sum(self.setup, self.in_sum)
        if len(signature) != 64 or (known and not keys.is_signed(known, signature, text)):
            raise ValueError(
                f"The client {name!r} has not signed who is in the sum. Look for another one that "
                "speaks in its name."
            )
        self._signatures[name] = signature

    def _take_unmask(self, name: str, sent: dict[str, bytes]) -> None:
        self._refuse(name, name in self._signatures and name not in self._shares)
        is_wrong = any(len(share) != shamir.SHARE_BYTES for share in sent.values())
        if set(sent) != set(self._boxes) or is_wrong:
            raise ValueError(
                f"The client {name!r} has sent {len(sent)} shares of {len(self._boxes)}, or of "
                "another length. Let it have the same tfdist."
            )
        self._shares[name] = sent

    def _header(self) -> dict[str, str]:
        return {"context": self.setup.context.hex()}

    def _begin(self, phase: str, present: object = None) -> None:
        if self._phase + 1 != PHASES.index(phase):
            raise RuntimeError(
                f"The phase {phase!r} is out of its order. Ask the phases one by one: "
                f"{', '.join(PHASES)}."
            )
        if present is not None:
            self._refuse_few(present)
        self._phase += 1

    def _refuse_few(self, present: object) -> None:
        there = len(present)  # type: ignore[arg-type]
        if there < self.setup.threshold:
            raise RuntimeError(
                f"The secure sum of round {self.setup.round_number + 1} has {there} clients left "
                f"before the phase {PHASES[min(self._phase + 1, len(PHASES) - 1)]!r}, and needs "
                f"{self.setup.threshold}. Ask more clients; nothing of those that are left is known"
                "."
            )

    def _refuse(self, name: str, is_expected: bool) -> None:
        if not is_expected:
            raise ValueError(
                f"The client {name!r} has answered the phase {PHASES[self._phase]!r} again, or is "
                "not asked. Look for another one that speaks in its name."
            )

    def _wrong_share(self, owner: str) -> ValueError:
        return ValueError(
            f"The shares of the client {owner!r} give another secret than it has announced. Look "
            "for a client that has sent a wrong share, and leave it out."
        )
