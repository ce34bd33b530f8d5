"""Is the format that a path ends like found, and is what is missing named?"""

from __future__ import annotations

import pytest

from tfdist.export import formats


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/m.keras", "keras"), ("a/m", "saved_model"), ("m.tflite", "litert"), ("m.onnx", "onnx")],
)
def test_the_ending_names_the_format(path, name):
    assert formats.format_of(path, None).name == name
    assert formats.format_of(path, name).name == name


@pytest.mark.parametrize(
    ("path", "name"), [("m.h5", None), ("m.keras", "onnx"), ("m", "keras"), ("m.onnx", "torch")]
)
def test_others_are_refused(path, name):
    with pytest.raises(ValueError, match=rf"'{path}' with format=.*litert \(\.tflite\)"):
        formats.format_of(path, name)


def test_a_missing_package_is_named():
    own = formats.Format("own", ".own", print, print, ("json", "no_such_reader"))
    own.refuse_missing(is_checked=False)
    with pytest.raises(ImportError, match=r"'own' needs 'no_such_reader'.*tfdist\[export\]"):
        own.refuse_missing(is_checked=True)
