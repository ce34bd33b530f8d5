"""What has to be done as if no step were traced? Making variables, and trying something out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any


def outside_of_steps(function: Callable[[], Any]) -> Any:
    """Calls a function as if no step were traced and no strategy in scope, and returns its value.

    TensorFlow makes no variables inside a step, and a strategy's scope counts twice where it is
    entered once more under `default_replica_mode`. Both are known to the thread alone.
    """
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
