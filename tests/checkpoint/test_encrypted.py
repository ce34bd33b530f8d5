"""Can only who holds an identity read a checkpoint, and is a run that goes on from one the same?"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import tarfile
import textwrap
import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.checkpoint import encrypted, manifest
from tfdist.checkpoint.checkpointer import Checkpointer
from tfdist.encryption import keys, streams

_MARK = b"a tensor that nobody should read"


@pytest.fixture
def key(tmp_path_factory, monkeypatch) -> str:
    path = tmp_path_factory.mktemp("keys") / "identity"
    monkeypatch.setenv(keys.IDENTITY_FILE, str(path))
    return keys.new_identity(path)


def _variable(megabytes: int = 0) -> tf.Variable:
    """Returns a variable with bytes that are easily found."""
    repeated = np.frombuffer(_MARK * (1 + megabytes * 2**15), np.float32)
    return tf.Variable(repeated.copy(), name="marked")


def _save(folder: Any, variable: tf.Variable, *steps: int, **kwargs: Any) -> None:
    with Checkpointer(folder, **kwargs) as checkpointer:
        for step in steps:
            checkpointer.save(variable, step=step, progress={"step": step, "said": "a word"})


def _bytes_written() -> int:
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def _found_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders whose files hold the variable's bytes, or what is told with them."""
    found = []
    for root, _, names in os.walk(folder):  # which passes over what is gone meanwhile
        path, content = pathlib.Path(root), b""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                content += (path / name).read_bytes()
        if _MARK in content or b"a word" in content or b"marked" in content:
            found.append(path)
    return found


def test_it_comes_back(tmp_path, key):
    variable = _variable()
    _save(tmp_path, variable, 3, encrypt_to=key)
    before = variable.numpy().tobytes()
    variable.assign(tf.zeros_like(variable))
    with Checkpointer(tmp_path, encrypt_to=key) as checkpointer:
        assert checkpointer.restore(variable) == {"step": 3, "said": "a word"}
    assert variable.numpy().tobytes() == before


def test_no_byte_can_be_read_while_and_after_it_is_written(tmp_path, key):
    """Only this can see a readable file that is there for a moment: all that is written counts."""
    variable = _variable(megabytes=8)
    _save(tmp_path / "plain", variable, 1)
    assert _found_in(tmp_path / "plain")  # so what follows would find something
    watched, is_over = [], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.001):
            watched.extend(_found_in(tmp_path / "run"))

    thread = threading.Thread(target=watch)
    thread.start()
    before = _bytes_written()
    _save(tmp_path / "run", variable, 1, 2, encrypt_to=key)
    written = _bytes_written() - before
    is_over.set()
    thread.join()
    assert not watched
    assert not _found_in(tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert sorted({path.name for path in files}) == [".claim", "checkpoint.age", "manifest.json"]
    on_disk = sum(path.stat().st_size for path in files)
    assert on_disk <= written < 1.01 * on_disk  # nothing was written anywhere else


def test_public_keys_alone_write_and_do_not_read(tmp_path, key, monkeypatch):
    monkeypatch.delenv(keys.IDENTITY_FILE)
    _save(tmp_path, _variable(), 1, 2, encrypt_to=key)
    _save(tmp_path, _variable(), 3, encrypt_to=key)
    with (
        Checkpointer(tmp_path, encrypt_to=key) as checkpointer,
        pytest.raises(ValueError, match="none was named. Set TFDIST_IDENTITY_FILE"),
    ):
        checkpointer.restore(_variable())


def test_the_best_is_kept_without_an_identity(tmp_path, key, monkeypatch):
    monkeypatch.delenv(keys.IDENTITY_FILE)
    variable = _variable()
    with Checkpointer(tmp_path, keep=1, best="min loss", encrypt_to=key) as checkpointer:
        for step, loss in enumerate([0.5, 0.1, 0.9], start=1):
            checkpointer.save(variable, step=step, logs={"loss": loss})
    names = [folder.name for folder in manifest.list_checkpoints(tmp_path)]
    assert names == ["000002-step-2", "000003-step-3"]


def test_keys_change_while_a_run_goes_on(tmp_path, key, tmp_path_factory, monkeypatch):
    """Who had the old identity reads what was, and nothing that comes."""
    other = tmp_path_factory.mktemp("other") / "identity"
    new_key = keys.new_identity(other)
    _save(tmp_path, _variable(), 1, encrypt_to=key)
    with Checkpointer(tmp_path, keep=1, encrypt_to=[new_key]) as checkpointer:
        assert checkpointer.restore(_variable())["step"] == 1
        checkpointer.save(_variable(), step=2)
    with (
        Checkpointer(tmp_path, encrypt_to=new_key) as checkpointer,
        pytest.raises(keys.IdentityError, match="is encrypted to other keys"),
    ):
        checkpointer.restore(_variable())
    monkeypatch.setenv(keys.IDENTITY_FILE, str(other))
    with Checkpointer(tmp_path, encrypt_to=new_key) as checkpointer:
        assert checkpointer.restore(_variable()) == {}


def test_readable_and_encrypted_checkpoints_do_not_mix(tmp_path, key):
    _save(tmp_path / "plain", _variable(), 1)
    _save(tmp_path / "secret", _variable(), 1, encrypt_to=key)
    with pytest.raises(ValueError, match="is a checkpoint that anybody can read. Give another"):
        _save(tmp_path / "plain", _variable(), 2, encrypt_to=key)
    with pytest.raises(ValueError, match="would go on with checkpoints that are not. Give encrypt"):
        _save(tmp_path / "secret", _variable(), 2)
    with Checkpointer(tmp_path / "secret") as checkpointer:
        for _ in range(2):  # the folder is free again
            with pytest.raises(ValueError, match="would go on with checkpoints that are not"):
                checkpointer.restore(_variable())
    _save(tmp_path / "secret", _variable(), 2, encrypt_to=key)


def _forge(folder: pathlib.Path, content: bytes) -> None:
    """Replaces an encrypted checkpoint, with a manifest of the right checksum."""
    (folder / "checkpoint.age").write_bytes(content)
    body = json.loads((folder / "manifest.json").read_text())
    body["files"] = {"checkpoint.age": manifest._seal(folder / "checkpoint.age")}
    told = manifest.text_of(body["step"], {"score": None}, body["files"])
    (folder / "manifest.json").write_text(told)


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [_flipped, lambda c: c[:-1000], lambda c: b"foreign"])
def test_a_changed_one_is_passed_over(tmp_path, key, damage, caplog):
    _save(tmp_path, _variable(), 1, 2, encrypt_to=key)
    newest = tmp_path / "000002-step-2"
    _forge(newest, damage((newest / "checkpoint.age").read_bytes()))
    with caplog.at_level(logging.WARNING, "tfdist"):
        with Checkpointer(tmp_path, encrypt_to=key) as checkpointer:
            assert checkpointer.restore(_variable())["step"] == 1
        assert "checkpoint.age was changed or cut short" in caplog.text
    _forge(tmp_path / "000001-step-1", b"")
    variable = tf.Variable(tf.zeros(8), name="marked")
    with (
        Checkpointer(tmp_path, encrypt_to=key) as checkpointer,
        pytest.raises(RuntimeError, match="None of the checkpoints in .* is whole"),
    ):
        checkpointer.restore(variable)
    assert not variable.numpy().any()


def _tar(tmp_path: pathlib.Path, **members: bytes) -> list[bytes]:
    path = tmp_path / "made.tar"
    with tarfile.open(path, "w") as packed:
        for name, content in members.items():
            (tmp_path / "member").write_bytes(content)
            packed.add(tmp_path / "member", arcname=name.replace("__", "/"))
    return [path.read_bytes()]


def _tar_of_a_folder(tmp_path: pathlib.Path) -> list[bytes]:
    with tarfile.open(tmp_path / "made.tar", "w") as packed:
        member = tarfile.TarInfo("state.json")
        member.type = tarfile.DIRTYPE
        packed.addfile(member)
    return [(tmp_path / "made.tar").read_bytes()]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (_tar_of_a_folder, "'state.json', which is no file of a checkpoint"),
        (lambda path: [b"no tar at all"], "holds no checkpoint"),
        (lambda path: _tar(path, state=b"x"), "manifest.json is cut short or garbled"),
        (lambda path: _tar(path, out__state=b"x"), "'out/state', which is no file of a checkpoint"),
        (
            lambda path: _tar(path, **{"manifest.json": manifest.text_of(1, {}, {}).encode()}),
            "holds another checkpoint than 000002-step-2",
        ),
        (
            lambda path: _tar(path, **{"manifest.json": manifest.text_of(2, {}, {}).encode()}),
            "state.json is no JSON",
        ),
        (
            lambda path: _tar(path, **{
                "state.json": b"{}", "manifest.json": manifest.text_of(2, {}, {}).encode(),
            }),
            "holds another checkpoint than 000002-step-2",
        ),
    ],
)
def test_what_others_encrypt_to_this_key_is_no_checkpoint(tmp_path, key, made, told, caplog):
    """Whoever has a public key can write such a file."""
    _save(tmp_path / "run", _variable(), 1, 2, encrypt_to=key)
    streams.encrypt(made(tmp_path), tmp_path / "made.age", keys.recipients(key))
    _forge(tmp_path / "run" / "000002-step-2", (tmp_path / "made.age").read_bytes())
    with (
        caplog.at_level(logging.WARNING, "tfdist"),
        Checkpointer(tmp_path / "run", encrypt_to=key) as checkpointer,
    ):
        assert checkpointer.restore(_variable())["step"] == 1
    assert told in caplog.text


def test_an_older_one_in_the_place_of_a_newer_is_found(tmp_path, key, caplog):
    _save(tmp_path, _variable(), 1, 2, encrypt_to=key)
    older = (tmp_path / "000001-step-1" / "checkpoint.age").read_bytes()
    _forge(tmp_path / "000002-step-2", older)
    with (
        caplog.at_level(logging.WARNING, "tfdist"),
        Checkpointer(tmp_path, encrypt_to=key) as checkpointer,
    ):
        assert checkpointer.restore(_variable())["step"] == 1
    assert "holds another checkpoint than 000002-step-2" in caplog.text


def test_decrypted_and_unpacked_it_is_an_ordinary_checkpoint(tmp_path, key):
    _save(tmp_path / "run", _variable(), 5, encrypt_to=key)
    packed = tmp_path / "run" / "000001-step-5" / "checkpoint.age"
    tfdist.encryption.decrypt_file(packed, tmp_path / "packed.tar")
    folder = tmp_path / "plain" / "000001-step-5"
    folder.mkdir(parents=True)
    subprocess.run(["tar", "xf", tmp_path / "packed.tar", "-C", folder], check=True)
    with Checkpointer(tmp_path / "plain") as checkpointer:
        assert checkpointer.restore(_variable())["step"] == 5


@pytest.mark.slow  # 5 s: only a process of its own can have files that are limited
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, key):
    """In a process of its own, whose files may have 40 kB and no more."""
    code = f"""
        import resource, signal, numpy as np, tensorflow as tf
        from tfdist.checkpoint.checkpointer import Checkpointer
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        small, large = tf.Variable(np.zeros(9)), tf.Variable(np.zeros(99_999))
        checkpointer = Checkpointer({str(tmp_path / "run")!r}, encrypt_to={key!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        checkpointer.save(small, step=1)
        checkpointer.save(large, step=2)
        try:
            checkpointer.close()
        except RuntimeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100,
        check=False, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert "File too large. What was saved before is untouched: 000001-step-1" in done.stdout
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == [
        "000001-step-1"
    ]


def _fitted(folder: Any, epochs: int, *, seed: int = 1, **kwargs: Any) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dropout(0.5)])
    model.compile("adam", "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(10, 3))
    y = np.ones((10, 4))
    if folder is not None:
        kwargs |= {"checkpoint_dir": folder}
    tfdist.fit(model, x, y, batch_size=4, epochs=epochs, verbose=0, **kwargs)
    return model


def test_fit_goes_on_to_the_same_bits(tmp_path, key):
    whole = _fitted(None, 3)
    _fitted(tmp_path, 1, encrypt_to=[key])
    resumed = _fitted(tmp_path, 3, encrypt_to=[key])
    assert {path.name for path in tmp_path.rglob("checkpoint.age")}
    for one, other in zip(whole.variables, resumed.variables, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    with pytest.raises(ValueError, match="is of another run"):
        _fitted(tmp_path, 3, seed=2, encrypt_to=[key])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (lambda path, key: {"encrypt_to": [key]}, "encrypt_to was given without a folder"),
        (
            lambda path, key: {"checkpoint_dir": Checkpointer(path), "encrypt_to": [key]},
            "encrypt_to was given without a folder",
        ),
        (lambda path, _: {"checkpoint_dir": path, "encrypt_to": []}, "encrypt_to=.* names nobody"),
        (
            lambda path, key: {
                "checkpoint_dir": path, "encrypt_to": key,
                "callbacks": [keras.callbacks.ModelCheckpoint(f"{path}/a.keras")],
            },
            "ModelCheckpoint writes the model for everybody to read",
        ),
        (
            lambda path, key: {
                "checkpoint_dir": Checkpointer(path, encrypt_to=key),
                "callbacks": [[keras.callbacks.BackupAndRestore(path)]],
            },
            "BackupAndRestore writes the model for everybody to read",
        ),
    ],
)  # fmt: skip
def test_refused_by_fit(tmp_path, key, options, told):
    given = options(tmp_path, key)
    with pytest.raises(ValueError, match=told):
        _fitted(None, 1, **given)
    if isinstance(given.get("checkpoint_dir"), Checkpointer):
        given["checkpoint_dir"].close()


def test_memory_of_a_checkpoint_is_given_back(tmp_path, key):
    """Else each checkpoint would leave a copy of the model in the memory."""
    variable = _variable()
    tf.io.gfile.makedirs("ram://of-this-test")
    for step in range(3):
        _save(tmp_path, variable, step, encrypt_to=key)
    with Checkpointer(tmp_path, encrypt_to=key) as checkpointer:
        checkpointer.restore(variable)
    left = [name for name in tf.io.gfile.listdir("ram://") if "tfdist" in name]
    assert not left, encrypted.__name__
