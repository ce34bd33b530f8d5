"""To whom is something encrypted, and with what is it read?  Public keys, and a file of identities.

A public key of age, "age1...", encrypts and does nothing else: a job that holds those alone writes
what it cannot read. An identity, "AGE-SECRET-KEY-1...", decrypts. It is read from a file, whose
name comes from an environment variable or a flag, so that it never stands in a command line, a log
or an error.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Sequence
from typing import Any

from tfdist.cluster import contract

IDENTITY_FILE = contract.IDENTITY_FILE

_PUBLIC, _SECRET = "age1", "AGE-SECRET-KEY-"
# Of an identity file: others may neither read nor write it, the group may not write it. Clusters
# mount secrets readable by a group.
_REFUSED_MODE = stat.S_IRWXO | stat.S_IWGRP


class IdentityError(ValueError):
    """No identity was given that opens what is to be read."""


def age() -> Any:
    """Returns the library that encrypts.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import pyrage
    except ModuleNotFoundError as error:
        raise ImportError(
            "Encryption needs the package pyrage, which is not installed. Install it with: pip "
            "install 'tfdist[encryption]'",
            name="pyrage",
        ) from error
    return pyrage


def refuse_wrong(encrypt_to: Any) -> list[str]:
    """Returns the recipients as a list: public keys and paths, of which no file is read.

    Args:
        encrypt_to: A public key or the path of a file of them, one a line; or several.

    Raises:
        ValueError: It is something else. An identity is not repeated in the message.
    """
    several = [encrypt_to] if isinstance(encrypt_to, (str, os.PathLike)) else encrypt_to
    if not isinstance(several, Sequence) or not several:
        raise ValueError(
            f"encrypt_to={encrypt_to!r} names nobody. Give public keys of age, 'age1...', or paths "
            "of files of them."
        )
    for one in several:
        if not isinstance(one, (str, os.PathLike)) or not os.fspath(one):
            raise ValueError(
                f"encrypt_to holds {one!r}. Give public keys of age, 'age1...', or paths of files "
                "of them."
            )
        _refuse_secret(os.fspath(one), "encrypt_to")
    return [os.fspath(one) for one in several]


def recipients(encrypt_to: Any) -> list[Any]:
    """Reads public keys, as `pyrage` takes them.

    Args:
        encrypt_to: As in `refuse_wrong`.

    Raises:
        ValueError: A key or file is not what it should be.
        ImportError: `pyrage` is not installed.
    """
    make = age().x25519.Recipient.from_str
    found = []
    for given in refuse_wrong(encrypt_to):
        for key in [given] if given.startswith(_PUBLIC) else _lines(given):
            try:
                found.append(make(key))
            except age().RecipientError as error:
                raise ValueError(
                    f"encrypt_to holds {key!r}, which is no public key of age ({error}). Give one "
                    "as `age-keygen` and tfdist.encryption.new_identity show it, 'age1...'."
                ) from error
    return found


def identities(identity_file: str | os.PathLike[str] | None = None) -> list[Any]:
    """Reads the identities that open what was encrypted to their public keys.

    Args:
        identity_file: A file of them, one a line, as `age-keygen` writes it; by default the one
            that the environment variable TFDIST_IDENTITY_FILE names.

    Raises:
        IdentityError: There is no such file, or it holds none.
        ImportError: `pyrage` is not installed.
    """
    path = os.fspath(identity_file or os.environ.get(IDENTITY_FILE, ""))
    if not path:
        raise IdentityError(
            "What is encrypted is read with an identity, and none was named. Set "
            f"{IDENTITY_FILE} to the path of the file that holds it."
        )
    _refuse_secret(path, "the name of the identity file")
    make = age().x25519.Identity.from_str
    try:
        mode = os.stat(path).st_mode
        lines = pathlib.Path(path).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise IdentityError(
            f"The identity file {path!r} cannot be read: {why}. Give one that `age-keygen` or "
            "tfdist.encryption.new_identity has written."
        ) from error
    if mode & _REFUSED_MODE:
        raise IdentityError(
            f"The identity file {path!r} may be read by everybody on this machine, or written by "
            f"its group (mode {stat.S_IMODE(mode):o}). Allow its owner alone: chmod 600 {path}"
        )
    try:
        found = [make(word) for word in lines if word.startswith(_SECRET)]
    except age().IdentityError:
        found = []
    if not found:
        raise IdentityError(
            f"The file {path!r} holds no identity of age that could be used. Give one that "
            "`age-keygen` or tfdist.encryption.new_identity has written, without a passphrase."
        )
    return found


def new_identity(path: str | os.PathLike[str]) -> str:
    """Makes an identity, writes it into a new file that its owner alone may read.

    Args:
        path: The file; it must not be there yet.

    Returns:
        The public key, "age1...", to which others encrypt.

    Raises:
        FileExistsError: The file is there: an identity that is lost opens nothing any more.
        ImportError: `pyrage` is not installed.
    """
    identity = age().x25519.Identity.generate()
    key = str(identity.to_public())
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise FileExistsError(
            f"{os.fspath(path)!r} is there already, and may be the only copy of an identity. Give "
            "another name."
        ) from error
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(f"# public key: {key}\n{identity}\n")
        file.flush()
        os.fsync(number)
    return key


def _lines(path: str) -> list[str]:
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"encrypt_to holds {path!r}, which is no public key, and no file that can be read: "
            f"{why}. Give public keys of age, 'age1...', or paths of files of them."
        ) from error
    found = [line.strip() for line in text.splitlines()]
    found = [line for line in found if line and not line.startswith("#")]
    for line in found:
        _refuse_secret(line, f"the file {path!r} of encrypt_to")
    if not found:
        raise ValueError(f"The file {path!r} of encrypt_to holds no key. Write one a line.")
    return found


def _refuse_secret(text: str, place: str) -> None:
    """Raises a ValueError that does not repeat it."""
    if text.upper().startswith(_SECRET):
        raise IdentityError(
            f"An identity stands in {place}, where only public keys or paths belong: whoever sees "
            "it can read everything. Make a new one, and give its public key, or its file's path."
        )
