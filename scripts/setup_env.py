"""Makes a virtual environment in which tfdist runs; what `make` calls before everything else.

    python3 scripts/setup_env.py --venv=.venv --extras=cpu,test
    python3 scripts/setup_env.py --venv=.venv-colab --extras=test --pins=tensorflow-cpu==2.20.0

A TensorFlow that can be imported is never replaced: where this Python has one, the new environment
sees it and gets none of its own, and where the environment has one already, that one stays. With
`--pins` the new environment sees nothing of this Python's, and gets those versions. keras-nightly,
which some of them ask for, stays too: pip takes it for another package than keras, and would put
the one into the folder of the other.
Standard library only, since nothing is installed yet.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

_OLDEST, _TOO_NEW = (3, 10), (3, 14)
_TENSORFLOW_EXTRAS = ("cpu", "gpu", "tpu")
# What is installed for an extra without what it asks for itself: KerasHub would bring tensorflow
# beside tensorflow-cpu. It needs Python 3.11.
_WITHOUT_DEPENDENCIES = {"hub": "keras-hub>=0.32,<0.33"}
_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent

# Run by the Python that is looked at.
_LOOK = """
import importlib.metadata, json, site, sys, sysconfig
def of(package):
    names = set(importlib.metadata.packages_distributions().get(package, ()))
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in names)
print(json.dumps({
    "in_venv": sys.prefix != sys.base_prefix,
    "packages": sysconfig.get_path("purelib"),
    "sites": site.getsitepackages(),
    "tensorflow": of("tensorflow"),
    "keras": of("keras"),
    "version": sys.version_info[:2],
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes an environment in which tfdist runs.")
    parser.add_argument("--venv", required=True, help="Folder of the environment.")
    parser.add_argument("--extras", required=True, help="Extras of setup.cfg, as in cpu,test.")
    parser.add_argument("--pins", default="", help="Versions of its own, as in keras==3.13.2,..")
    options = parser.parse_args()
    pins = options.pins.split(",") if options.pins else []
    set_up(pathlib.Path(options.venv), extras=options.extras.split(","), pins=pins)


def set_up(venv: pathlib.Path, *, extras: list[str], pins: list[str]) -> None:
    """Makes the environment `venv` where there is none, and installs into it; see the flags."""
    if not _OLDEST <= sys.version_info[:2] < _TOO_NEW:
        raise SystemExit(
            f"tfdist needs Python 3.10 to 3.13, found {sys.version.split()[0]} ({sys.executable}). "
            "Name another one, as in: make PYTHON=python3.12"
        )
    if not venv.exists():
        make_venv(venv, sees_ours=not pins)
    install(venv / "bin" / "python", extras=extras, pins=pins)


def make_venv(venv: pathlib.Path, *, sees_ours: bool) -> None:
    """Makes the environment `venv`, which may see this Python's TensorFlow if there is one."""
    has_tensorflow = sees_ours and import_error(sys.executable) is None
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None  # not so on a bare Debian
    if not has_ensurepip and importlib.util.find_spec("pip") is None:
        raise SystemExit(
            f"{sys.executable} has neither ensurepip nor pip, so it can install nothing. Add one "
            "(Debian, Ubuntu: apt-get install python3-venv), or name another Python, as in: "
            "make PYTHON=python3.12"
        )
    flags = ["--system-site-packages"] if has_tensorflow else []
    flags += [] if has_ensurepip else ["--without-pip"]
    print(f"Making {venv} with {' '.join([sys.executable, *flags])}.", flush=True)
    run([sys.executable, "-m", "venv", *flags, str(venv)])
    ours, new = look(sys.executable), look(str(venv / "bin" / "python"))
    if has_tensorflow and ours["in_venv"]:
        # An environment made from another one sees the system's packages only: add the other's.
        lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in ours["sites"])
        pathlib.Path(new["packages"], "tfdist_parent_environment.pth").write_text(lines)
    if not has_ensurepip:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--target", new["packages"], "pip"])


def install(python: pathlib.Path, *, extras: list[str], pins: list[str]) -> None:
    """Installs this checkout with its extras; of TensorFlow only what cannot be imported yet."""
    if pins:
        run([str(python), "-m", "pip", "install", "--quiet", *pins])
    error, found = import_error(str(python)), look(str(python))
    tensorflow = found["tensorflow"]
    if error is None:
        kept = " ".join(tensorflow) or "a TensorFlow that pip does not know"
        print(f"{python} can import TensorFlow ({kept}): it stays as it is.", flush=True)
        extras = [extra for extra in extras if extra not in _TENSORFLOW_EXTRAS]
    elif tensorflow:
        raise SystemExit(
            f"{python} has {' '.join(tensorflow)}, but cannot import it: {error}. Repair it, or "
            "remove that environment, and try again."
        )
    target = f"{_CHECKOUT}[{','.join(extras)}]" if extras else str(_CHECKOUT)
    print(f"Installing {target} into {python}; this can take minutes.", flush=True)
    install_command = [str(python), "-m", "pip", "install", "--quiet"]
    wanted = ["--editable", target]
    if any(release.startswith("keras-nightly==") for release in found["keras"]):
        run([*install_command, "--no-deps", "--editable", str(_CHECKOUT)])
        wanted = requirements(extras, but="keras")
    # Named again, a TensorFlow that is there keeps pip from moving what it needs, such as numpy.
    run([*install_command, *wanted, *tensorflow, *pins])
    alone = [one for extra, one in _WITHOUT_DEPENDENCIES.items() if extra in extras]
    if alone and found["version"] >= [3, 11]:
        run([*install_command, "--no-deps", *alone])
    error = import_error(str(python))
    if error is not None:
        raise SystemExit(
            f"{target} is installed into {python}, but TensorFlow cannot be imported: {error}. "
            "Name the extra that brings one, as in: make EXTRA=cpu"
        )


def requirements(extras: list[str], *, but: str = "") -> list[str]:
    """Returns what this checkout and its extras ask for, but one package."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(_CHECKOUT / "setup.cfg")
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"][extra] for extra in extras]
    lines = [line for text in texts for line in text.strip().splitlines()]
    return [line for line in lines if re.split(r"[^\w.-]", line)[0] != but]


def look(python: str) -> dict[str, Any]:
    """Says of the interpreter `python` what `_LOOK` prints."""
    return json.loads(finish([python, "-c", _LOOK]).stdout)


def import_error(python: str) -> str | None:
    """Says why the interpreter `python` cannot import TensorFlow, or None where it can."""
    done = finish([python, "-c", "import tensorflow"], check=False)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1]


def finish(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what it printed."""
    # Off a TPU machine tensorflow-tpu would ask for the cloud's metadata, for minutes.
    environ = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=check)
    except OSError as error:
        raise SystemExit(
            f"{command[0]} does not run ({error}). Remove its environment and try again."
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{command[0]} does not work:\n{error.stderr}") from None


def run(command: list[str]) -> None:
    """Runs a command for what it does; where it fails, this program fails and names it."""
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise SystemExit(f"Set-up failed: {' '.join(command)!r} ended with exit code {code}.")


if __name__ == "__main__":
    main()
