"""What is signed, what is derived, and how are keys passed on?  The same at all parties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfdist.cluster.wording import shorten
from tfdist.federated.messages import Message
from tfdist.federated.secure import keys
from tfdist.federated.secure.setup import Setup

KEYS = ("mask", "box", "seed", "signature")  # of a client's answer to the first phase


def pair_key(own: keys.Exchange, other: bytes, setup: Setup) -> bytes:
    """Returns the key of the mask that two clients share."""
    return own.agree(other, b"mask\0" + setup.context)


def signed_keys(setup: Setup, name: str, sent: Mapping[str, bytes]) -> bytes:
    """Returns the text that a client signs with its keys."""
    held = b"".join(sent[key] for key in ("mask", "box", "seed"))
    return b"keys\0" + setup.context + held + name.encode()


def signed_sum(setup: Setup, names: Sequence[str]) -> bytes:
    """Returns the text that a client signs to say who is in the sum."""
    told = "\0".join(f"{len(name)}:{name}" for name in sorted(names))
    return b"sum\0" + setup.context + told.encode()


def read_keys(message: Message) -> dict[str, dict[str, bytes]]:
    """Returns the keys of each client that the server has passed on.

    Raises:
        ValueError: They have not the lengths of keys.
    """
    found: dict[str, dict[str, bytes]] = {}
    for path, array in message.arrays.items():
        key, _, name = path.partition("/")
        found.setdefault(name, {})[key] = array.tobytes()
    for name, sent in found.items():
        refuse_lengths(name, sent)
    return found


def refuse_lengths(name: str, sent: Mapping[str, bytes]) -> None:
    """Raises a ValueError where a client's keys are none."""
    lengths = {key: len(value) for key, value in sent.items()}
    if lengths != dict(zip(KEYS, (32, 32, 32, 64), strict=True)):
        raise ValueError(
            f"The keys of the client {name!r} have the lengths {shorten(lengths)}. Let it have the "
            "same version of tfdist as the others."
        )
