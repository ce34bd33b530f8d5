"""Are public keys and identities read as they should be, and is no identity ever shown?"""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

from tfdist.encryption import keys


@pytest.fixture
def identity(tmp_path) -> tuple[str, str]:
    """Returns the path of an identity, and its public key."""
    path = str(tmp_path / "identity")
    return path, keys.new_identity(path)


def _secret(path: str) -> str:
    return pathlib.Path(path).read_text(encoding="utf-8").split()[-1]


def test_new_identity_is_for_its_owner_and_not_overwritten(identity):
    path, key = identity
    assert key.startswith("age1")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError, match="may be the only copy of an identity"):
        keys.new_identity(path)
    assert len(keys.identities(path)) == 1
    assert str(keys.identities(path)[0].to_public()) == key


def test_several_recipients_and_files(tmp_path, identity):
    _, key = identity
    other = keys.new_identity(tmp_path / "other")
    (tmp_path / "team").write_text(f"# the team\n{other}\n\n  {key}\n")
    found = keys.recipients([key, tmp_path / "team"])
    assert [str(one) for one in found] == [key, other, key]
    assert [str(one) for one in keys.recipients(key)] == [key]


def test_several_identities_of_one_file(tmp_path, identity, monkeypatch):
    path, key = identity
    other = keys.new_identity(tmp_path / "other")
    with open(path, "a", encoding="utf-8") as file:
        file.write((tmp_path / "other").read_text())
    monkeypatch.setenv(keys.IDENTITY_FILE, path)
    assert [str(one.to_public()) for one in keys.identities()] == [key, other]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "names nobody"), (None, "names nobody"), (3, "names nobody"), ([3], "holds 3"),
        ([""], "holds ''"), (["age1nobody"], "'age1nobody', which is no public key of age"),
        (["no_such_file"], "'no_such_file', which is no public key, and no file .*No such file"),
    ],
)  # fmt: skip
def test_wrong_recipients(given, told):
    with pytest.raises(ValueError, match=told):
        keys.recipients(given)


def test_file_without_keys(tmp_path):
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(ValueError, match="holds no key. Write one a line"):
        keys.recipients(tmp_path / "empty")


def test_an_identity_in_the_wrong_place_is_refused_and_not_repeated(identity):
    path, _ = identity
    secret = _secret(path)
    for call in (
        lambda: keys.refuse_wrong(secret), lambda: keys.refuse_wrong([secret.lower()]),
        lambda: keys.recipients([path]), lambda: keys.identities(secret),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="An identity stands in") as caught:
            call()
        assert secret.upper() not in str(caught.value).upper()


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (None, 0, "cannot be read: No such file"), (b"\xff\xfe", 0o600, "it is no text"),
        (b"age1\n", 0o600, "holds no identity"), (b"AGE-SECRET-KEY-1ABC\n", 0o600, "no identity"),
        (b"", 0o644, r"read by everybody on this machine.*\(mode 644\).*chmod 600"),
        (b"", 0o620, "written by its group"),
    ],
)  # fmt: skip
def test_wrong_identity_files(tmp_path, content, mode, told):
    path = tmp_path / "identity"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(keys.IdentityError, match=told):
        keys.identities(path)


def test_no_identity_is_named(monkeypatch):
    monkeypatch.delenv(keys.IDENTITY_FILE, raising=False)
    with pytest.raises(keys.IdentityError, match="none was named. Set TFDIST_IDENTITY_FILE"):
        keys.identities()


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(ImportError, match=r"pip install 'tfdist\[encryption\]'"):
        keys.recipients("age1")
