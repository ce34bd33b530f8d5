"""Does the code in README and docs/ do what it says, and is every error of ours on its page?

The mark behind ```python or ```sh says what is done with a block:

    python             an excerpt: it has to parse
    python run         a program: it runs in this process, in an empty folder; README's, which
                       people copy first, and "run process" in a process of their own
    python file=NAME   is written to that file, for the blocks that follow it on the page
    sh run             commands: they run in that folder, and have to end well

`make docs` builds the pages, and fails for a link that leads nowhere.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"^```(?P<kind>python|sh)(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_PYTHON_MARKS = ("", "run", "run process")
_SKIPPED_FOLDERS = ("_build",)
_LIMIT_SECS = 100.0


@dataclasses.dataclass(frozen=True)
class _Block:
    line: int
    kind: str  # "python" or "sh"
    mark: str
    code: str

    @property
    def file(self) -> str:
        """The name of the file that it is written to, or ""."""
        return self.mark.removeprefix("file=") if self.mark.startswith("file=") else ""


def _pages() -> dict[str, list[_Block]]:
    paths = [_CHECKOUT / "README.md", *sorted((_CHECKOUT / "docs").rglob("*.md"))]
    return {
        path.relative_to(_CHECKOUT).as_posix(): [
            _Block(text[: found.start()].count("\n") + 1, found["kind"], found["mark"].strip(),
                   found["code"])
            for found in _BLOCK.finditer(text)
        ]
        for path in paths
        if not set(path.parts) & set(_SKIPPED_FOLDERS) and (text := path.read_text())
    }  # fmt: skip


_PAGES = _pages()
_RUN = {page: [b for b in blocks if b.mark] for page, blocks in _PAGES.items()}


def _environ() -> dict[str, str]:
    """Returns an environment that finds this checkout, and a command `tfdist` of it."""
    return {
        **os.environ, "PYTHONPATH": str(_CHECKOUT),
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip


def _run(command: list[str], folder: pathlib.Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_SECS, check=False,
        env=_environ(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", [page for page, blocks in _PAGES.items() if blocks])
def test_blocks_are_marked_and_parse(page):
    for block in _PAGES[page]:
        if block.kind == "python":
            assert block.mark in _PYTHON_MARKS or block.file, f"{page}:{block.line}"
            ast.parse(textwrap.dedent(block.code), filename=f"{page}:{block.line}")
        else:
            assert block.mark in ("", "run"), f"{page}:{block.line}"


def test_there_is_code_that_runs():
    marks = {(block.kind, block.mark) for blocks in _RUN.values() for block in blocks}
    assert {("python", "run"), ("python", "run process"), ("sh", "run")} <= marks
    assert len(_RUN["README.md"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(4 * _LIMIT_SECS)
@pytest.mark.parametrize("page", [page for page, blocks in _RUN.items() if blocks])
def test_code_of_page_runs(page, logical_cpus, monkeypatch, tmp_path):
    import tfdist

    monkeypatch.chdir(tmp_path)
    for block in _RUN[page]:
        name = f"{page.replace('/', '_').removesuffix('.md')}_line_{block.line}.py"
        if block.kind == "sh":
            _run(["bash", "-ec", block.code.replace("tfdist ", "python -m tfdist ")], tmp_path)
        elif block.file:
            (tmp_path / block.file).write_text(block.code)
        elif page == "README.md" or block.mark == "run process":
            (tmp_path / name).write_text(block.code)
            _run([sys.executable, name], tmp_path)
        else:
            try:
                exec(compile(block.code, name, "exec"), {"__name__": "__main__"})
            finally:
                tfdist.unpatch_keras()


@pytest.fixture(scope="module")
def error_page():
    sys.path.insert(0, str(_CHECKOUT / "docs" / "_ext"))
    try:
        import error_page as module
    finally:
        del sys.path[0]
    return module


def test_every_error_is_on_the_page(error_page):
    """A sentence that cannot be read from the source has its place in the list of those."""
    sentences, silent = error_page.sentences(), error_page.silent()
    raised = sum(
        isinstance(node, ast.Raise) and node.exc is not None
        for path in (_CHECKOUT / "tfdist").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    )
    assert raised > 300
    assert len(sentences) + len(silent) >= raised
    assert set(silent) == set(error_page.PASSED_ON)
    page = error_page.markdown()
    assert page.count("\n- **") == len(set(sentences))
    assert "tfdist.get\\_strategy made a strategy of … replicas" in page


def test_every_error_has_a_cure(error_page):
    without = [
        row
        for row in error_page.sentences()
        if not row.cure and "must be" not in row.text and row.file not in error_page.PARTS
        and not row.text.startswith(error_page.COMPLETE)
    ]  # fmt: skip
    assert not without, "say in a second sentence what to do"
    heads = set(error_page.PARTS.values())
    assert all(any(head in row.text for row in error_page.sentences()) for head in heads)


def test_an_error_that_the_page_would_miss_is_found(error_page, tmp_path):
    (tmp_path / "a.py").write_text(
        "def f(x):\n"
        "    if x > 1:\n"
        "        raise ValueError(f'x={x} is above 1. Give less.')\n"
        "    if x: raise RuntimeError(g(x))\n"
        "    raise x\n"
        "def g(x):\n"
        "    return f'x={x}; wait.'\n"
    )
    assert [(row.kind, row.cause, row.cure) for row in error_page.sentences(tmp_path)] == [
        ("ValueError", "x=… is above 1.", "Give less."), ("RuntimeError", "x=…", "wait."),
    ]  # fmt: skip
    assert error_page.silent(tmp_path) == [("a.py", "x")]


def test_every_command_is_on_its_page(monkeypatch):
    monkeypatch.syspath_prepend(str(_CHECKOUT / "docs" / "_ext"))
    import command_page

    from tfdist.cli import commands

    page = command_page.markdown()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        f"tfdist {name}" for name in commands.COMMANDS
    ]
    assert "--workers" in page


def test_every_public_name_is_in_the_reference():
    import tfdist

    text = (_CHECKOUT / "docs" / "api.md").read_text()
    names = set(re.findall(r":: tfdist\.(\w+)", text))
    assert set(tfdist.__all__) <= names


def test_every_page_is_in_a_list_of_pages():
    folder, lists = _CHECKOUT / "docs", ""
    for path in ("index.md", "clusters/index.md"):
        text = (folder / path).read_text()
        lists += "".join(re.findall(r"```{toctree}(.*?)```", text, re.DOTALL))
    listed = set(re.findall(r"^([\w/]+)$", lists, re.MULTILINE)) | {"index"}
    pages = {path.stem for path in folder.rglob("*.md") if "_build" not in path.parts}
    assert pages == {name.rpartition("/")[2] for name in listed}


def test_readme_is_short():
    text = (_CHECKOUT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [name for name in targets if not (_CHECKOUT / name).exists()] == []


def test_readme_has_a_row_of_the_table_for_all_topics(monkeypatch):
    monkeypatch.syspath_prepend(str(_CHECKOUT / "scripts"))
    import documents
    import parity_table

    whole = documents.table_of(_CHECKOUT / "docs" / "agrees.md", "parity table")
    short = documents.table_of(_CHECKOUT / "README.md", "short parity table")
    assert short == parity_table.short(whole)
    added = [sum(int(row.split("|")[i].split(" of ")[1]) for row in short[2:]) for i in (2, 3, 4)]
    total = [whole[-1].split("|")[i] for i in (2, 3, 5)]
    assert added == [int(re.search(r"of (\d+)", cell)[1]) for cell in total]


def test_each_topic_has_its_row_in_the_readme(monkeypatch):
    """Else `make parity` would write nothing, after an hour."""
    monkeypatch.syspath_prepend(str(_CHECKOUT / "scripts"))
    import parity_table

    shown = [topic for topics in parity_table._SHORT.values() for topic in topics]
    assert sorted(shown) == sorted(parity_table.topics())
