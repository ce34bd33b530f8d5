"""Is the function of a flag found, and said why not?"""

from __future__ import annotations

import sys

import pytest

from tfdist.cli import named_functions as target


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "models_of_mine.py").write_text("import json\nsmall = lambda: 'small'\nsize = 3\n")
    (tmp_path / "lacks_something.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("models_of_mine", None)


def test_function_of_the_current_folder():
    assert target.function_of("models_of_mine:small")() == "small"
    assert target.function_of("json:dumps")([1]) == "[1]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models_of_mine", "'models_of_mine' names no function; write module:function"),
        (":small", "names no function"),
        ("not_there:small", "there is no module 'not_there' on the path or in "),
        ("models_of_mine:large", r"models_of_mine.py has no function 'large'"),
        ("models_of_mine:size", r"models_of_mine.py has no function 'size'"),
    ],
)
def test_what_is_not_there(text, told):
    with pytest.raises(ValueError, match=told):
        target.function_of(text)


def test_what_a_module_lacks_itself_is_its_own_error():
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        target.function_of("lacks_something:small")
