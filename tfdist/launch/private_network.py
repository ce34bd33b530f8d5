"""How do the workers of this machine get a network that nobody else reaches?

TensorFlow's server listens on all interfaces and asks nobody who they are. The launcher therefore
moves itself, before it starts anything, into a network namespace of its own (Linux), which has
nothing but its loopback; the workers are born there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import socket
import struct

# Of <sched.h>, <linux/sockios.h> and <linux/if.h>; Python has the first two from 3.12 on.
_NEW_NET = 0x40000000
_NEW_USER = 0x10000000
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_IS_UP = 0x1
_REQUEST = "16sh14x"  # a `struct ifreq`: an interface's name, its flags


def enter() -> None:
    """Moves this process into a network of its own, with loopback alone; there is no way back.

    Root needs no more than the right to make one (CAP_SYS_ADMIN). Anybody else gets a user
    namespace with it, in which they keep their user and group; the system has to allow that.

    Raises:
        ValueError: The system does not let it. The process may be left without any network.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        with contextlib.suppress(PermissionError):
            _unshare(_NEW_NET)
            return _raise_loopback()
        _unshare(_NEW_NET | _NEW_USER)
        own = pathlib.Path("/proc/self")
        (own / "setgroups").write_text("deny")  # else no group may be kept
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "gid_map").write_text(f"{group} {group} 1")
        _raise_loopback()
    except (OSError, AttributeError) as error:  # AttributeError: a C library that is not Linux's
        raise ValueError(
            f"--private_network: this system lets no network of its own be made ({error}). Run"
            " the job in a container without network (docker run --network=none), or close the"
            " workers' ports by a firewall; SECURITY.md has the commands."
        ) from error


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def _raise_loopback() -> None:
    import fcntl  # not on Windows, where `_unshare` has said no before

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        given = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack(_REQUEST, b"lo", 0))
        _, flags = struct.unpack(_REQUEST, given)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack(_REQUEST, b"lo", flags | _IS_UP))
