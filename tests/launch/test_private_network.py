"""Is a job with --private_network out of reach, and told where the system does not allow it?"""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import launching
import pytest

from tfdist.launch import private_network

# As TensorFlow's server does, it listens on all interfaces. It ends when the test has had a look.
_LISTEN = """
import os, pathlib, socket, sys, time
here = pathlib.Path(sys.argv[1])
server = socket.create_server(("0.0.0.0", 0))
own = socket.create_connection(("127.0.0.1", server.getsockname()[1]), timeout=5)
part = here / ("part" + os.environ["TFDIST_RANK"])
part.write_text(f"{server.getsockname()[1]} {os.geteuid()} {[n for _, n in socket.if_nameindex()]}")
part.rename(here / ("rank" + os.environ["TFDIST_RANK"]))
deadline = time.monotonic() + 30
while not (here / "seen").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
"""


# Runs a command as root who has lost the right to make a network: as anybody else has.
_AS_ANYBODY = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


def _said_by_two(tmp_path, *flags, before=()):
    """Runs two workers; returns which of their ports let us in, and what each said."""
    program = launching.write_program(tmp_path, _LISTEN)
    job = subprocess.Popen(
        [*before, sys.executable, "-m", "tfdist.launch", *flags, program, str(tmp_path)],
        env=launching.environ_with(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ranks = [tmp_path / f"rank{rank}" for rank in (0, 1)]
        launching.wait_for(lambda: all(map(pathlib.Path.exists, ranks)) or job.poll() is not None)
        assert job.poll() is None, job.stderr.read()
        said = [rank.read_text().split(maxsplit=2) for rank in ranks]
        let_in = [_lets_us_in(int(port)) for port, _, _ in said]
        (tmp_path / "seen").touch()
        assert job.wait(timeout=30) == 0, job.stderr.read()
    finally:
        job.kill()
        job.communicate()
    return let_in, [(int(user), names) for _, user, names in said]


def _lets_us_in(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def _is_allowed(before=()):
    code = "from tfdist.launch import private_network; private_network.enter()"
    command = [*before, sys.executable, "-c", code]
    environ = launching.environ_with()
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode == 0


def test_without_it_workers_can_be_reached(tmp_path):
    let_in, _ = _said_by_two(tmp_path)
    assert let_in == [True, True]


def test_nobody_reaches_the_workers(tmp_path):
    if not _is_allowed():
        pytest.skip("this system allows no network namespace")
    let_in, said = _said_by_two(tmp_path, "--private_network")
    assert let_in == [False, False]
    assert said == [(os.geteuid(), "['lo']")] * 2


def test_it_needs_no_root(tmp_path):
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not _is_allowed(_AS_ANYBODY):
        pytest.skip("needs root and setpriv, and a system that allows user namespaces")
    trial = [*_AS_ANYBODY, "unshare", "--net", "true"]
    assert subprocess.run(trial, capture_output=True, check=False).returncode != 0
    let_in, said = _said_by_two(tmp_path, "--private_network", before=_AS_ANYBODY)
    assert let_in == [False, False]
    assert said == [(os.geteuid(), "['lo']")] * 2


def test_a_system_that_does_not_allow_it_is_told(monkeypatch):
    def unshare(_):
        raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(private_network, "_unshare", unshare)
    with pytest.raises(ValueError, match=r"--private_network: this system lets no .* SECURITY\.md"):
        private_network.enter()


def test_workers_elsewhere_have_none(tmp_path):
    done = launching.launch(
        "--private_network", "--engine=slurm", launching.write_program(tmp_path, "")
    )
    assert done.returncode == 2
    assert "is for workers on this machine, and engine 'slurm' starts them elsewhere" in done.stderr
