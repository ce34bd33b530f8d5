"""Does a worker wait for the others, name those that do not come, and never wait for ever?"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import socket
import threading
import time

import pytest

from tfdist.cluster import peers
from tfdist.cluster.peers import await_peers
from tfdist.cluster.ports import is_reachable, reserved_port


def _addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(count)]
    return [f"127.0.0.1:{port}" for port in ports]


# What TensorFlow's server begins with, up to its first setting.
_SETTINGS = bytes.fromhex("000018040000000000000400400000")


@contextlib.contextmanager
def _listening(address: str, *, says: bytes = _SETTINGS):
    """A program that listens, accepts, and says something."""
    host, _, port = address.rpartition(":")
    held = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                held.append(connection)
                connection.sendall(says)

    with contextlib.closing(socket.create_server((host, int(port)))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "is silent"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"says b'SSH-2.0-OpenSS'"),
        (b"HTTP/1.1 400 Bad Request\r\n", r"says b'HTTP/1.1 400 B'"),
    ],
)
def test_another_program_at_the_port_of_a_worker_is_no_worker(monkeypatch, says, told):
    monkeypatch.setattr(peers, "_TRY_SECS", 0.3)
    addresses = _addresses(3)
    with _listening(addresses[1], says=says), pytest.raises(RuntimeError) as caught:
        await_peers(addresses, rank=0, timeout_secs=0.5)
    assert f"worker 1 ({addresses[1]}) is another program, which {told}" in str(caught.value)
    assert f"worker 2 ({addresses[2]}) did not listen" in str(caught.value)


def test_tensorflows_own_server_is_a_worker():
    import tensorflow as tf

    addresses = _addresses(2)
    spec = tf.train.ClusterSpec({"worker": addresses})
    server = tf.distribute.Server(spec, job_name="worker", task_index=1, start=True)
    await_peers(addresses, rank=0, timeout_secs=10.0)
    del server


def test_all_workers_meet():
    addresses = _addresses(3)
    servers, here = contextlib.ExitStack(), threading.Lock()

    def work(rank: int) -> float:
        time.sleep(0.4 * rank)
        start = time.monotonic()
        await_peers(addresses, rank=rank, timeout_secs=20.0)
        with here:
            servers.enter_context(_listening(addresses[rank]))  # as TensorFlow's server does then
        return time.monotonic() - start

    with servers, concurrent.futures.ThreadPoolExecutor(3) as pool:
        waits = list(pool.map(work, range(3)))
    assert 0.7 < waits[0] < 10.0


def test_missing_workers_are_named():
    addresses = _addresses(4)
    start = time.monotonic()
    with _listening(addresses[2]), pytest.raises(RuntimeError) as caught:
        await_peers(addresses, rank=1, timeout_secs=0.5)
    assert time.monotonic() - start < 10.0
    message = str(caught.value)
    assert "Worker 1 waited 0.5 s" in message
    assert f"workers 0, 3 ({addresses[0]}, {addresses[3]}) did not listen" in message


def test_unknown_host_is_missing():
    addresses = [*_addresses(1), "no-such-host.invalid:2222"]
    with pytest.raises(RuntimeError, match=r"worker 1 \(no-such-host.invalid:2222\) did not"):
        await_peers(addresses, rank=0, timeout_secs=0.0)


def test_taken_port_is_named():
    addresses = _addresses(2)
    with (
        _listening(addresses[0]),
        pytest.raises(RuntimeError, match=f"Worker 0 cannot listen at its address {addresses[0]}"),
    ):
        await_peers(addresses, rank=0, timeout_secs=10.0)


def test_port_is_free_afterwards():
    addresses = _addresses(2)
    with _listening(addresses[1]):
        await_peers(addresses, rank=0, timeout_secs=10.0)
        assert not is_reachable(addresses[0])
        with _listening(addresses[0]):
            assert is_reachable(addresses[0])


def test_waiting_is_told(monkeypatch, caplog):
    monkeypatch.setattr(peers, "_EVERY_SECS", 0.2)
    addresses = _addresses(2)
    with caplog.at_level(logging.WARNING, logger="tfdist"), pytest.raises(RuntimeError):
        await_peers(addresses, rank=0, timeout_secs=1.0)
    told = [record.getMessage() for record in caplog.records]
    assert 2 <= len(told) <= 5
    assert all(f"still waiting: worker 1 ({addresses[1]}) did not listen" in line for line in told)


def test_silent_host_is_not_waited_for():
    # A full backlog drops connections, as a firewall does.
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(socket.socket()))
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for _ in range(4):
            filler = stack.enter_context(contextlib.closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        start = time.monotonic()
        assert not is_reachable(address, timeout_secs=0.3)
        assert time.monotonic() - start < 5.0


def test_no_thread_is_left():
    before = threading.active_count()
    (address,) = _addresses(1)
    await_peers([address], rank=0, timeout_secs=1.0)
    assert threading.active_count() == before
