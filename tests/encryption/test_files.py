"""Are files encrypted, decrypted and given to others, with nothing left of what went wrong?"""

from __future__ import annotations

import os

import pytest

from tfdist.encryption import files, keys, streams

_CONTENT = os.urandom(1000) * 300  # several chunks of age


@pytest.fixture
def key(tmp_path) -> str:
    return keys.new_identity(tmp_path / "identity")


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with one file in it."""
    found = tmp_path / "files"
    found.mkdir()
    (found / "model").write_bytes(_CONTENT)
    return found


def _names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back(tmp_path, folder, key):
    new = files.encrypt_file(folder / "model", encrypt_to=key)
    assert (new, _names(folder)) == (folder / "model.age", ["model", "model.age"])
    (folder / "model").unlink()
    back = files.decrypt_file(new, identity_file=tmp_path / "identity")
    assert back.read_bytes() == _CONTENT
    assert back.stat().st_mode & 0o777 == 0o600
    assert _names(folder) == ["model", "model.age"]


def test_nothing_is_overwritten(tmp_path, folder, key):
    new = files.encrypt_file(folder / "model", encrypt_to=key)
    for call in (
        lambda: files.encrypt_file(folder / "model", encrypt_to=key),
        lambda: files.decrypt_file(new, identity_file=tmp_path / "identity"),
    ):
        with pytest.raises(FileExistsError, match="is there already. Remove it, or name another"):
            call()


def test_what_was_changed_writes_no_byte(tmp_path, folder, key, monkeypatch):
    new = files.encrypt_file(folder / "model", encrypt_to=key)
    (folder / "model").unlink()
    content = new.read_bytes()
    new.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    opened = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args) or original(*args))
    with pytest.raises(ValueError, match="was changed or cut short"):
        files.decrypt_file(new, identity_file=tmp_path / "identity")
    assert _names(folder) == ["model.age"]
    assert not opened  # the new file, of which chunks would be on the disk before the last is seen


def test_rotation_gives_it_to_others_and_takes_it_from_who_had_it(tmp_path, folder, key):
    new = files.encrypt_file(folder / "model", encrypt_to=key)
    (folder / "model").unlink()
    other = keys.new_identity(tmp_path / "other")
    with pytest.raises(keys.IdentityError, match="encrypted to other keys"):
        files.rotate_file(new, encrypt_to=other, identity_file=tmp_path / "other")
    files.rotate_file(new, encrypt_to=other, identity_file=tmp_path / "identity")
    assert _names(folder) == ["model.age"]
    with pytest.raises(keys.IdentityError, match="encrypted to other keys"):
        files.decrypt_file(new, identity_file=tmp_path / "identity")
    back = files.decrypt_file(new, identity_file=tmp_path / "other")
    assert back.read_bytes() == _CONTENT


def test_a_full_disk_leaves_what_was_there(tmp_path, folder, key, monkeypatch):
    new = files.encrypt_file(folder / "model", encrypt_to=key)
    before = new.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(streams.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.rotate_file(new, encrypt_to=key, identity_file=tmp_path / "identity")
    assert (new.read_bytes(), _names(folder)) == (before, ["model", "model.age"])
    with pytest.raises(OSError, match="No space left"):
        files.decrypt_file(new, folder / "back", identity_file=tmp_path / "identity")
    assert _names(folder) == ["model", "model.age"]


def test_refused(tmp_path, folder, key):
    new = files.encrypt_file(folder / "model", folder / "other", encrypt_to=key)
    with pytest.raises(ValueError, match="is encrypted already. To give it to others"):
        files.encrypt_file(new, encrypt_to=key)
    with pytest.raises(ValueError, match="does not end in .age"):
        files.decrypt_file(new, identity_file=tmp_path / "identity")
    with pytest.raises(ValueError, match="is a folder"):
        files.encrypt_file(folder, encrypt_to=key)
