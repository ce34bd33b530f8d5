"""Does the command encrypt for those whose keys are given, and say what it did?"""

from __future__ import annotations

import pytest

from tfdist.cli import commands
from tfdist.encryption import keys


@pytest.fixture
def public_key(tmp_path, monkeypatch, capsys) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").write_bytes(b"weights")
    assert commands.main(["encrypt", "--new_identity=team.key"]) == 0
    return capsys.readouterr().out.strip()


def test_there_rotated_and_back(tmp_path, public_key, capsys, monkeypatch):
    other = keys.new_identity("other.key")
    assert commands.main(["encrypt", "model", f"--encrypt_to={public_key}"]) == 0
    assert "model.age is encrypted; model is still there for all to read" in capsys.readouterr().out
    assert b"weights" not in (tmp_path / "model.age").read_bytes()
    rotate = ["encrypt", "model.age", f"--encrypt_to={other}", "--rotate"]
    assert commands.main(rotate) == 2
    assert "Set TFDIST_IDENTITY_FILE" in capsys.readouterr().err
    assert commands.main([*rotate, "--identity_file=team.key"]) == 0
    monkeypatch.setenv(keys.IDENTITY_FILE, "other.key")
    assert commands.main(["decrypt", "model.age", "--to=back"]) == 0
    assert (tmp_path / "back").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give the file"),
        (["model"], "say who may read it, by --encrypt_to="),
        (["model", "--new_identity=x"], "--new_identity makes an identity, and nothing else"),
        (["a", "b", "--encrypt_to=k", "--to=c"], "--to names the new file of one file"),
    ],
)
def test_wrong_flags(arguments, told, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.main(["encrypt", *arguments])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_what_cannot_be_done_is_one_sentence(public_key, capsys):
    for arguments, told in {
        ("no_such_file", f"--encrypt_to={public_key}"): "No such file or directory: 'no_such_file'",
        ("model", "--encrypt_to=age1x"): "'age1x', which is no public key",
        ("--new_identity=team.key",): "is there already",
    }.items():
        assert commands.main(["encrypt", *arguments]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
