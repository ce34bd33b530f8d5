"""What does a client do in each phase of a secure sum, and what does it refuse?

It keeps its secrets to itself, answers each phase of a round once, in their order, and trusts the
signatures of the identities that it has pinned, not the server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping

import numpy as np

from tfdist.cluster.wording import shorten
from tfdist.federated import messages
from tfdist.federated.messages import Message
from tfdist.federated.secure import keys, shamir
from tfdist.federated.secure.setup import PHASES, Setup
from tfdist.federated.secure.texts import pair_key, read_keys, signed_keys, signed_sum


@dataclasses.dataclass
class _Round:
    """What a client holds in a round."""

    setup: Setup
    mask: keys.Exchange
    box: keys.Exchange
    seed: bytes  # of its own mask
    answered: int = 0  # phases
    advertised: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, bytes] = dataclasses.field(default_factory=dict)
    sum_of: list[str] = dataclasses.field(default_factory=list)


class SecureClient:
    """One client's side.

    Args:
        name: Its name.
        identity: What it signs with.
        pinned: The public identities of all clients, by name, which came another way than through
            the server.
        largest: See `Ring`; what the server asks must be the same.
        max_weight: See `Ring`; the same.
        threshold: How many clients a sum has to be of at least.
    """

    def __init__(
        self,
        name: str,
        identity: keys.Identity,
        pinned: Mapping[str, bytes],
        *,
        largest: float,
        max_weight: int,
        threshold: int = 2,
    ) -> None:
        if pinned.get(name) != identity.public:
            raise ValueError(
                f"The client {name!r} signs with another identity than is pinned for it. Give it "
                "the identity whose public half the others have."
            )
        self.name = name
        self._identity, self._pinned = identity, dict(pinned)
        self._largest, self._max_weight, self._threshold = largest, max_weight, threshold
        self._round: _Round | None = None
        self._seen: set[tuple[str, int]] = set()

    @property
    def resolution(self) -> float:
        """The step between two numbers of the current round.

        Raises:
            ValueError: There is no round.
        """
        if self._round is None:
            raise _refused(self.name, "no round has begun", None)
        return self._round.setup.ring.resolution

    def keys(self, request: bytes) -> bytes:
        """Makes and signs the keys of a new round."""
        setup = Setup.of(messages.unpack(request, "keys").header)
        self._refuse_setup(setup)
        self._seen.add((setup.session, setup.round_number))
        held = _Round(
            setup, keys.Exchange.generate(), keys.Exchange.generate(), os.urandom(32), answered=1
        )
        self._round = held
        sent = {
            "mask": held.mask.public, "box": held.box.public,
            "seed": hashlib.sha256(held.seed).digest(),
        }
        sent["signature"] = self._identity.sign(signed_keys(setup, self.name, sent))
        return messages.pack("keys", {}, {name: _array(value) for name, value in sent.items()})

    def shares(self, request: bytes) -> bytes:
        """Splits its secrets, and encrypts a share of each for every other client."""
        held, message = self._next("shares", request)
        advertised = read_keys(message)
        self._refuse_keys(held, advertised)
        held.advertised = advertised
        setup, present = held.setup, sorted(advertised)
        points = [setup.point(name) for name in present]
        of_mask = shamir.split(held.mask.private, points=points, threshold=setup.threshold)
        of_seed = shamir.split(held.seed, points=points, threshold=setup.threshold)
        boxes = {}
        for name in present:
            key = self._box_key(held, self.name, name)
            both = of_mask[setup.point(name)] + of_seed[setup.point(name)]
            boxes[name] = keys.seal(key, both, _label(setup, self.name, name))
        return messages.pack("shares", {}, {name: _array(box) for name, box in boxes.items()})

    def masked(
        self, request: bytes, numbers: Callable[[], tuple[np.ndarray, int]]
    ) -> bytes:
        """Sends its numbers under its masks.

        Args:
            request: Of the server.
            numbers: Returns them, float64 of shape `(length,)`, and their weight. It is called
                after all checks, and may take as long as training does.
        """
        held, message = self._next("masked", request)
        setup = held.setup
        boxes = {name: array.tobytes() for name, array in message.arrays.items()}
        self._refuse_names(boxes, among=held.advertised, setup=setup)
        held.boxes = boxes
        values, weight = numbers()
        if values.shape != (setup.length,):
            raise ValueError(
                f"The client {self.name!r} has {values.size} numbers, and {setup.length} are "
                "summed. Let all clients build the model of the server."
            )
        head = np.array([weight], np.int64).view(np.uint64)
        vector = np.concatenate([head, setup.ring.encode(values, weight)])
        keys.add_mask(vector, held.seed, sign=1)
        for name in sorted(boxes):
            if name != self.name:
                key = pair_key(held.mask, held.advertised[name]["mask"], setup)
                keys.add_mask(vector, key, sign=1 if self.name < name else -1)
        return messages.pack("masked", {}, {"sum": vector})

    def consistency(self, request: bytes) -> bytes:
        """Signs who is in the sum."""
        held, message = self._next("consistency", request)
        names = message.header.get("names")
        if not isinstance(names, list) or len(set(map(str, names))) != len(names):
            raise _refused(self.name, f"the sum is said to be of {shorten(names)}", held.setup)
        self._refuse_names(names, among=held.boxes, setup=held.setup)
        held.sum_of = sorted(names)
        signature = self._identity.sign(signed_sum(held.setup, held.sum_of))
        return messages.pack("consistency", {}, {"signature": _array(signature)})

    def unmask(self, request: bytes) -> bytes:
        """Sends shares: of the own masks of those in the sum, of the pair masks of the others.

        Never both of one client: with both, its numbers could be read.
        """
        held, message = self._next("unmask", request)
        setup = held.setup
        signed = {name: array.tobytes() for name, array in message.arrays.items()}
        self._refuse_names(signed, among=held.sum_of, setup=setup)
        text = signed_sum(setup, held.sum_of)
        for name, signature in signed.items():
            if not keys.is_signed(self._pinned[name], signature, text):
                raise _refused(
                    self.name, f"{name!r} has not signed the same clients of the sum", setup
                )
        sent = {}
        for name in sorted(held.boxes):
            key = self._box_key(held, name, self.name)
            both = keys.unseal(key, held.boxes[name], _label(setup, name, self.name))
            if both is None or len(both) != 2 * shamir.SHARE_BYTES:
                raise _refused(self.name, f"the share of {name!r} was changed", setup)
            of_mask, of_seed = both[: shamir.SHARE_BYTES], both[shamir.SHARE_BYTES :]
            sent[name] = _array(of_seed if name in held.sum_of else of_mask)
        self._round = None  # its secrets are forgotten
        return messages.pack("unmask", {}, sent)

    def _next(self, phase: str, request: bytes) -> tuple[_Round, Message]:
        """Returns what is held and asked, where this phase of this round comes next."""
        message = messages.unpack(request, phase)
        held = self._round
        if held is None or message.header.get("context") != held.setup.context.hex():
            raise _refused(self.name, f"the phase {phase!r} of another round came", None)
        if held.answered != PHASES.index(phase):
            raise _refused(
                self.name, f"the phase {phase!r} came again, or out of its order", held.setup
            )
        held.answered += 1
        return held, message

    def _refuse_setup(self, setup: Setup) -> None:
        if self.name not in setup.names:
            raise _refused(self.name, "it is not among the clients of the sum", setup)
        if unknown := [name for name in setup.names if name not in self._pinned]:
            raise _refused(self.name, f"no identity is pinned for {unknown[0]!r}", setup)
        if (setup.largest, setup.max_weight) != (self._largest, self._max_weight):
            raise _refused(
                self.name, f"the server bounds numbers by {setup.largest:g} and weights by "
                f"{setup.max_weight}, where {self._largest:g} and {self._max_weight} were agreed "
                "upon", setup,
            )
        if setup.threshold < self._threshold:
            raise _refused(
                self.name, f"a sum of {setup.threshold} clients is asked for, and this one hides "
                f"among {self._threshold} or more", setup,
            )
        if (setup.session, setup.round_number) in self._seen:
            raise _refused(self.name, "the round came before", setup)

    def _refuse_keys(self, held: _Round, advertised: Mapping[str, Mapping[str, bytes]]) -> None:
        setup = held.setup
        self._refuse_names(advertised, among=setup.names, setup=setup)
        for name, sent in advertised.items():
            text = signed_keys(setup, name, sent)
            if not keys.is_signed(self._pinned[name], sent["signature"], text):
                raise _refused(
                    self.name, f"the keys of {name!r} are not signed by its identity", setup
                )
        if advertised[self.name]["mask"] != held.mask.public:
            raise _refused(self.name, "its own keys were swapped", setup)
        halves = [sent[key] for sent in advertised.values() for key in ("mask", "box")]
        if len(set(halves)) != len(halves):
            raise _refused(self.name, "two clients have the same key", setup)

    def _refuse_names(self, names: object, *, among: object, setup: Setup) -> None:
        found = set(names)  # type: ignore[call-overload]
        if not found <= set(among) or self.name not in found:  # type: ignore[call-overload]
            raise _refused(self.name, f"{shorten(sorted(map(str, found)))} are named", setup)
        if len(found) < setup.threshold:
            raise _refused(
                self.name, f"{len(found)} clients are left, fewer than the threshold "
                f"{setup.threshold}", setup,
            )

    def _box_key(self, held: _Round, sender: str, reader: str) -> bytes:
        other = reader if sender == self.name else sender
        purpose = b"box\0" + _label(held.setup, sender, reader)
        return held.box.agree(held.advertised[other]["box"], purpose)


def _label(setup: Setup, sender: str, reader: str) -> bytes:
    both = (setup.point(sender), setup.point(reader))
    return setup.context + b"".join(point.to_bytes(8, "little") for point in both)


def _array(value: bytes) -> np.ndarray:
    return np.frombuffer(value, np.uint8)


def _refused(name: str, why: str, setup: Setup | None) -> ValueError:
    where = "" if setup is None else f" of round {setup.round_number + 1}"
    return ValueError(
        f"The client {name!r} leaves the secure sum{where}: {why}. Its numbers stay hidden; look "
        "at what the server, or somebody between, has done."
    )
