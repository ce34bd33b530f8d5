"""Do Python values come back from JSON and arrays the same?"""

from __future__ import annotations

import collections
import contextlib
import json

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as numpy_strategies

from tfdist.checkpoint import plain_values

_SCALARS = (
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats()
    | strategies.text()
)
_ARRAYS = numpy_strategies.arrays(
    strategies.sampled_from(["float32", "float16", "int64", "uint8", "bool", "complex64"]),
    numpy_strategies.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
_VALUES = strategies.recursive(
    _SCALARS | _ARRAYS | strategies.integers(0, 9).map(np.int16),
    lambda inside: strategies.lists(inside, max_size=3)
    | strategies.lists(inside, max_size=3).map(tuple)
    | strategies.dictionaries(strategies.text(max_size=3), inside, max_size=3)
    | strategies.dictionaries(strategies.integers(), inside, max_size=3)
    | strategies.sets(strategies.integers(), max_size=3),
    max_leaves=8,
)


@hypothesis.given(_VALUES)
def test_comes_back_the_same(value):
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(plain_values.encode(value, arrays, prefix="a"))
    _assert_same(plain_values.decode(json.loads(text), arrays), value)


@pytest.mark.parametrize(
    "value",
    [
        {"$array": "x"},
        {"$dict": [[1, 2]]},
        {"": 1, "$": 2},
        np.array([1.5, float("nan")], ml_dtypes.bfloat16),
        np.float32(0.1),
        [float("inf"), -0.0],
    ],
)
def test_hard_values(value):
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(plain_values.encode(value, arrays, prefix="a"))
    _assert_same(plain_values.decode(json.loads(text), arrays), value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "builtins.object"),
        ([1, print], "builtin_function_or_method"),
        (collections.OrderedDict(), "collections.OrderedDict"),
        (np.array(["a"]), "numpy.ndarray"),
        (np.array([None]), "numpy.ndarray"),
        (np.longdouble(1), "numpy.longdouble"),
        (b"bytes", "builtins.bytes"),
    ],
)
def test_refused(value, kind):
    with pytest.raises(TypeError, match=f"a .*{kind.rpartition('.')[2]} has no plain form"):
        plain_values.encode(value, {}, prefix="a")


_FORGED = strategies.recursive(
    _SCALARS,
    lambda inside: strategies.lists(inside, max_size=3)
    | strategies.dictionaries(
        strategies.sampled_from(["$array", "$scalar", "$tuple", "$set", "$dict", "$other", "a"]),
        inside, max_size=2,
    ),
    max_leaves=8,
)


@hypothesis.given(_FORGED)
@hypothesis.settings(max_examples=60)
def test_what_was_never_encoded_is_read_or_refused(forged):
    with contextlib.suppress(ValueError):  # any other error is a failure
        plain_values.decode(forged, {"a": np.zeros(1)})


@pytest.mark.parametrize("opening", ["[", '{"a": ', '{"$tuple": '])
def test_what_is_nested_too_deeply_is_refused(opening):
    value = None
    for _ in range(100_000):
        value = [value] if opening == "[" else {opening[2:].partition('"')[0]: value}
    with pytest.raises(ValueError, match="no plain value"):
        plain_values.decode(value, {})


def test_what_holds_itself_is_refused():
    for value in ([], {}):
        value.append(value) if value == [] else value.update(a=value)
        with pytest.raises(TypeError, match="holds itself"):
            plain_values.encode(value, {}, prefix="a")


def test_arrays_are_copies_with_names_of_their_own():
    arrays: dict[str, np.ndarray] = {"a": np.zeros(1)}
    value = np.ones(2)
    first = plain_values.encode(value, arrays, prefix="a")
    value[0] = 5
    second = plain_values.encode(value, arrays, prefix="a")
    assert plain_values.decode([first, second], arrays)[0].tolist() == [1, 1]
    assert plain_values.decode([first, second], arrays)[1].tolist() == [5, 1]
    assert arrays["a"].tolist() == [0]


def _assert_same(found, value):
    assert type(found) is type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()
    elif isinstance(value, (list, tuple)):
        assert len(found) == len(value)
        for one, other in zip(found, value, strict=True):
            _assert_same(one, other)
    elif isinstance(value, dict):
        assert list(found) == list(value)
        _assert_same(list(found.values()), list(value.values()))
    elif isinstance(value, set):  # equal sets may list their items in another order
        assert sorted(map(repr, found)) == sorted(map(repr, value))
    else:
        assert repr(found) == repr(value)
