"""Is the data that ships the data that it says it is?"""

from __future__ import annotations

import hashlib
import importlib.resources

import numpy as np
import pytest

import tfdist

# Of the bytes of scikit-learn's `load_digits()` in its own order: images as uint8, labels as uint8.
_SOURCE_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_SPLIT_SHA256 = "4757a1acdf3767e2a5bf7dabfa4008424a5e49e3a1e4824dd93d74f33fc6190a"


@pytest.fixture(scope="module")
def digits():
    (x_train, y_train), (x_test, y_test) = tfdist.datasets.load_digits()
    return x_train, y_train, x_test, y_test


def _sha256(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_shapes_and_types(digits):
    described = [(array.shape, array.dtype.name) for array in digits]
    assert described == [
        ((1437, 8, 8), "uint8"),
        ((1437,), "int64"),
        ((360, 8, 8), "uint8"),
        ((360,), "int64"),
    ]


def test_values_span_their_ranges(digits):
    x_train, y_train, x_test, y_test = digits
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        assert (images.min(), images.max()) == (0, 16)
        np.testing.assert_array_equal(np.unique(labels), np.arange(10))


def test_split_is_the_documented_one(digits):
    assert _sha256(*digits) == _SPLIT_SHA256


def test_rows_are_those_of_the_source(digits):
    x_train, y_train, x_test, y_test = digits
    path = importlib.resources.files("tfdist.datasets") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        source_index = data["source_index"]
    np.testing.assert_array_equal(np.sort(source_index), np.arange(1797))
    to_source_order = np.argsort(source_index)
    images = np.concatenate([x_train, x_test])[to_source_order]
    labels = np.concatenate([y_train, y_test])[to_source_order]
    assert _sha256(images, labels.astype(np.uint8)) == _SOURCE_SHA256


def test_each_call_returns_arrays_of_its_own(digits):
    (x_train, y_train), _ = tfdist.datasets.load_digits()
    x_train[:] = 0
    y_train[:] = 0
    (again, labels), _ = tfdist.datasets.load_digits()
    np.testing.assert_array_equal(again, digits[0])
    np.testing.assert_array_equal(labels, digits[1])


def test_file_is_small():
    path = importlib.resources.files("tfdist.datasets") / "digits.npz"
    assert len(path.read_bytes()) < 100_000
