"""Does every example in the docstrings and in the README do what it says?

In the README a block that opens with ```python run is a program of its own, and is run in a new
process; a block that opens with ```python alone is an excerpt, and has to parse.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import tfdist

_PACKAGE = pathlib.Path(tfdist.__file__).parent
_CHECKOUT = _PACKAGE.parent
_PROMPT = ">>> "
# What may follow "Synopsis:" where it is a command, which cannot run as a docstring.
_COMMANDS = ("python ", "tfdist-", "make ", "$ ")
_BLOCK = re.compile(r"^```python(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


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


def _readme_blocks() -> list[tuple[int, str, str]]:
    """Returns line, mark and code of each Python block; none while there is no README."""
    readme = _CHECKOUT / "README.md"
    text = readme.read_text() if readme.exists() else ""
    return [
        (text[: match.start()].count("\n") + 1, match["mark"].strip(), match["code"])
        for match in _BLOCK.finditer(text)
    ]


_BLOCKS = _readme_blocks()
_MARKS = {mark for _, mark, _ in _BLOCKS}
_PROGRAMS = [row for row in _BLOCKS if row[1] == "run"]


@pytest.mark.parametrize(("line", "mark", "code"), _BLOCKS, ids=[row[0] for row in _BLOCKS])
def test_readme_block_parses(line, mark, code):
    ast.parse(textwrap.dedent(code), filename=f"README.md:{line}")


def test_readme_marks_its_programs():
    assert "run" in _MARKS
    assert not _MARKS - {"", "run"}


@pytest.mark.parametrize(
    ("line", "mark", "code"), _PROGRAMS, ids=[row[0] for row in _PROGRAMS]
)
def test_readme_program_runs(line, mark, code, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(_CHECKOUT))
    program = tmp_path / f"readme_line_{line}.py"
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
