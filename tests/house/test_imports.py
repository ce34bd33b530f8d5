"""Does importing tfdist do nothing, and do its files import in one direction only?

The direction is that of the reading lists: folders in the order of `tfdist.__doc__`, and the files
of a folder in the order of its own docstring.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import tfdist

_ROOT = pathlib.Path(tfdist.__file__).parent


def _reading_list(docstring: str | None) -> list[str]:
    """Returns the names of the files and folders of a reading list, in its order."""
    return re.findall(r"(\w+)(?:\.py|/)", (docstring or "").partition("Read in this order")[2])


_LAYERS = _reading_list(tfdist.__doc__)
# What a worker is and how workers are started: in a moment, on hosts without TensorFlow too.
_WITHOUT_TENSORFLOW = {"datasets", *_LAYERS[: _LAYERS.index("launch") + 1]}
_STANDARD_LIBRARY_ONLY = _LAYERS[: _LAYERS.index("launch")]
_PRIVATE_PREFIXES = ("keras.src", "tensorflow.python", "tf.__internal__", "tensorflow.__internal__")
_LONGEST_FILE = 300  # lines; longer ones say why they are one file
_REASON = "In one file, since"
_MOST_FILES = 20  # of a folder, without its docstring
_LONGEST_FUNCTION = 80  # lines, without its docstring
# Private names of other libraries outside of compat/, and why.
_OTHERS_NAMES = {
    "tfdist.launch.engines.spark": {"_active_spark_context", "_gateway"},  # needs no TensorFlow
}


def _module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_TREES = {_module_name(path): ast.parse(path.read_text()) for path in _ROOT.rglob("*.py")}
_MODULES = sorted(_TREES)
_FOLDERS = [name for name in _MODULES[1:] if any(m.startswith(name + ".") for m in _MODULES)]
# Those whose `__init__.py` holds public names.
_PUBLIC_FOLDERS = (
    "tfdist.encryption", "tfdist.export", "tfdist.federated", "tfdist.inference", "tfdist.launch",
    "tfdist.privacy", "tfdist.tpu", "tfdist.tracking",
)  # fmt: skip
_OF_PRIVATE_NAMES = tuple(name for name in _MODULES if name.startswith("tfdist.compat."))


def _inside(folder: str) -> list[str]:
    """Returns the modules of a folder, without the folder itself."""
    return [name for name in _MODULES if name.startswith(folder + ".")]


def _layer_name(module: str) -> str:
    """Returns "launch" for "tfdist.launch.engines.local"."""
    return module.split(".")[1]


def _imports(module: str) -> set[str]:
    """Returns the modules that `module` imports anywhere in its file, by their full names."""
    is_package = any(other.startswith(module + ".") for other in _TREES)
    found = set()
    for node in ast.walk(_TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {_resolve(source, alias.name) for alias in node.names}
    return found


def _resolve(source: str, name: str) -> str:
    """Returns what `from source import name` imports: a module, or the one that holds the name."""
    if f"{source}.{name}" in _TREES:
        return f"{source}.{name}"
    if source == "tfdist":
        return tfdist._MODULE_OF_NAME.get(name, source)
    return source


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=_ROOT.parent,
        env={"PATH": os.environ["PATH"]},  # an effect on this process's own would not show
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_import_has_no_effect():
    code = """
import json, logging, os, signal, sys, threading, warnings
def state():
    flags = sys.modules["absl.flags"].FLAGS
    return {
        "environ": dict(os.environ),
        "handlers": [repr(handler) for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "flags": sorted(flags),
        "filters": len(warnings.filters),
        "path": list(sys.path),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "threads": threading.active_count(),
    }
import absl.flags
before = state()
import tfdist
after = state()
print(json.dumps([before, after, sorted(sys.modules)]))
"""
    done = _run(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    before, after, modules = json.loads(done.stdout)
    assert after == before
    assert not {"tensorflow", "keras", "numpy", "cloudpickle"} & set(modules)


def test_import_is_quick():
    code = """
import time
start = time.perf_counter()
import tfdist
print(time.perf_counter() - start)
"""
    secs = min(float(_run(code).stdout) for _ in range(3))
    assert secs < 0.1


@pytest.mark.parametrize(
    ("attribute", "blocked"),
    [("fit", "tensorflow"), ("get_strategy", "tensorflow"), ("Trainer", "keras")],
)
def test_missing_package_names_the_extra(attribute, blocked):
    code = """
import sys
attribute, blocked = sys.argv[1:]
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import tfdist
try:
    getattr(tfdist, attribute)
except ImportError as error:
    print(f"{type(error).__name__}: {error}")
"""
    done = _run(code, attribute, blocked)
    assert done.stdout == (
        f"ImportError: tfdist.{attribute} needs the package {blocked!r}, which is not installed. "
        "Install it with exactly one of the extras: pip install 'tfdist[cpu]', 'tfdist[gpu]' or "
        "'tfdist[tpu]'.\n"
    ), done.stderr


def test_another_missing_package_is_named_as_it_is(monkeypatch):
    monkeypatch.setitem(tfdist._MODULE_OF_NAME, "fit", "tfdist.no_such_module")
    monkeypatch.delitem(vars(tfdist), "fit", raising=False)
    with pytest.raises(ModuleNotFoundError, match="No module named 'tfdist.no_such_module'"):
        _ = tfdist.fit


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = tfdist.fitt


def test_public_names_are_listed_once_and_sorted():
    assert tfdist.__all__ == sorted(set(tfdist.__all__))
    assert set(tfdist.__all__) == {*tfdist._MODULE_OF_NAME, *tfdist._SUBMODULES}
    assert set(tfdist.__all__) <= set(dir(tfdist))
    assert len(tfdist.__all__) <= 39


def test_type_checkers_see_the_same_names():
    [block] = [node for node in _TREES["tfdist"].body if isinstance(node, ast.If)]
    seen = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == {**tfdist._MODULE_OF_NAME, **dict.fromkeys(tfdist._SUBMODULES, "tfdist")}


@pytest.mark.parametrize("name", tfdist.__all__)
def test_public_name_resolves(name, logical_cpus):
    value = getattr(tfdist, name)
    if name in tfdist._SUBMODULES:
        assert value is importlib.import_module(f"tfdist.{name}")
    else:
        assert value is getattr(importlib.import_module(tfdist._MODULE_OF_NAME[name]), name)
    assert vars(tfdist)[name] is value


def test_reading_list_names_every_file_once():
    assert sorted(_LAYERS) == sorted({_layer_name(module) for module in _MODULES[1:]})


@pytest.mark.parametrize("module", _MODULES[1:])
def test_imports_go_downwards(module):
    inside = {name for name in _imports(module) if name.partition(".")[0] == "tfdist"}
    assert "tfdist" not in inside, "import from the module itself, not through the package"
    layer = _layer_name(module)
    allowed = _LAYERS[: _LAYERS.index(layer) + 1] if layer in _LAYERS else []
    upwards = {name for name in inside if _layer_name(name) not in allowed}
    assert not upwards


def test_imports_have_no_cycle():
    graph = {module: _imports(module) & set(_TREES) - {module, "tfdist"} for module in _MODULES}
    while leaves := {module for module, needed in graph.items() if not needed & set(graph)}:
        graph = {module: needed for module, needed in graph.items() if module not in leaves}
    assert not graph, f"these import each other: {sorted(graph)}"


def test_launcher_imports_no_tensorflow():
    light = [module for module in _MODULES[1:] if _layer_name(module) in _WITHOUT_TENSORFLOW]
    assert light
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted({"tensorflow", "keras", "numpy"} & set(sys.modules)))
"""
    done = _run(code, *light)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "module", [name for name in _MODULES[1:] if _layer_name(name) in _STANDARD_LIBRARY_ONLY]
)
def test_standard_library_only(module):
    packages = {name.partition(".")[0] for name in _imports(module)}
    assert packages <= {*sys.stdlib_module_names, "tfdist"}


@pytest.mark.parametrize("folder", _FOLDERS)
def test_folder_names_each_of_its_files_once(folder):
    inside = {name.removeprefix(folder + ".").partition(".")[0] for name in _inside(folder)}
    assert sorted(_reading_list(ast.get_docstring(_TREES[folder]))) == sorted(inside)


@pytest.mark.parametrize("folder", _FOLDERS)
def test_imports_inside_a_folder_go_upwards_in_its_list(folder):
    order = _reading_list(ast.get_docstring(_TREES[folder]))
    for module in _inside(folder):
        name = module.removeprefix(folder + ".").partition(".")[0]
        needed = {n.removeprefix(folder + ".") for n in _imports(module) & set(_inside(folder))}
        wrong = {n.partition(".")[0] for n in needed} - set(order[: order.index(name) + 1])
        assert not wrong, f"{module} imports from files that come after it: {sorted(wrong)}"


@pytest.mark.parametrize("folder", _FOLDERS)
def test_folder_is_small(folder):
    assert len([name for name in _inside(folder) if name.count(".") == folder.count(".") + 1]) <= (
        _MOST_FILES
    )


@pytest.mark.parametrize("folder", [name for name in _FOLDERS if name not in _PUBLIC_FOLDERS])
def test_folder_is_nothing_but_its_files(folder):
    assert [type(node) for node in _TREES[folder].body] == [ast.Expr]  # its docstring


def test_no_folder_hides_a_public_function():
    # Importing tfdist.fit.x would put a module on tfdist.fit.
    names = {name.rpartition(".")[2] for name in _FOLDERS} - set(tfdist._SUBMODULES)
    assert not names & set(tfdist.__all__)


@pytest.mark.parametrize("module", [name for name in _MODULES if name not in _OF_PRIVATE_NAMES])
def test_private_names_stay_in_compat(module):
    used = {name for name in _names(_TREES[module]) if name.startswith(_PRIVATE_PREFIXES)}
    assert not used
    others = _private_names_of_others(_TREES[module])
    assert others == _OTHERS_NAMES.get(module, set())


def _private_names_of_others(tree: ast.Module) -> set[str]:
    """Returns the attributes `._name` of objects that are neither `self` nor Python's modules."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner, name = node.value, node.attr
        elif _asks_by_name(node):
            owner, name = node.args[0], node.args[1].value
        else:
            continue
        is_own = isinstance(owner, ast.Name) and owner.id in {"self", "cls"}
        is_of_python = isinstance(owner, ast.Name) and owner.id in sys.stdlib_module_names
        is_private = name.startswith("_") and not name.startswith("__")
        if is_private and not is_own and not is_of_python:
            found.add(name)
    return found


def _asks_by_name(node: ast.AST) -> bool:
    """Tells whether a node is a call such as `getattr(value, "name")`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr", "setattr", "delattr")
        and isinstance(node.args[1], ast.Constant)
    )


def _names(tree: ast.Module) -> set[str]:
    """Returns the imported modules, dotted names and strings of a file, without its docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set() if id(node) in docstrings else {node.value}
    return found


@pytest.mark.parametrize("module", _MODULES)
def test_file_is_short_and_has_a_question(module):
    path = _ROOT.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")
    docstring = ast.get_docstring(_TREES[module])
    assert docstring
    is_long = len(path.read_text().splitlines()) > _LONGEST_FILE
    assert is_long == (_REASON in " ".join(docstring.split()))


@pytest.mark.parametrize("module", _MODULES)
def test_functions_are_short(module):
    for node in ast.walk(_TREES[module]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node):
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            assert lines <= _LONGEST_FUNCTION, node.name
