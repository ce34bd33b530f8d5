"""Which sentences do errors of tfdist say, and where?  Read from the source, for docs/errors.md.

The page has every sentence as it is raised, so that nobody has to keep it: a message has its cause
first and its cure behind it, and what is filled in is shown as an ellipsis. By hand stands here
what the source does not show: which sentences are parts of others, and those that are passed on.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

_PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "tfdist"
_MARK = "<!-- errors -->"
_GAP = "…"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>$#|~])")
# Where a cause ends and a cure begins.
_FIRST = re.compile(r"(?<=[.?]) (?=[^a-z])|(?<=[^.]); |(?<=[^.])\. (?=…)")

# Classes of errors whose names do not say so.
_CLASSES = ("SystemExit", "TooFew")

# Files whose sentences are reasons inside of another error's, and what that one begins with.
PARTS = {
    "checkpoint/contents.py": "None of the checkpoints in",
    "checkpoint/encrypted.py": "None of the checkpoints in",
    "checkpoint/manifest.py": "None of the checkpoints in",
    "checkpoint/plain_values.py": "None of the checkpoints in",
    "cluster/announcement.py": "No roll call could be reached at",
    "cluster/heartbeat.py": "No roll call could be reached at",
    "cluster/messages.py": "No roll call could be reached at",
    "cluster/roll_call_client.py": "No roll call could be reached at",
    "cluster/hostlists.py": "SLURM_STEP_TASKS_PER_NODE=",
    "cluster/tf_config.py": "TF_CONFIG",
}
# Files whose functions return the causes that an error of another file tells.
CAUSES = ("first_step/likely_cause.py",)
# What is raised without a sentence of its own in that place, by file and code, and what it is.
PASSED_ON = {
    ("checkpoint/checkpointer.py", "error"): "the chief's own error in reading a checkpoint",
    ("checkpoint/contents.py", "RuntimeError(header['error'])"): "the same, on the other workers",
    ("checkpoint/run.py", "contract.Saved"): "exit code 75: saved, after a notice to stop",
    ("cli/first_fit.py", "_Enough(found)"): (
        "ends a program after the first fit, which was looked at; nobody sees it"
    ),
    ("encryption/streams.py", "reader.error or writer.error or error"): (
        "the system's own error in writing a file"
    ),
    ("encryption/streams.py", "own"): "the system's own error in reading one",
    ("cluster/roll_call.py", "RuntimeError(str(self._answer['error']))"): (
        "the launcher's finding about the workers: who is missing, whose versions differ"
    ),
    ("cluster/roll_call_client.py", "RuntimeError(str(answer['error']))"): "the same, on a worker",
    ("cluster/side_channel.py", "OSError(str(error))"): "a connection that broke; it is told later",
    ("data/errors.py", "ValueError(sentence)"): "what TensorFlow says of the data, in a sentence",
    ("privacy/ghost.py", "NoRule(layer.name)"): "nobody sees it: examples are computed one by one",
    ("privacy/layer_rules.py", "NoRule(layer.name)"): "the same",
    ("privacy/layer_rules.py", "NoRule(str(shape))"): "the same",
    ("privacy/update.py", "NoRule(model.name)"): "the same",
    ("data/order.py", "AttributeError(name)"): "of a name that modules are asked for by Python",
    ("export/exporting.py", "RuntimeError(found['error'])"): "the converter's own error",
    ("federated/over_workers.py", "error"): "the error of a client, on the worker that it is on",
    ("federated/sites/joining.py", "failure"): "what a client has failed with, on its own site",
    ("launch/call.py", "RuntimeError(failures.report(last, earlier=earlier))"): (
        "the worker that failed first, its traceback and exit code"
    ),
    ("launch/child.py", "SystemExit(1)"): "exit code 1, after the traceback was shown",
    ("launch/command_line.py", "SystemExit(WRONG_FLAGS_EXIT_CODE)"): (
        "exit code 2, after it was said what is wrong"
    ),
    ("launch/command_line.py", "SystemExit(0)"): "exit code 0, after help",
    ("launch/engines/local.py", "NoRoom(rank, error)"): "no place for a worker; told elsewhere",
    ("launch/engines/wire.py", "OSError(str(error))"): "a connection that broke; it is told later",
    ("launch/private_network.py", "OSError(number, f'unshare: {os.strerror(number)}')"): (
        "the system's own error, which the sentence about --private_network holds"
    ),
    ("communication/together.py", "error"): "the chief's own error in writing a model",
}
# Sentences that need no cure beside them.
COMPLETE = (
    "It does not", "The connection has ended", "A message", "tfdist: ", "… defines no",
    "There is no port", "The data holds no examples", "… cannot be read", "… must be one of",
    "…() got multiple values", "…: …", "rounds=", "env=", "Reading Parquet", "The TPU … cannot",
    "… To go on nevertheless", "its line …",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sentence:
    """What one error says."""

    file: str  # below tfdist/
    kind: str  # the name of its class
    text: str  # with an ellipsis for what is filled in

    @property
    def cause(self) -> str:
        """Its first sentence."""
        return _FIRST.split(self.text, maxsplit=1)[0]

    @property
    def cure(self) -> str:
        """The rest; "" where there is none."""
        return self.text[len(self.cause) :].lstrip("; ")


@functools.cache
def _everything(package: pathlib.Path) -> tuple[Any, ...]:
    return tuple(_found(package))


def sentences(package: pathlib.Path = _PACKAGE) -> list[Sentence]:
    """Returns what the errors of a package say, in the order of files and lines."""
    return [row for row, _ in _everything(package) if row is not None]


def silent(package: pathlib.Path = _PACKAGE) -> list[tuple[str, str]]:
    """Returns file and code of each error whose sentence is not in the source of that file."""
    return [place for row, place in _everything(package) if row is None]


def _found(package: pathlib.Path) -> Iterator[tuple[Sentence | None, tuple[str, str]]]:
    paths = sorted(package.rglob("*.py"))
    trees = {path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in paths}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    for file, tree in trees.items():
        source = _Source(functions, tree)
        raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc and not isinstance(node.exc, ast.Call):
                parts = node.exc.values if isinstance(node.exc, ast.BoolOp) else [node.exc]
                if not any(isinstance(part, ast.Call) for part in parts):  # else it is found below
                    yield None, (file, ast.unparse(node.exc))
            elif isinstance(node, ast.Call) and (id(node) in raised or _kind(node)):
                texts = list(_texts(node, source))
                for kind, text in texts:
                    yield Sentence(file, kind, text), (file, "")
                if not texts:
                    yield None, (file, ast.unparse(node))
            elif (
                file in CAUSES and isinstance(node, ast.Return) and _is_text(node.value)
                and " " in (text := _shown(node.value))
            ):
                yield Sentence(file, "ValueError", text), (file, "")


def _kind(node: ast.Call) -> str:
    """Returns the name of the class of errors that is called, or ""."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    return name if name.endswith("Error") or name in _CLASSES else ""


def _texts(call: ast.Call, source: _Source) -> Iterator[tuple[str, str]]:
    """Gives class and text of what a call makes; a function or a name may hold the text."""
    kind, first = _kind(call), call.args[0] if call.args else None
    if isinstance(first, ast.BoolOp):
        first = first.values[-1]
    if not kind:  # a function that returns an error: its own calls of the class
        for node in source.inside(call):
            if isinstance(node, ast.Call) and _kind(node):
                yield from _texts(node, source)
    elif isinstance(first, ast.Name):
        yield from ((kind, text) for text in source.assigned.get(first.id, ()))
    elif isinstance(first, ast.Call):
        yield from ((kind, text) for text in source.returned(first))
    elif _is_text(first):
        yield kind, _shown(first)


class _Source:
    """The functions of a package, and the texts that names of one file stand for."""

    def __init__(self, functions: dict[str, ast.AST], tree: ast.AST) -> None:
        self._functions = functions
        self.assigned: dict[str, list[str]] = collections.defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and _is_text(node.value):
                self.assigned[ast.unparse(node.targets[0])].append(_shown(node.value))

    def inside(self, call: ast.Call) -> Iterator[ast.AST]:
        """Gives the nodes of the function that is called, if it is one of ours."""
        made = self._functions.get(ast.unparse(call.func).rpartition(".")[2])
        yield from ast.walk(made) if made else ()

    def returned(self, call: ast.Call) -> Iterator[str]:
        """Gives the texts that a function of ours returns, itself or by another one."""
        for node in self.inside(call):
            if isinstance(node, ast.Return) and _is_text(node.value):
                yield _shown(node.value)
            elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
                yield from self.returned(node.value)


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _shown(node: Any) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(part.value if isinstance(part, ast.Constant) else _GAP for part in parts)
    return re.sub(rf"{_GAP}+", _GAP, " ".join(text.split()))


def markdown() -> str:
    """Returns the sentences as Markdown, a section for each folder."""
    by_folder: dict[str, dict[Sentence, None]] = collections.defaultdict(dict)
    for row in sentences():
        by_folder[row.file.partition("/")[0] if "/" in row.file else ""][row] = None
    lines = []
    for folder, rows in by_folder.items():
        lines += ["", f"### {folder or 'tfdist itself'}", "", *_question(folder)]
        for row in rows:
            part = PARTS.get(row.file, "") if not row.cure else ""
            within = f" (a reason inside of “{_escape(part)} {_GAP}”)" if part else ""
            cure = f" {_escape(row.cure)}" if row.cure.strip(". " + _GAP) else ""
            lines.append(f"- **{_escape(row.cause)}**{cure}{within} `{row.kind}`, `{row.file}`")
    return "\n".join(lines)


def _question(folder: str) -> list[str]:
    """Returns the question that a folder answers, by the first line of its docstring."""
    if not folder:
        return []
    docstring = ast.get_docstring(ast.parse((_PACKAGE / folder / "__init__.py").read_text()))
    return [(docstring or "").splitlines()[0], ""]


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def setup(app: Any) -> dict[str, bool]:
    """Puts the sentences into the page, each time when it is read."""

    def fill(app: Any, name: str, content: list[str]) -> None:
        if name == "errors":
            content[0] = content[0].replace(_MARK, markdown())

    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
