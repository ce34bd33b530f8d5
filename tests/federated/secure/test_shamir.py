"""Do any t shares give the secret, and do t - 1 say nothing of it?"""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

from tfdist.federated.secure import shamir


def test_any_t_of_n_give_the_secret():
    secret = os.urandom(32)
    shares = shamir.split(secret, points=range(1, 7), threshold=4)
    for count in (4, 5, 6):
        for held in itertools.combinations(shares.items(), count):
            assert shamir.join(dict(held)) == secret


def test_fewer_give_something_else():
    secret = os.urandom(32)
    shares = shamir.split(secret, points=range(1, 7), threshold=4)
    for held in itertools.combinations(shares.items(), 3):
        try:
            assert shamir.join(dict(held)) != secret
        except ValueError as error:
            assert "do not fit together" in str(error)


def test_a_share_is_uniform_whatever_the_secret_is():
    """The upper bits of 2,000 shares of two secrets: chi-square over 16 bins, 15 degrees."""
    for secret in (bytes(32), b"\xff" * 32):
        top = [
            int.from_bytes(shamir.split(secret, points=[1, 2], threshold=2)[2], "big") >> 517
            for _ in range(2000)
        ]
        counts = np.bincount(top, minlength=16)
        assert ((counts - 125) ** 2 / 125).sum() < 60  # p = 2e-7


@pytest.mark.parametrize(
    ("secret", "points", "threshold"), [(b"x", [1, 2], 2), (bytes(32), [1], 2), (bytes(32), [0], 1)]
)
def test_what_cannot_be_split_is_refused(secret, points, threshold):
    with pytest.raises(ValueError, match="cannot be split"):
        shamir.split(secret, points=points, threshold=threshold)
