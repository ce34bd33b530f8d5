"""How is a secret split so that any t shares give it back, and t - 1 say nothing of it?

Synopsis:

    >>> shares = split(b"k" * 32, points=[1, 2, 3, 4, 5], threshold=3)
    >>> join({x: shares[x] for x in (5, 1, 4)}) == b"k" * 32
    True

The secret is the value at 0 of a random polynomial of degree t - 1 over the field of the prime
2^521 - 1, and a share is its value at another point (Shamir 1979). Any t - 1 shares are uniformly
distributed, whatever the secret is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**521 - 1
SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, *, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Returns a share for each point.

    Args:
        secret: 32 bytes.
        points: Different numbers from 1, one for each holder.
        threshold: How many shares give the secret back.

    Raises:
        ValueError: The secret has another length, or there are fewer points than `threshold`.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(set(points)) or min(points) < 1:
        raise ValueError(
            f"A secret of {len(secret)} bytes cannot be split among {len(set(points))} with the "
            f"threshold {threshold}. Give 32 bytes, and at least as many holders as the threshold."
        )
    first = int.from_bytes(secret, "big")
    factors = [first, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = {}
    for x in points:
        value = 0
        for factor in reversed(factors):
            value = (value * x + factor) % PRIME
        shares[x] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """Returns the secret of these shares, all of which are used.

    Args:
        shares: As many as the threshold, or more, by their points.

    Raises:
        ValueError: They are not of one secret of 32 bytes, as far as can be told.
    """
    total = 0
    for x, share in shares.items():
        above = below = 1
        for other in shares:
            if other != x:
                above = above * -other % PRIME
                below = below * (x - other) % PRIME
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    value = total % PRIME
    if value.bit_length() > 8 * SECRET_BYTES:
        raise ValueError(
            "The shares of a secret do not fit together. Look for a client that has sent a wrong "
            "share, and leave it out."
        )
    return value.to_bytes(SECRET_BYTES, "big")
