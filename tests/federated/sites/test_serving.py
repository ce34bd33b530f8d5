"""Do sites that are processes of their own train what one process trains, though one is killed?

Over TLS on 127.0.0.1, with secure sums. The server and three clients take 25 s on two busy cores.
Nothing else sees a real connection end, a real site come back, and all layers at once.
"""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import keras
import numpy as np
import pytest
from certificates import made
from launching import environ_with

from tfdist import federated
from tfdist.federated.sites.serving import named

_LIMIT_SECS = 200.0
_ASKED = federated.SecureSums(largest=4.0, max_examples=100, threshold=3)

# What the sites have in common, and so has the test.
_COMMON = """
import json, os, pathlib, sys
import keras
import numpy as np
from tfdist import federated

keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
folder = pathlib.Path(sys.argv[1])
NAMES = ["a", "b", "c", "d"]
SECURE = federated.SecureSums(largest=4.0, max_examples=100, threshold=3)
PINNED = {k: bytes.fromhex(v) for k, v in json.loads((folder / "pinned").read_text()).items()}

def build():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="tanh"),
                              keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model

def data(name):
    rng = np.random.default_rng(NAMES.index(name))
    rows = 5 + 3 * NAMES.index(name)
    return rng.normal(size=(rows, 5)), rng.normal(size=(rows, 1))

def tls(name):
    return federated.TLS(certificate=folder / f"{name}.pem", key=folder / f"{name}.key",
                         authority=folder / "authority.pem")
"""

_SERVER = """
def listening(address):
    (folder / "address.new").write_text(address)
    (folder / "address.new").rename(folder / "address")


trained = federated.serve(
    build, NAMES, address="127.0.0.1:0", tls=tls("server"), rounds=3, batch_size=4, secure=SECURE,
    pinned=PINNED, min_clients=3, device="cpu", on_listening=listening, wait_secs=120,
    checkpoint_dir=folder / "run", validation_data=data("a"),
)
np.savez(folder / "model.npz", *trained.model.get_weights())
(folder / "told").write_text(json.dumps(trained.rounds))
"""

_CLIENT = """
name = sys.argv[2]
calls = []

def own():
    calls.append(1)
    killed = folder / "killed"
    if name == "d" and len(calls) == 2 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), 9)  # while it trains in the second round
    if len(calls) >= 2 and name != "d":  # of the others, the second round takes until it is back
        import time
        deadline = time.monotonic() + 120
        while not (folder / "back").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    return data(name)

if name == "d" and (folder / "killed").exists():
    import logging, threading, time
    from tfdist.federated.sites import joining
    connected = joining._connected
    def told(*args):
        found = connected(*args)
        (folder / "back").touch()
        return found
    joining._connected = told
trained = federated.join(
    build, name, own, address=(folder / "address").read_text(), tls=tls(name), secure=SECURE,
    identity=folder / f"{name}.id", pinned=PINNED, device="cpu",
)
np.savez(folder / f"{name}.npz", *trained.model.get_weights())
"""


def _start(folder: pathlib.Path, code: str, *args: str) -> subprocess.Popen[str]:
    program = folder / ("client.py" if args else "server.py")
    program.write_text(textwrap.dedent(_COMMON + code))
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), *args], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.PIPE, env=environ_with(TF_CPP_MIN_LOG_LEVEL="2"),
    )  # fmt: skip


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + _LIMIT_SECS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_sites_of_which_one_is_killed_and_comes_back(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'tfdist[federated]'")
    names = ["a", "b", "c", "d"]
    made(tmp_path, "server", *names)
    identities = {name: federated.Identity.generate() for name in names}
    for name, identity in identities.items():
        identity.save(tmp_path / f"{name}.id")
    pinned = {name: identity.public.hex() for name, identity in identities.items()}
    (tmp_path / "pinned").write_text(json.dumps(pinned))
    processes = {"server": _start(tmp_path, _SERVER)}
    try:
        _wait((tmp_path / "address").exists, "the server does not listen")
        processes |= {name: _start(tmp_path, _CLIENT, name) for name in names}
        _wait(lambda: processes["d"].poll() is not None, "it was not killed")
        assert processes["d"].returncode == -signal.SIGKILL
        processes["d"].communicate()
        processes["d"] = _start(tmp_path, _CLIENT, "d")
        for name, process in processes.items():
            _, errors = process.communicate(timeout=_LIMIT_SECS)
            assert process.returncode == 0, (name, errors[-3000:])
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.communicate()
    rounds = json.loads((tmp_path / "told").read_text())
    assert [told["clients"] for told in rounds] == [names, names[:3], names]
    assert "its connection was lost" in rounds[1]["left"]["d"]
    assert all("val_loss" in told["val_logs"] for told in rounds)

    scope: dict[str, Any] = {}
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    argv, sys.argv = sys.argv, ["", str(tmp_path)]
    try:
        exec(_COMMON, scope)
        plain = federated.fit(
            scope["build"], {name: scope["data"](name) for name in names}, rounds=3, batch_size=4,
            device="cpu", verbose=0,
            drop_out=lambda number, name: "train" if (number, name) == (1, "d") else None,
        )
    finally:
        sys.argv = argv
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    resolution = _ASKED.setup("s", 0, names, 1).ring.resolution
    for file in ("model.npz", "a.npz", "d.npz"):
        with np.load(tmp_path / file) as found:
            for one, other in zip(found.values(), plain.model.get_weights(), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=20 * resolution)
    assert os.path.isdir(tmp_path / "run")


@pytest.mark.parametrize("clients", [[], "abc", ["a", "a"], [1]])
def test_clients_are_names(clients):
    with pytest.raises(ValueError, match="must be the names of the clients that may connect"):
        named(clients)


def test_what_belongs_together_is_asked_together():
    with pytest.raises(ValueError, match="secure, identity and pinned belong together"):
        federated.join(None, "a", None, address="127.0.0.1:1", secure=_ASKED)  # type: ignore[arg-type]


def test_a_client_does_not_bound_its_numbers_below_its_clip():
    with pytest.raises(ValueError, match="largest=4 of SecureSums is below clip=5 of UserPrivacy"):
        federated.join(
            None, "a", None, address="127.0.0.1:1", secure=_ASKED,  # type: ignore[arg-type]
            identity="a", pinned={}, privacy=federated.UserPrivacy(
                clip=5.0, delta=1e-5, noise_multiplier=1.0
            ),
        )  # fmt: skip


def test_serve_takes_what_fit_takes():
    """In the same way: what has another default, kind or meaning would be another option."""
    fit, serve = (inspect.signature(one).parameters for one in (federated.fit, federated.serve))
    alone = {"clients", "drop_out", "validation_clients"}  # of clients in one process
    assert set(fit) - set(serve) == alone - {"clients"}
    told = inspect.getdoc(federated.serve) or ""
    for name in set(fit) - alone:
        assert (serve[name].default, serve[name].annotation) == (
            fit[name].default, fit[name].annotation
        ), name
        meant = told.partition(f"\n    {name}: ")[2]
        assert meant.startswith("As in `fit`") or name == "device", name
