"""Can a stranger install tfdist, and does set-up leave alone what is there already?"""

from __future__ import annotations

import configparser
import email
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import tfdist
from tfdist.cli.health import rules

_CHECKOUT = pathlib.Path(tfdist.__file__).parent.parent
_NO_BYTECODE = {"PIP_NO_COMPILE": "0"}  # sic: pip skips it where this is false; it takes longest
# What a build reads. It works on a copy, so that it leaves nothing in the checkout.
_SOURCES = ("setup.cfg", "pyproject.toml", "LICENSE", "NOTICE", "README.md", "scripts", "tfdist")


def _run(command: list[str], *, timeout: float, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout, **options
    )


def _copy_sources(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in _SOURCES:
        source = _CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder)
    return folder


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(_CHECKOUT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Builds the wheel without an index, and opens it."""
    folder = _copy_sources(tmp_path_factory.mktemp("wheel") / "sources")
    code = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"
    done = _run([sys.executable, "-c", code], cwd=folder, timeout=100)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / "dist" / done.stdout.splitlines()[-1])


def test_wheel_has_every_file_of_the_package(wheel):
    files = {
        path.relative_to(_CHECKOUT).as_posix()
        for path in (_CHECKOUT / "tfdist").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"tfdist/py.typed", "tfdist/datasets/digits.npz"} < files
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == files


def test_wheel_says_what_it_is(wheel):
    [folder] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    names = {name.rpartition("/")[2] for name in wheel.namelist() if name.startswith(folder)}
    assert {"LICENSE", "NOTICE", "entry_points.txt"} <= names
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("tfdist", tfdist.__version__)
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])
    core = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.split("[<>=]", line)[0] for line in core} == {
        "absl-py",
        "cloudpickle",
        "keras",
        "numpy",
    }


def test_version_is_the_same_everywhere():
    assert f"\nversion: {tfdist.__version__}\n" in (_CHECKOUT / "CITATION.cff").read_text()
    heads = re.findall(r"^## (.*)$", (_CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0].split()[0] == tfdist.__version__


def test_entry_points_can_be_called(config):
    scripts = config["options.entry_points"]["console_scripts"].strip().splitlines()
    for script in scripts:
        module, _, name = script.partition("=")[2].strip().partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_pyproject_holds_the_build_system_only():
    tables = re.findall(r"^\[(.*)\]$", (_CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert tables == ["build-system"]


def test_extras_are_the_promised_ones(config):
    extras = config["options.extras_require"]
    assert set(extras) == {
        "cpu", "gpu", "tpu", "ray", "spark", "dask", "parquet", "grain", "hub", "mlflow", "wandb",
        "encryption", "export", "federated", "flower", "privacy", "docs", "examples", "plot",
        "tpu-preflight", "test",
    }  # fmt: skip
    for extra in ("cpu", "gpu", "tpu"):
        assert "tensorflow" in extras[extra]
    unbounded = [
        line
        for text in extras.values()
        for line in text.strip().splitlines()
        if "<" not in line.partition(";")[0] and "==" not in line.partition(";")[0]
    ]
    # Their versions are dates: no bound means anything.
    assert unbounded == ["distributed>=2026.8.0", 'regex>=2024.5; python_version >= "3.11"']


def test_kerashub_is_installed_as_it_is_told_everywhere(config):
    """pip would bring a second TensorFlow with it, so that no extra may name it."""
    assert "keras-hub" not in "".join(config["options.extras_require"].values())
    setup = (_CHECKOUT / "scripts" / "setup_env.py").read_text()
    [release] = re.findall(r'"hub": "(keras-hub\S*)"', setup)
    told = [_CHECKOUT / "setup.cfg", _CHECKOUT / "docs" / "large_models.md"]
    assert all(f'pip install --no-deps "{release}"' in path.read_text() for path in told)
    [rule] = [rule for rule in rules.RULES if rule.name == "tensorflow-text"]
    assert f"pip install --no-deps '{release}'" in rule.cure


def test_data_by_others_is_named():
    notice = (_CHECKOUT / "NOTICE").read_text()
    for part in ("tfdist/datasets/digits.npz", "Alpaydin", "Kaynak", "CC BY 4.0", "10.24432"):
        assert part in notice
    assert "Apache License" in (_CHECKOUT / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "-m tfdist.launch --workers=2 scripts/train.py --device=cpu"),
        (["train", "ARGS=--epochs=3"], "scripts/train.py --device=cpu --epochs=3"),
        (["train", "EXTRA=gpu"], "--extras=gpu"),
        (["test"], "-rs --dist loadfile --no-loadscope-reorder --durations=15 tests -n 2"),
        (["test"], 'tests -n 2 -m "not slow"'),
        (["test", "EXTRA=tpu"], "--extras=tpu,test"),
        (["test", "WITH=test,ray"], "--extras=cpu,test,ray"),
        (["test-slow"], "--extras=cpu,test,hub,ray,dask,spark"),
        (["test-slow"], 'tests -n 3 -m "slow and not table" -o timeout=900'),
        (["test-all"], 'tests -n 3 -m "slow and not table" -o timeout=900'),
        (["test-all"], "tests/house/test_parity.py tests/house/test_parity_workers.py"),
        (["environments"], "compiler_python(cache_dir='.pytest_cache/d/tfdist-tpu')"),
        (["environments"], "--extras=test --pins=tensorflow-cpu==2.20.0,keras==3.13"),
        (["test-colab"], "--extras=test --pins=tensorflow-cpu==2.20.0,keras==3.13"),
        (["test-next"], "next_releases.py --venv="),
        (["test-next"], "none-next --pins='tensorflow-cpu>=2.22.dev0'"),
        (["test-all"], "next_releases.py --venv="),
        (["parity"], "-m parity.remake --all"),
        (["parity"], "scripts/parity_table.py --write"),
        (["oracles"], "-m parity.remake"),
        (["docs"], "-m sphinx -q -n -W --keep-going docs docs/_build/html"),
        (["check"], "-m mypy tfdist scripts"),
    ],
)
def test_make_runs(arguments, expected, tmp_path):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", f"VENV={tmp_path}/none", *arguments]
    done = _run(command, cwd=_CHECKOUT, env=environ, timeout=30)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_ci_makes_one_environment_for_all_of_its_own_tests(tmp_path):
    ci = (_CHECKOUT / ".ci" / "run").read_text()
    variable = re.search("^export (WITH=.*)$", ci, re.MULTILINE).group(1)
    goals = ["environment", "check", "test", "docs", "test-slow"]
    command = ["make", "--dry-run", f"VENV={tmp_path}/none", variable, *goals]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = _run(command, cwd=_CHECKOUT, env=environ, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("setup_env.py") == 1


_MAKE = """#!/usr/bin/env bash
echo "made $*"
case "$*" in
  environments) sleep "$SLOWLY"; exit "$ENVIRONMENTS" ;;
  "$BREAKS") exit 5 ;;
esac
"""


def _run_ci(folder: pathlib.Path, *, breaks: str = "", environments: int = 0, slowly: float = 0):
    """Runs .ci/run with a stand-in for make."""
    (folder / "make").write_text(_MAKE)
    (folder / "make").chmod(0o755)
    environ = {
        **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "BREAKS": breaks,
        "ENVIRONMENTS": str(environments), "SLOWLY": str(slowly),
    }  # fmt: skip
    return _run([str(_CHECKOUT / ".ci" / "run")], env=environ, timeout=30)


def test_ci_checks_first_and_then_tests(tmp_path):
    done = _run_ci(tmp_path)
    assert done.returncode == 0, done.stderr
    made = [line.partition(" ")[2] for line in done.stdout.splitlines() if line[:4] == "made"]
    # The output of what is made in the background comes when it is waited for.
    assert made == [
        "environment", "check", "test", "docs", "environments", "test-slow", "test-colab",
        "test-next",
    ]  # fmt: skip
    last = done.stdout.splitlines()[-10:]
    assert last[0] == "What took how long:"
    assert [line.split(" s  ")[1] for line in last[1:]] == [
        "the environment", "lint and types", "quick tests", "documentation",
        "what was left of the other environments", "slow tests", "Colab's versions",
        "the releases that come next", "all, exit code 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "breaks", ["environment", "check", "test", "docs", "test-slow", "test-colab"]
)
def test_first_failure_ends_ci(breaks, tmp_path):
    done = _run_ci(tmp_path, breaks=breaks)
    assert done.returncode == 5
    assert f"made {breaks}\n\nWhat took how long:" in done.stdout
    assert done.stdout.endswith("s  all, exit code 5\n")


def test_ci_fails_where_an_environment_cannot_be_made(tmp_path):
    done = _run_ci(tmp_path, environments=3, slowly=0.5)
    assert done.returncode == 3
    assert "made environments\n\nWhat took how long:" in done.stdout
    assert "made test-slow" not in done.stdout


def test_ci_that_fails_leaves_nothing_behind(tmp_path):
    done = _run_ci(tmp_path, breaks="check", slowly=77)  # the fixture looks for processes
    assert done.returncode == 5


def test_setup_names_the_python_versions(tmp_path):
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 1, 'final', 0);"
        f"sys.argv[1:] = ['--venv={tmp_path}/venv', '--extras=cpu'];"
        "runpy.run_path('scripts/setup_env.py', run_name='__main__')"
    )
    done = _run([sys.executable, "-c", code], cwd=_CHECKOUT, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("tfdist needs Python 3.10 to 3.13, found ")
    assert "make PYTHON=python3.12" in done.stderr


def test_setup_says_where_no_pip_can_be_had(tmp_path):
    environ = _environ_without(tmp_path, "ensurepip", "pip", "tensorflow")
    done = _setup(tmp_path / "venv", python=sys.executable, env=environ, timeout=60)
    assert done.returncode == 1
    assert "has neither ensurepip nor pip" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_setup_refuses_an_environment_that_does_not_run(tmp_path):
    (tmp_path / "venv").mkdir()
    done = _setup(tmp_path / "venv", python=sys.executable, timeout=60)
    assert done.returncode == 1
    assert "bin/python does not run" in done.stderr


def test_setup_installs_nothing_over_a_broken_tensorflow(tmp_path):
    venv = _venv_with_tensorflow(tmp_path / "venv", code="raise ImportError('libbroken.so')")
    done = _setup(venv, python=sys.executable, timeout=60)
    assert done.returncode == 1
    assert "has tensorflow==2.21.0, but cannot import it: ImportError: libbroken" in done.stderr
    assert "Repair it" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_in_venv", "without"), [(False, []), (False, ["ensurepip"]), (True, [])]
)
def test_setup_keeps_a_tensorflow_that_is_there(is_in_venv, without, tmp_path):
    """A TensorFlow (here a stand-in) in the Python that make is given, or in the environment."""
    sources = _copy_sources(tmp_path / "sources")
    parent = _venv_with_tensorflow(tmp_path / "parent", code="", pip=True)
    venv = parent if is_in_venv else tmp_path / "venv"
    environ = _environ_without(tmp_path, *without)
    done = _setup(venv, sources, python=f"{parent}/bin/python", env=environ, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "can import TensorFlow (tensorflow==2.21.0): it stays as it is." in done.stdout
    assert ("--without-pip" in done.stdout) == bool(without)
    code = """
import importlib.metadata, tensorflow, tfdist
print(tensorflow.__file__)
print(tfdist.__file__)
print(importlib.metadata.version("keras"))
"""
    done = _run([f"{venv}/bin/python", "-c", code], timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tensorflow, ours, _ = done.stdout.splitlines()
    assert tensorflow.startswith(f"{parent}/")
    assert ours == f"{sources}/tfdist/__init__.py"
    installed = {path.name for path in venv.rglob("tensorflow*.dist-info")}
    assert installed == ({"tensorflow-2.21.0.dist-info"} if is_in_venv else set())


@pytest.mark.slow
@pytest.mark.parametrize("editable", [[], ["--editable"]], ids=["plain", "editable"])
@pytest.mark.parametrize("pip", ["pip==23.0", "pip"])
def test_pip_installs_into_a_clean_environment(pip, editable, tmp_path):
    sources = _copy_sources(tmp_path / "sources")
    python, environ = f"{tmp_path}/venv/bin/python", {**os.environ, **_NO_BYTECODE}
    code = "import tfdist; print(tfdist.__version__, tfdist.datasets.__doc__[:5])"
    for command in (
        [sys.executable, "-m", "venv", f"{tmp_path}/venv"],
        [python, "-m", "pip", "install", "--quiet", "--upgrade", pip],
        [python, "-m", "pip", "install", "--quiet", "--no-deps", *editable, str(sources)],
        [python, "-m", "pip", "install", "--quiet", "absl-py"],  # all that the launcher needs
        [python, "-c", code],
        [f"{tmp_path}/venv/bin/tfdist-launch", "--help"],
    ):
        done = _run(command, timeout=300, cwd=tmp_path, env=environ)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def _setup(
    venv: pathlib.Path, checkout: pathlib.Path = _CHECKOUT, *, python: str, **options
) -> subprocess.CompletedProcess[str]:
    script = f"{checkout}/scripts/setup_env.py"
    return _run([python, script, f"--venv={venv}", "--extras=cpu"], **options)


def _environ_without(folder: pathlib.Path, *modules: str) -> dict[str, str]:
    """Returns an environment in which Python finds none of these modules, as on a bare Debian."""
    lines = [f"sys.modules[{module!r}] = None" for module in modules]
    (folder / "sitecustomize.py").write_text("\n".join(["import sys", *lines]))
    return {**os.environ, **_NO_BYTECODE, "PYTHONPATH": str(folder)}


def _venv_with_tensorflow(venv: pathlib.Path, *, code: str, pip: bool = False) -> pathlib.Path:
    """Makes an environment with a package that pip takes for tensorflow 2.21.0."""
    flags = [] if pip else ["--without-pip"]
    _run([sys.executable, "-m", "venv", *flags, str(venv)], timeout=60)
    [packages] = venv.glob("lib/python*/site-packages")
    info = packages / "tensorflow-2.21.0.dist-info"
    info.mkdir()
    (packages / "tensorflow").mkdir()
    (packages / "tensorflow" / "__init__.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.21.0\n")
    (info / "top_level.txt").write_text("tensorflow\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("tensorflow/__init__.py,,\n")
    return venv
