"""Does the command write what it can vouch for, and nothing else?"""

from __future__ import annotations

import pytest

from tfdist import encryption
from tfdist.cli import commands


@pytest.fixture
def encrypted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").write_bytes(b"weights")
    public_key = encryption.new_identity("key")
    encryption.encrypt_file("model", encrypt_to=public_key)
    (tmp_path / "model").unlink()
    return tmp_path / "model.age"


def test_it_is_there_again(encrypted, capsys):
    assert commands.main(["decrypt", "model.age", "--identity_file=key"]) == 0
    assert capsys.readouterr().out == "tfdist: model can be read by its owner now\n"
    assert (encrypted.parent / "model").read_bytes() == b"weights"


def test_an_identity_as_the_flag_is_refused_and_not_shown(encrypted, capsys):
    secret = (encrypted.parent / "key").read_text().split()[-1]
    assert commands.main(["decrypt", "model.age", f"--identity_file={secret}"]) == 2
    said = capsys.readouterr().err
    assert "An identity stands in the name of the identity file" in said
    assert secret not in said


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:-1] + b"?"])
def test_a_changed_file_is_one_sentence_and_no_file(encrypted, damage, capsys):
    encrypted.write_bytes(damage(encrypted.read_bytes()))
    assert commands.main(["decrypt", "model.age", "--identity_file=key"]) == 2
    said = capsys.readouterr().err
    assert "was changed or cut short" in said or "is no file of age" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in encrypted.parent.iterdir()) == ["key", "model.age"]


def test_one_file_at_a_time(capsys):
    with pytest.raises(SystemExit):
        commands.main(["decrypt", "a", "b"])
    assert "give one file" in capsys.readouterr().err
