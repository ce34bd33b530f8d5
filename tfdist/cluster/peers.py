"""Do the other workers listen?  A wait with a time limit, before TensorFlow's, which has none.

Synopsis (a world of one has nobody to wait for):

    >>> from tfdist.cluster.ports import reserved_port
    >>> with reserved_port() as port:
    ...     pass
    >>> await_peers([f"127.0.0.1:{port}"], rank=0, timeout_secs=1.0)

Each worker listens at its own address until it has reached every other worker once, whether that is
still waiting or already runs TensorFlow. Nothing is sent over these connections.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Sequence

from tfdist.cluster.ports import is_reachable
from tfdist.cluster.wording import name_workers

_LOG = logging.getLogger("tfdist")
_EVERY_SECS = 30.0  # between two lines that say who is still missing
_PAUSE_SECS = 0.1


def await_peers(addresses: Sequence[str], *, rank: int, timeout_secs: float) -> None:
    """Waits until every worker has been seen to listen.

    Args:
        addresses: "host:port" of each worker, in rank order.
        rank: This worker's, over all workers.
        timeout_secs: Longest wait, in seconds.

    Raises:
        RuntimeError: This worker's port is taken, or somebody did not come in time.
    """
    missing = {peer: address for peer, address in enumerate(addresses) if peer != rank}
    start = time.monotonic()
    next_line = start + _EVERY_SECS
    with contextlib.closing(_listen(addresses[rank], rank=rank)):
        while missing:
            missing = {p: address for p, address in missing.items() if not is_reachable(address)}
            now = time.monotonic()
            if missing and now > start + timeout_secs:
                raise RuntimeError(
                    f"Worker {rank} waited {timeout_secs:g} s, and {_name(missing)} did not listen."
                    " Start all workers of the cluster, and check their addresses and the firewall;"
                    " python -m tfdist.launch starts and watches all of them."
                )
            if missing and now > next_line:
                _LOG.warning("still waiting for %s after %.0f s", _name(missing), now - start)
                next_line = now + _EVERY_SECS
            if missing:
                time.sleep(_PAUSE_SECS)


def _listen(address: str, *, rank: int) -> socket.socket:
    """Opens this worker's own port on all interfaces, as TensorFlow's server does afterwards."""
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as error:
        raise RuntimeError(
            f"Worker {rank} cannot listen at its address {address} ({error.strerror}): is another"
            " process, or another worker of the same rank, running there? End it, or give this"
            " worker another port."
        ) from error


def _name(missing: dict[int, str]) -> str:
    return f"{name_workers(sorted(missing))} ({', '.join(missing.values())})"
