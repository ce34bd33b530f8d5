"""Two hosts on this machine: network namespaces with a cable between them. Linux, as root."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator

ADDRESSES = ("10.213.77.1", "10.213.77.2")
TUNNEL = ("10.213.78.1", "10.213.78.2")  # the same two in the private network
_TUNNEL_PORT = 51820
_NAMES_FILES = pathlib.Path("/etc/netns")  # `ip netns exec` puts NAME/hosts over /etc/hosts


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The two hosts.

    Attributes:
        spaces: Their namespaces, in rank order.
        cables: The end of the cable in each.
    """

    spaces: tuple[str, str]
    cables: tuple[str, str]

    def command(self, rank: int, *command: str) -> list[str]:
        """A command line that runs a command on one of them."""
        return ["ip", "netns", "exec", self.spaces[rank], *command]

    def pull_the_cable(self) -> None:
        """Lets every packet between them be lost."""
        _run(*self.command(0, "ip", "link", "set", self.cables[0], "down"))


def are_there() -> bool:
    """Whether this machine lets us make them."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    trial = f"tfdist-trial-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False)
    if made.returncode == 0:
        _run("ip", "netns", "del", trial)
    return made.returncode == 0


@contextlib.contextmanager
def two_hosts(names: tuple[str, str] = ("algo-1", "algo-2")) -> Iterator[Hosts]:
    """Makes two hosts that know each other by address and by name; removes them in the end."""
    pid = os.getpid()
    hosts = Hosts((f"tfdist-{pid}-0", f"tfdist-{pid}-1"), (f"tfd{pid}a", f"tfd{pid}b"))
    known = "127.0.0.1 localhost\n" + "".join(
        f"{address} {name}\n" for address, name in zip(ADDRESSES, names, strict=True)
    )
    with contextlib.ExitStack() as stack:
        for space in hosts.spaces:
            _run("ip", "netns", "add", space)
            stack.callback(_run, "ip", "netns", "del", space)
            folder = _NAMES_FILES / space
            folder.mkdir(parents=True)
            stack.callback(shutil.rmtree, folder)
            (folder / "hosts").write_text(known)
        _run("ip", "link", "add", hosts.cables[0], "type", "veth", "peer", "name", hosts.cables[1])
        for space, cable, address in zip(hosts.spaces, hosts.cables, ADDRESSES, strict=True):
            _run("ip", "link", "set", cable, "netns", space)
            for setting in (
                ["addr", "add", f"{address}/24", "dev", cable],
                ["link", "set", cable, "up"],
                ["link", "set", "lo", "up"],
            ):
                _run("ip", "netns", "exec", space, "ip", *setting)
        yield hosts


def have_wireguard() -> bool:
    """Whether a private network between them can be made."""
    return shutil.which("wireguard-go") is not None and shutil.which("wg") is not None


@contextlib.contextmanager
def private_network(hosts: Hosts, folder: pathlib.Path) -> Iterator[Hosts]:
    """Joins the two by WireGuard, as SECURITY.md says; gives the spaces that have it alone.

    Args:
        hosts: The two.
        folder: For their keys.
    """
    inside = Hosts(*[tuple(f"{name}-w" for name in hosts.spaces)] * 2)
    links = [f"wg{os.getpid()}-{rank}" for rank in (0, 1)]
    public = []
    for rank in (0, 1):
        secret = _run("wg", "genkey")
        (folder / f"key{rank}").write_text(secret)
        public.append(_run("wg", "pubkey", text=secret).strip())
    with contextlib.ExitStack() as stack:
        for rank in (0, 1):
            space, link, other = inside.spaces[rank], links[rank], 1 - rank
            _run("ip", "netns", "add", space)
            stack.callback(_run, "ip", "netns", "del", space)
            # In the foreground, as a child that can be ended: the kernel's needs no process.
            tunnel = subprocess.Popen(
                hosts.command(rank, "wireguard-go", "-f", link),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(tunnel.wait)
            stack.callback(tunnel.kill)
            _await(pathlib.Path(f"/var/run/wireguard/{link}.sock"))
            _run(
                *hosts.command(rank, "wg", "set", link, "listen-port", str(_TUNNEL_PORT)),
                "private-key", str(folder / f"key{rank}"), "peer", public[other],
                "endpoint", f"{ADDRESSES[other]}:{_TUNNEL_PORT}",
                "allowed-ips", f"{TUNNEL[other]}/32",
            )  # fmt: skip
            _run(*hosts.command(rank, "ip", "link", "set", link, "netns", space))
            _run("ip", "-n", space, "link", "set", "lo", "up")
            _run("ip", "-n", space, "addr", "add", f"{TUNNEL[rank]}/24", "dev", link)
            _run("ip", "-n", space, "link", "set", link, "up")
        yield inside


def _await(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.02)


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, timeout=20, text=True, input=text
    )
    return done.stdout
