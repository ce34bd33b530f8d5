"""Programs for several replicas, executed: XLA's CPU client with a device for each.

The program is the one that preflight compiles for a TPU, to the byte; here XLA compiles it for
CPUs and runs it, collectives and all. The client is jaxlib's, in the environment of the compiler.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tfdist.tpu import compiler, compiler_environment

_SERVER = pathlib.Path(__file__).with_name("xla_server.py")


class Replicas:
    """What runs programs; see `started`."""

    def __init__(self, process: subprocess.Popen[bytes], num_replicas: int) -> None:
        self._process, self.num_replicas = process, num_replicas

    def compile(self, program: bytes) -> tuple[int, dict[int, int]]:
        """Compiles serialized StableHLO.

        Returns:
            Its number, and which result is the new value of which argument.
        """
        return self._ask(program)

    def execute(
        self, number: int, arguments: Sequence[Sequence[np.ndarray]]
    ) -> list[list[np.ndarray]]:
        """Runs a program on all replicas at once.

        Args:
            number: As `compile` returned it.
            arguments: Each replica's arguments.

        Returns:
            Each replica's results.
        """
        if len(arguments) != self.num_replicas:
            raise ValueError(f"{self.num_replicas} replicas got {len(arguments)} sets of arguments")
        return self._ask((number, [list(values) for values in arguments]))

    def _ask(self, request: Any) -> Any:
        sent, received = self._process.stdin, self._process.stdout
        if sent is None or received is None:
            raise RuntimeError("the process of the replicas has no pipes")
        pickle.dump(request, sent)
        sent.flush()
        answer = pickle.load(received)
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def started(config: pytest.Config, num_replicas: int) -> Iterator[Replicas]:
    """Starts the process, and ends it when the `with` block is left.

    Args:
        config: In whose cache the environment is that preflight's tests make.
        num_replicas: Devices that there are to be.
    """
    python = compiler_environment.compiler_python(cache_dir=config.cache.mkdir("tfdist-tpu"))
    command = [os.fspath(python), "-I", os.fspath(_SERVER), compiler.__file__, str(num_replicas)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Replicas(process, num_replicas)
    finally:
        process.kill()
        process.communicate()
