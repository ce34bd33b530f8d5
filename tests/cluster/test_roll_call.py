"""Does the roll call bring all workers together, name who is missing, and let no stranger in?"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import socket
import threading
import time

import pytest

from tfdist.cluster import messages, roll_call
from tfdist.cluster.ports import reserved_port
from tfdist.cluster.roll_call import RollCall
from tfdist.cluster.roll_call_client import join

SECRET = b"secret"


@contextlib.contextmanager
def _gathering(*calls):
    """Runs several joins at the same time; yields their futures."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(calls)) as pool:
        yield [pool.submit(call) for call in calls]


def _join(server, rank, **kwargs):
    arguments = {"size": 2, "secret": SECRET, "timeout_secs": 20.0, **kwargs}
    return lambda: join(server, rank=rank, **arguments)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_learn_all_addresses(size):
    with RollCall(size=size, secret=SECRET) as server:
        calls = [_join(server.address, rank, size=size) for rank in reversed(range(size))]
        with _gathering(*calls) as joined:
            told = [future.result() for future in joined]
        assert server.result() == told[0]
    assert told.count(told[0]) == size
    ports = [int(address.rpartition(":")[2]) for address in told[0]]
    assert len(set(ports)) == size
    for port in ports:  # nobody holds them any more: TensorFlow can have them
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_the_server_may_come_later():
    with reserved_port() as port:
        pass
    with _gathering(_join(f"127.0.0.1:{port}", 0, size=1)) as [joined]:
        time.sleep(0.3)
        with RollCall(size=1, secret=SECRET, port=port) as server:
            assert joined.result() == server.result(timeout_secs=5)


def test_who_is_missing_is_named():
    ended = threading.Event()
    with RollCall(size=4, secret=SECRET, timeout_secs=0.5, on_end=ended.set) as server:
        with _gathering(_join(server.address, 1, size=4)) as [joined]:
            told = joined.exception(timeout=20)
        assert isinstance(told, RuntimeError)
        assert "workers 0, 2-3 have not come within timeout_secs=0.5" in str(told)
        assert ended.wait(5)
        with pytest.raises(RuntimeError, match=r"\(1 of 4 came\)"):
            server.result()
        assert not server.is_complete


def test_differences_are_told_to_all():
    with RollCall(size=2, secret=SECRET) as server:
        calls = [_join(server.address, rank, facts={"keras": f"3.{rank}"}) for rank in (0, 1)]
        with _gathering(*calls) as joined:
            for future in joined:
                with pytest.raises(RuntimeError, match=r"keras: '3\.0' on worker 0; '3\.1' on"):
                    future.result()
        with pytest.raises(RuntimeError, match="same program, flags and packages"):
            server.result()


def test_a_rank_that_joins_twice_is_an_error_at_the_second():
    with (
        RollCall(size=2, secret=SECRET) as server,
        _gathering(_join(server.address, 0)) as [first],
    ):
        _wait_for(lambda: server.present == (0,))
        with pytest.raises(RuntimeError, match="rank=0 has joined twice: from 127"):
            _join(server.address, 0)()
        assert len(_join(server.address, 1)()) == 2
        assert len(first.result()) == 2


@pytest.mark.parametrize(("rank", "size"), [(0, 3), (2, 2), (5, 6)])
def test_another_idea_of_the_world_is_an_error(rank, size):
    with (
        RollCall(size=2, secret=SECRET) as server,
        pytest.raises(RuntimeError, match=f"rank={rank} of size={size}, but .* size=2"),
    ):
        _join(server.address, rank, size=size)()


def test_a_worker_that_leaves_may_come_again():
    with RollCall(size=2, secret=SECRET) as server:
        connection = _announce(server.address, rank=0)
        _wait_for(lambda: server.present == (0,))
        connection.close()
        _wait_for(lambda: server.present == ())
        with _gathering(_join(server.address, 0), _join(server.address, 1)) as joined:
            assert joined[0].result() == joined[1].result()


def test_wrong_secret_is_refused_and_said():
    with RollCall(size=1, secret=SECRET) as server:
        with pytest.raises(RuntimeError, match="does not know the secret.*the same TFDIST_SECRET"):
            _join(server.address, 0, size=1, secret=b"guess")()
        assert server.present == ()


def test_a_server_without_the_secret_is_not_believed():
    """Somebody else listens at the address and answers with addresses of their own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with _gathering(_join(address, 0, size=1)) as [joined]:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(messages.encode({"tfdist": 1, "nonce": "n"}))
                asked = messages.decode(messages.receive(connection, deadline=_in(5)))
                own = json.loads(asked["body"])["address"]
                body = json.dumps({"addresses": [own]})
                mac = messages.sign(b"guess", "server", "n", asked["nonce"], body)
                connection.sendall(messages.encode({"body": body, "mac": mac}))
            with pytest.raises(RuntimeError, match="not signed with this job's secret"):
                joined.result()


def test_an_answer_cannot_be_used_again():
    """A recorded announcement is worth nothing in another connection: its nonce is old."""
    with RollCall(size=2, secret=SECRET) as server:
        connection, greeting = _connect(server.address)
        line = _signed_announcement(greeting["nonce"], rank=0)
        connection.close()
        again, _ = _connect(server.address)
        with again:
            again.sendall(line)
            answer = messages.decode(messages.receive(again, deadline=_in(5)))
        assert "refused" in answer
        assert server.present == ()


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(range(256)) + b"\n",
        b"{}\n",
        b"[]\n",
        b'{"nonce": 1, "body": 2, "mac": 3}\n',
        b'{"nonce": "", "body": "", "mac": ""}\n',
        b"x" * (2 * messages.MAX_BYTES),
        b"\n" * 10,
        b"",
    ],
    ids=["http", "tls", "empty", "list", "types", "unsigned", "oversized", "newlines", "closed"],
)
def test_junk_does_not_disturb(junk):
    with RollCall(size=2, secret=SECRET) as server:
        for _ in range(5):
            connection, _ = _connect(server.address)
            with connection, contextlib.suppress(ConnectionError):
                connection.sendall(junk)
        with _gathering(_join(server.address, 0), _join(server.address, 1)) as joined:
            assert joined[0].result() == joined[1].result()


def test_slow_connections_do_not_disturb(monkeypatch):
    monkeypatch.setattr(roll_call, "HANDSHAKE_SECS", 0.5)
    monkeypatch.setattr(roll_call, "MAX_STRANGERS", 8)
    with RollCall(size=2, secret=SECRET) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(_connect(server.address)[0]) for _ in range(20)]
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b'{"nonce"')
        began = time.monotonic()
        with _gathering(_join(server.address, 0), _join(server.address, 1)) as joined:
            assert joined[0].result() == joined[1].result()
        assert time.monotonic() - began < 5


def test_only_so_many_strangers_are_kept(monkeypatch):
    monkeypatch.setattr(roll_call, "MAX_STRANGERS", 3)
    with RollCall(size=2, secret=SECRET) as server, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connect(server.address)[0]) for _ in range(2 + 4)]
        assert messages.receive(silent[0], deadline=_in(5)) == b""  # the oldest has to go
        with pytest.raises(TimeoutError):
            messages.receive(silent[1], deadline=_in(0.2))


def test_all_workers_may_come_at_once_and_be_slow():
    """None of them is taken for the oldest of too many strangers, and none lacks a greeting."""
    size = 300
    with RollCall(size=size, secret=SECRET) as server, contextlib.ExitStack() as stack:
        came = [_connect(server.address) for _ in range(size)]
        for connection, _ in came:
            stack.enter_context(connection)
        for connection, _ in came:
            with pytest.raises(TimeoutError):
                messages.receive(connection, deadline=_in(0.001))


def test_an_oversized_announcement_is_cut_short():
    with RollCall(size=2, secret=SECRET) as server:
        connection, _ = _connect(server.address)
        began = time.monotonic()
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"x" * (20 * messages.MAX_BYTES))
            connection.recv(1)
        assert time.monotonic() - began < roll_call.HANDSHAKE_SECS / 2


def test_a_silent_connection_is_dismissed_in_time(monkeypatch):
    monkeypatch.setattr(roll_call, "HANDSHAKE_SECS", 0.2)
    with RollCall(size=2, secret=SECRET) as server:
        connection, _ = _connect(server.address)
        with connection:
            assert messages.receive(connection, deadline=_in(5)) == b""


def test_closing_ends_the_wait_of_those_who_are_there():
    with RollCall(size=2, secret=SECRET) as server:
        with _gathering(_join(server.address, 0)) as [joined]:
            _wait_for(lambda: server.present == (0,))
            server.close()
            with pytest.raises(RuntimeError, match="closed before all workers were there"):
                joined.result()
        with pytest.raises(RuntimeError, match="has no result: worker 1 has not come"):
            server.result()


def test_nobody_there():
    with reserved_port() as port:
        pass
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=f"reached at 127.0.0.1:{port} within timeout_secs=0.2"):
        join(f"127.0.0.1:{port}", rank=0, size=1, secret=SECRET, timeout_secs=0.2)
    assert time.monotonic() - began < 4


def test_it_listens_on_the_named_interface_only():
    with RollCall(size=1, secret=SECRET, host="127.0.0.1") as server:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(port)), timeout=5)


def test_a_port_in_use_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"cannot listen at host='127.0.0.1', port={port}"):
            RollCall(size=1, secret=SECRET, port=port)


# ---------------------------------------------------------------------------------- by hand


def _in(secs):
    return time.monotonic() + secs


def _wait_for(condition):
    deadline = _in(5)
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def _connect(server):
    host, _, port = server.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    return connection, messages.decode(messages.receive(connection, deadline=_in(5)))


def _signed_announcement(server_nonce, *, rank):
    body = json.dumps({"rank": rank, "size": 2, "address": "127.0.0.1:9", "facts": {}})
    mac = messages.sign(SECRET, "worker", server_nonce, "mine", body)
    return messages.encode({"nonce": "mine", "body": body, "mac": mac})


def _announce(server, *, rank):
    connection, greeting = _connect(server)
    connection.sendall(_signed_announcement(greeting["nonce"], rank=rank))
    return connection


def test_host_without_loopback_is_told_how_to_get_one(monkeypatch):
    def create_server(*args, **kwargs):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", create_server)
    with pytest.raises(RuntimeError, match="no loopback interface .* Bring it up: ip link set lo"):
        RollCall(size=1, secret=b"secret")


@pytest.mark.parametrize("answer", [{"x": 1}, {"body": 1, "mac": None}, {"body": "{}", "mac": "é"}])
def test_answer_of_a_stranger_is_refused(answer):
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(
        1
    ) as pool:  # fmt: skip
        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(messages.encode({"tfdist": roll_call.PROTOCOL, "nonce": "n"}))
                messages.receive(connection, deadline=time.monotonic() + 5)
                connection.sendall(messages.encode(answer))

        served = pool.submit(serve)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match="is not signed with this job's secret"):
            join(address, rank=0, size=1, secret=b"secret", timeout_secs=5)
        served.result()
