"""Are sums of the ring exact, at the bounds too, and is what could overflow refused?"""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tfdist.federated.secure.ring import Ring


@hypothesis.given(
    st.floats(1e-6, 1e6), st.integers(1, 10**6), st.integers(1, 1000), st.randoms()
)
def test_the_sum_at_the_bounds_is_exact(largest, max_weight, clients, random):
    """In Python's whole numbers, which do not overflow."""
    ring = Ring(largest, max_weight, clients)
    values = np.array([largest, -largest, random.uniform(-largest, largest)])
    total = np.zeros(3, np.uint64)
    exact = [0, 0, 0]
    for _ in range(min(clients, 5)):
        total = total + ring.encode(values, max_weight)
        exact = [e + max_weight * round(v * 2**ring.bits) for e, v in zip(exact, values.tolist(),
                                                                          strict=True)]  # fmt: skip
    assert total.view(np.int64).tolist() == exact
    assert clients * max_weight * int(np.ceil(largest * 2**ring.bits)) < 2**63
    whole = ring.decode(total) / (min(clients, 5) * max_weight)
    np.testing.assert_allclose(whole, values, atol=ring.resolution / 2, rtol=1e-12)


@pytest.mark.parametrize("bounds", [(2.0**40, 2**20, 8), (0.0, 1, 1), (float("inf"), 1, 1)])
def test_what_could_overflow_is_refused(bounds):
    with pytest.raises(ValueError, match=r"does not fit into 63 bits|finite and above 0"):
        Ring(*bounds)


@pytest.mark.parametrize("value", [1.0001, -1.0001, np.nan, np.inf])
def test_numbers_out_of_bounds_are_refused(value):
    with pytest.raises(ValueError, match="1 of 2 numbers are larger than largest=1"):
        Ring(1.0, 10, 3).encode(np.array([0.5, value]), 1)


@pytest.mark.parametrize("weight", [11, -1, 1.5, True])
def test_weights_out_of_bounds_are_refused(weight):
    with pytest.raises(ValueError, match="max_examples=10 bounds it"):
        Ring(1.0, 10, 3).encode(np.zeros(2), weight)
