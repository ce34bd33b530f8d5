"""Where do the peers of benchmark.py run?  In processes, each in an environment made once."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def python_of(peer: str, *installs: Sequence[str]) -> str:
    """Returns the Python of a peer's environment, `.venv-PEER`, which is made where it is missing.

    Args:
        peer: Name of the peer.
        *installs: Arguments of each `pip install` that makes it, in this order.

    Raises:
        RuntimeError: It could not be made; what there is of it is named.
    """
    venv = _CHECKOUT / f".venv-{peer}"
    python, done = venv / "bin" / "python", venv / "installed"
    if not done.exists():  # the mark of one that was made to its end
        commands = [[sys.executable, "-m", "venv", "--clear", str(venv)]]
        commands += [[str(python), "-m", "pip", "install", "-q", *install] for install in installs]
        for command in commands:
            _run(command, peer)
        done.touch()
    return str(python)


def _run(command: list[str], peer: str) -> None:
    # Beside this checkout, pip would take tfdist itself for installed, and miss what it asks for.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as elsewhere:
        code = subprocess.run(command, check=False, env=environ, cwd=elsewhere).returncode
    if code != 0:
        raise RuntimeError(
            f"The environment of the peer {peer!r} cannot be made: {' '.join(command)!r} ended "
            f"with exit code {code}. See what pip says above, or measure without that peer."
        )


def orbit_python(orbit: str) -> str:
    """Returns a Python that has Orbit, with the TensorFlow and Keras of this one.

    Orbit is a folder of tf-models-official, which asks for some thirty packages that Orbit does not
    import, and for a TensorFlow of its own release; so it comes without what it asks for, and
    tf-keras, which Orbit imports, as well.

    Args:
        orbit: What pip calls the distribution that holds it.
    """
    names = importlib.metadata.packages_distributions().get("tensorflow", ["tensorflow"])
    tensorflow = f"{names[0]}=={importlib.metadata.version(names[0])}"
    keras = f"keras=={importlib.metadata.version('keras')}"
    minor = ".".join(importlib.metadata.version(names[0]).split(".")[:2])
    return python_of(
        "orbit", [tensorflow, keras], ["--no-deps", orbit, f"tf-keras=={minor}.*"]
    )


def torch_python(torch: str) -> str:
    """Returns a Python that has torch.

    Args:
        torch: What pip calls it.
    """
    return python_of("torch", [torch, "numpy"])


@contextmanager
def orbit_loop(orbit: str, steps: int) -> Iterator[Callable[[int], Callable[[], object]]]:
    """Starts the peer of orbit_loop.py, and gives what makes a pass of so many steps a loop.

    Args:
        orbit: What pip calls the distribution that holds Orbit.
        steps: Of a pass.
    """
    python = orbit_python(orbit)
    program = str(pathlib.Path(__file__).with_name("orbit_loop.py"))
    process = subprocess.Popen(
        [python, program, str(steps)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    asked, answers = process.stdin, process.stdout

    def of_loops(count: int) -> Callable[[], object]:
        def run() -> None:
            if asked is None or answers is None:
                raise RuntimeError("Orbit's process has no pipes. Start it anew.")
            asked.write(f"{count}\n")
            asked.flush()
            if answers.readline() != "done\n":
                raise RuntimeError(
                    f"{program} ended with exit code {process.wait()}. See what it says above; "
                    "remove .venv-orbit to have that made anew."
                )

        return run

    try:
        yield of_loops
    finally:
        process.kill()
        process.wait()
