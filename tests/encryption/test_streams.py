"""Does an encrypted file give its bytes back whole, or an error and nothing?"""

from __future__ import annotations

import errno
import io
import pathlib

import pyrage
import pytest

from tfdist.encryption import keys, streams

_CONTENT = bytes(range(256)) * 1024  # four chunks of age


@pytest.fixture
def pair(tmp_path) -> tuple[list, list]:
    """Returns recipients and identities that belong together."""
    key = keys.new_identity(tmp_path / "identity")
    return keys.recipients(key), keys.identities(tmp_path / "identity")


@pytest.fixture
def file(tmp_path, pair) -> pathlib.Path:
    path = tmp_path / "file.age"
    pieces = [_CONTENT[:10], b"", _CONTENT[10:]]
    streams.encrypt(pieces, path, pair[0])
    return path


def _decrypted(path: pathlib.Path, identities: list) -> bytes:
    content = io.BytesIO()
    streams.decrypt(path, content, identities)
    return content.getvalue()


def test_bytes_come_back(file, pair):
    assert _decrypted(file, pair[1]) == _CONTENT
    assert _CONTENT[:64] not in file.read_bytes()


def test_age_itself_reads_and_writes_the_same_files(tmp_path, file, pair):
    assert pyrage.decrypt(file.read_bytes(), pair[1]) == _CONTENT
    for armored in (False, True):
        other = tmp_path / "other.age"
        other.write_bytes(pyrage.encrypt(b"of age", pair[0], armored=armored))
        assert _decrypted(other, pair[1]) == b"of age"


def test_empty_content(tmp_path, pair):
    streams.encrypt([], tmp_path / "empty.age", pair[0])
    assert _decrypted(tmp_path / "empty.age", pair[1]) == b""


def test_each_recipient_alone_can_read(tmp_path, pair):
    other = keys.recipients(keys.new_identity(tmp_path / "second"))
    streams.encrypt([b"for two"], tmp_path / "two.age", pair[0] + other)
    for identities in (pair[1], keys.identities(tmp_path / "second")):
        assert _decrypted(tmp_path / "two.age", identities) == b"for two"


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: c[: -(65536 + 16)],
        lambda c: c[:60], lambda c: c + b"x", lambda c: c[:-5] + b"?" + c[-4:],
        lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:], lambda c: c[:230] + c[231:],
    ],
    ids=[
        "without the last byte", "half", "without the last chunk", "a part of the head",
        "a byte more", "a byte of the last chunk", "a bit of the head", "a byte less",
    ],
)  # fmt: skip
def test_changed_files_are_refused(file, pair, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"file.age (was changed or cut short|is encrypted to)"):
        _decrypted(file, pair[1])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", _CONTENT])
def test_other_files_are_refused(tmp_path, pair, content):
    (tmp_path / "x").write_bytes(content)
    assert not streams.is_encrypted(tmp_path / "x")
    with pytest.raises(ValueError, match="x is no file of age"):
        _decrypted(tmp_path / "x", pair[1])


def test_of_a_passphrase_and_of_others(tmp_path, file, pair):
    (tmp_path / "phrase").write_bytes(pyrage.passphrase.encrypt(b"x", "word"))
    with pytest.raises(ValueError, match="phrase (was changed|is encrypted to other keys)"):
        _decrypted(tmp_path / "phrase", pair[1])
    keys.new_identity(tmp_path / "other")
    with pytest.raises(keys.IdentityError, match="file.age is encrypted to other keys than those"):
        _decrypted(file, keys.identities(tmp_path / "other"))


def test_what_cannot_be_written_leaves_nothing_and_says_why(tmp_path, pair):
    def chunks():
        yield _CONTENT
        raise OSError(errno.EIO, "the source is broken")

    with pytest.raises(OSError, match="the source is broken"):
        streams.encrypt(chunks(), tmp_path / "new", pair[0])
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").write_bytes(b"there")
    with pytest.raises(FileExistsError):
        streams.encrypt([b"x"], tmp_path / "there", pair[0])
    assert (tmp_path / "there").read_bytes() == b"there"


def test_a_full_disk_is_told_as_such(tmp_path, file, pair):
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", 0) as full:
        streams.decrypt(file, full, pair[1])
