"""Does a test notice when a promise of privacy, of federated training or of encryption is broken?

As in test_mutations.py, for lines that no row of the parity table guards.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
from mutating import Fault, copied_to, mutate

_CHECKOUT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Broken(Fault):
    """A promise that is broken, and the test that sees it.

    Attributes:
        test: Of tests/, as pytest names it.
    """

    test: str


_ROUNDS = "federated/test_rounds.py"
BROKEN = {
    "a client is evaluated with the statistics of the server": Broken(
        "federated/site.py",
        "        values = self._values(request, carried)\n        logs = {}",
        "        values = self._values(request, None)\n        logs = {}",
        _ROUNDS,
    ),
    "logs of clients are a mean of means": Broken(
        "federated/collecting.py",
        "sum(weights[name] * logs[name][key] for name in having) / total",
        "sum(logs[name][key] for name in having) / len(having)",
        _ROUNDS,
    ),
    "the change of a private client is not clipped": Broken(
        "federated/site.py",
        "found = clipped(change_of(found, values), self._clip)",
        "found = change_of(found, values)",
        "federated/test_user_privacy.py::"
        "test_without_noise_it_is_the_mean_of_clipped_changes_over_the_expected_number",
    ),
    "a ledger begins anew after a stop": Broken(
        "privacy/ledger.py",
        "self._resumed = step",
        "self._resumed = 0",
        "training/test_private.py::test_a_run_goes_on_with_what_it_has_spent",
    ),
    "a file is decrypted onto the disk before it was checked": Broken(
        "encryption/files.py",
        "    streams.decrypt(source, _Nowhere(), identities)\n",
        "",
        "encryption/test_files.py::test_what_was_changed_writes_no_byte",
    ),
}


@pytest.mark.slow  # 10 to 20 s each: the import of TensorFlow, and the test
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", BROKEN)
def test_its_test_notices(name, tmp_path):
    broken = BROKEN[name]
    mutate(broken, tmp_path)
    done = _tested(broken.test, tmp_path)
    assert (done.returncode, "1 failed" in done.stdout) == (1, True), done.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_copy_passes_the_test(tmp_path):
    copied_to(tmp_path)
    done = _tested(_ROUNDS, tmp_path)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout[-2000:]


def _tested(test, packages):
    """Runs a test of tests/ on the package of another folder."""
    paths = " ".join(str(_CHECKOUT / name) for name in ("tests", "tests/support"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-p", "no:xdist",
         f"--config-file={_CHECKOUT / 'setup.cfg'}", f"--rootdir={_CHECKOUT}",
         "-o", f"pythonpath={packages} {paths}", str(_CHECKOUT / "tests" / test)],
        cwd=packages, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
