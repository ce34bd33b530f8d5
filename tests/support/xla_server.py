"""Runs programs for several replicas on the CPU. A process in the environment of the compiler.

    python -I xla_server.py COMPILER.py NUM_REPLICAS

It reads pickled requests from its input and writes pickled answers to its output: a program
(serialized StableHLO) is answered by its number and its aliases, `(number, arguments)` by each
replica's results. What is imported of jax are private names of the release that
tfdist/tpu/compiler_environment.py pins.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import sys
from typing import Any

_ALIAS = r"parameter_number = (\d+) : i64\}, output_index = array<i64: (\d+)>"


class Server:
    """The CPU as so many devices."""

    def __init__(self, compiler: Any, num_replicas: int) -> None:
        import jax
        import numpy as np
        from jax._src import compiler as jax_compiler
        from jaxlib import xla_client

        jax.config.update("jax_enable_x64", True)
        self._parsed, self._jax = compiler._parsed, jax
        self._devices = jax.devices("cpu")
        if len(self._devices) != num_replicas:
            raise RuntimeError(f"{num_replicas} devices were asked for; found {self._devices}.")
        self._list = xla_client.DeviceList(tuple(self._devices))
        assignment = np.array([[device.id] for device in self._devices])
        self._options = jax_compiler.get_compile_options(
            num_replicas, 1, device_assignment=assignment
        )
        mesh = jax.sharding.Mesh(np.array(self._devices), ("replica",))
        # Each device holds an array of its own; that they are alike is what this says, not true.
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._made: list[Any] = []

    def compile(self, program: bytes) -> tuple[int, dict[int, int]]:
        """Returns the number of a program, and which result is the new value of which argument."""
        module = self._parsed(program)
        with module.context:
            aliases = re.findall(_ALIAS, str(module).partition("\n")[0])
            self._made.append(
                self._devices[0].client.compile_and_load(
                    module, executable_devices=self._list, compile_options=self._options
                )
            )
        return len(self._made) - 1, {int(result): int(arg) for arg, result in aliases}

    def execute(self, number: int, arguments: list[list[Any]]) -> list[list[Any]]:
        """Returns the results of each replica, given its arguments."""
        import numpy as np

        sharded = [self._sharded(values) for values in zip(*arguments, strict=True)]
        done = self._made[number].execute_sharded(sharded)
        results = done.disassemble_into_single_device_arrays()
        return [[np.asarray(part[r]) for part in results] for r in range(len(self._devices))]

    def _sharded(self, values: Any) -> Any:
        arrays = [
            self._jax.device_put(value, device)
            for value, device in zip(values, self._devices, strict=True)
        ]
        return self._jax.make_array_from_single_device_arrays(
            arrays[0].shape, self._sharding, arrays
        )


def _compiler(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("compiler", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _serve(server: Server, requests: Any, answers: Any) -> None:
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            is_program = isinstance(request, bytes)
            answer = server.compile(request) if is_program else server.execute(*request)
        except Exception as error:  # whatever it is, the test is told
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    replicas = int(sys.argv[2])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={replicas}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    own_output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print does not meet the answers
    _serve(Server(_compiler(sys.argv[1]), replicas), sys.stdin.buffer, own_output)
