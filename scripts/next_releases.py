"""Does tfdist run on the releases that come next? What `make test-next` does.

    python3 scripts/next_releases.py --venv=.venv-next --pins='tensorflow-cpu>=2.22.dev0'

It makes an environment with the newest TensorFlow, pre-releases too, and the Keras that this
TensorFlow asks for: keras-nightly before a release, keras after it. There it runs the quick rows of
the parity table and the tests of the trainer. What fails is told; it ends with an error only where
both releases are final, since nobody can hold still what is still being made. Where the index has
no such release, it says so and ends well. Standard library only.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

import setup_env

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
_TOOLS = ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist")  # all that these tests need
_TESTS = (
    "tests/house/test_parity.py", "tests/house/test_parity_workers.py",
    "tests/training/test_trainer.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests tfdist on the releases that come next.")
    parser.add_argument("--venv", required=True, help="Folder of the environment.")
    parser.add_argument("--pins", required=True, help="As in setup_env.py.")
    parser.add_argument("--only_install", action="store_true", help="Makes the environment alone.")
    options, arguments = parser.parse_known_args()
    python = str(pathlib.Path(options.venv, "bin", "python"))
    try:
        tools = [line for line in setup_env.requirements(["test"]) if line.split(">=")[0] in _TOOLS]
        setup_env.set_up(pathlib.Path(options.venv), extras=[], pins=[options.pins, *tools])
    except SystemExit as error:
        print(f"test-next: NOT RUN, since {options.pins} cannot be installed. {error}", flush=True)
        return 0
    if options.only_install:
        return 0
    command = [python, "-m", "pytest", *_TESTS, "-m", "not slow", "-n", "2", "--dist", "loadfile"]
    code = subprocess.run([*command, *arguments], cwd=_CHECKOUT, check=False).returncode
    releases = setup_env.look(python)
    verdict, ends_with = judge(code, [*releases["tensorflow"], *releases["keras"]])
    print(verdict, flush=True)
    return ends_with


def judge(code: int, releases: list[str]) -> tuple[str, int]:
    """Says what came of the tests, and which exit code that is.

    Args:
        code: pytest's exit code.
        releases: What was tested, as in `["tensorflow-cpu==2.22.0rc0", "keras==3.16.0"]`.

    >>> judge(0, ["tensorflow==2.22.0", "keras==3.16.0"])
    ('test-next: passed on tensorflow==2.22.0 and keras==3.16.0.', 0)
    """
    names = " and ".join(releases)
    if code == 0:
        return f"test-next: passed on {names}.", 0
    if all(is_final(release) for release in releases):
        return f"test-next: FAILED on {names}, which are released: mend tfdist.", code
    return (
        f"test-next: FAILED on {names}, which are not released yet, so this is no error now. Mend "
        "tfdist before they are."
    ), 0


def is_final(release: str) -> bool:
    """Tells a release from an alpha, beta, candidate, or a build of a night."""
    return re.fullmatch(r"[\w-]+==\d+(\.\d+)*(\.post\d+)?", release) is not None


if __name__ == "__main__":
    sys.exit(main())
