"""Does a real deployment of Flower on this machine come to what `tfdist.federated.fit` comes to?

    make flower        # makes an environment with Flower, and runs this in it

A SuperLink and three SuperNodes are started on the loopback device, each with its own process for
the app; `flwr run` sends it there. The weights that the strategy returns have to be those of `fit`,
bit for bit. Telemetry and the look for updates are off. Nothing is encrypted here, and nobody asks
who takes part: a deployment gives certificates and `--enable-supernode-auth`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from typing import IO

import keras
import numpy as np
from absl import app

from tfdist import federated

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
_LIMIT_SECS = 600.0
_APP = """
    import keras, numpy as np
    from flwr.app import ConfigRecord
    from flwr.serverapp import ServerApp
    from flower_loopback import CLIENTS, ROUNDS, TASK, build
    from tfdist.federated import flower

    client = flower.client_app(
        build, lambda context: CLIENTS[str(context.node_config["partition-id"])], device="cpu"
    )
    server = ServerApp()

    @server.main()
    def main(grid, context):
        strategy = flower.strategy(
            build, server_optimizer=keras.optimizers.Adam(0.05), min_train_nodes=len(CLIENTS),
            min_evaluate_nodes=len(CLIENTS), min_available_nodes=len(CLIENTS),
        )
        found = strategy.start(
            grid, flower.initial_arrays(build), num_rounds=ROUNDS, train_config=ConfigRecord(TASK)
        )
        np.savez(context.run_config["to"], *found.arrays.to_numpy_ndarrays())
"""
_PROJECT = """
    [project]
    name = "loopback"
    version = "1.0.0"
    dependencies = []

    [tool.flwr.app]
    publisher = "nobody"

    [tool.flwr.app.components]
    serverapp = "app:server"
    clientapp = "app:client"

    [tool.flwr.app.config]
    to = ""
"""
_RNG = np.random.default_rng(0)
#: What the app imports from here, and tests/federated/test_flower.py too: the data of each client,
#: rounds, and how clients train.
CLIENTS = {str(i): (_RNG.normal(size=(n, 5)), _RNG.normal(size=(n, 1)))
           for i, n in enumerate((3, 17, 11))}  # fmt: skip
ROUNDS, TASK = 3, {"local-epochs": 2, "batch-size": 4, "seed": 7, "proximal-mu": 0.1}


def build() -> keras.Model:
    """Returns the model that all train."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((5,)), layers.Dense(4, activation="tanh"), layers.BatchNormalization(),
        layers.Dropout(0.2), layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"This takes no arguments, and {argv[1:]} were given.")
    wanted = federated.fit(
        build, CLIENTS, rounds=ROUNDS, local_epochs=2, batch_size=4, seed=7, proximal=0.1,
        server_optimizer=keras.optimizers.Adam(0.05), device="cpu", verbose=0,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = _deployed(pathlib.Path(folder))
    for one, other in zip(found, wanted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    print(f"the same bits as federated.fit, in {time.monotonic() - began:.0f} s")


def _deployed(folder: pathlib.Path) -> list[np.ndarray]:
    """Runs the app on a deployment in a folder; returns the weights."""
    link, *own = _free_ports(1 + len(CLIENTS))
    project, home = folder / "app", folder / "home"
    project.mkdir()
    home.mkdir()
    (project / "app.py").write_text(textwrap.dedent(_APP))
    (project / "pyproject.toml").write_text(textwrap.dedent(_PROJECT))
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{link}"\n'
        "insecure = true\n"
    )
    environ = {
        **os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(_CHECKOUT), str(_CHECKOUT / "scripts")]),
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    plain = ["--insecure", "--host=127.0.0.1"]
    commands = [["flower-superlink", *plain, f"--port={link}",
                 "--disable-runtime-dependency-installation"]]  # fmt: skip
    for number, port in enumerate(own):
        commands.append([
            "flower-supernode", *plain, f"--port={port}", f"--superlink=127.0.0.1:{link}",
            "--node-config", f"partition-id={number}",
        ])  # fmt: skip
    kept = folder / "weights.npz"
    with contextlib.ExitStack() as stack:
        for number, command in enumerate(commands):
            log = stack.enter_context((folder / f"{number}.log").open("wb"))
            stack.enter_context(_running(command, environ, log))
        _await_port(link)
        run = ["flwr", "run", str(project), "here", "--stream", "--run-config", f'to="{kept}"']
        done = subprocess.run(
            run, env=environ, capture_output=True, text=True, timeout=_LIMIT_SECS, check=False
        )
        if not kept.exists():
            logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
            raise SystemExit(f"Flower has returned no weights.\n{done.stdout}{done.stderr}\n{logs}")
    arrays = np.load(kept)
    return [arrays[name] for name in arrays.files]


@contextlib.contextmanager
def _running(command: list[str], environ: dict[str, str], log: IO[bytes]) -> Iterator[None]:
    """Runs a process of Flower's, with those that it starts, for a block."""
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _await_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise SystemExit("The SuperLink does not answer. Look at the versions that are installed.")


if __name__ == "__main__":
    app.run(main)
