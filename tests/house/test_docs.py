"""Does every example in the docstrings do what it says?  Those of documents: test_documents.py."""

from __future__ import annotations

import ast
import doctest
import importlib
import pathlib

import pytest

import tfdist

_PACKAGE = pathlib.Path(tfdist.__file__).parent
_CHECKOUT = _PACKAGE.parent
_PROMPT = ">>> "
# What may follow "Synopsis:" where it is a command, which cannot run as a docstring.
_COMMANDS = ("python ", "tfdist ", "make ", "$ ")


def _docstrings() -> list[tuple[str, str, str, int]]:
    """Returns module, name, text and line of every docstring in the package."""
    found = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_CHECKOUT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                name = f"{module}.{node.name}" if hasattr(node, "name") else module
                if text:
                    found.append((module, name, text, node.body[0].lineno))
    return found


_DOCSTRINGS = _docstrings()
_EXAMPLES = [row for row in _DOCSTRINGS if _PROMPT in row[2]]


@pytest.mark.parametrize(
    ("module", "name", "text", "line"), _EXAMPLES, ids=[row[1] for row in _EXAMPLES]
)
def test_docstring_example(module, name, text, line, logical_cpus, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an example may write files
    variables = {**vars(importlib.import_module(module)), "tfdist": tfdist}
    example = doctest.DocTestParser().get_doctest(text, variables, name, module, line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    result = runner.run(example, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


_SYNOPSES = [row[1:3] for row in _DOCSTRINGS if "Synopsis" in row[2]]


@pytest.mark.parametrize(("name", "text"), _SYNOPSES, ids=[row[0] for row in _SYNOPSES])
def test_synopsis_can_be_run(name, text):
    first = text.partition("Synopsis")[2].partition("\n\n")[2].strip()
    assert first.startswith((_PROMPT, *_COMMANDS)), f"{name}: a synopsis has prompts or a command"


@pytest.mark.parametrize(
    "name", [name for name in tfdist.__all__ if name not in tfdist._SUBMODULES]
)
def test_public_name_is_documented(name, logical_cpus):
    text = getattr(tfdist, name).__doc__
    assert text
    assert text.splitlines()[0].endswith(".")
