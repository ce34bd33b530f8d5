"""Does an encrypted model come back the same, and does no disk see it as it is?"""

from __future__ import annotations

import io
import os
import pathlib
import sys
import tempfile
import zipfile

import keras
import numpy as np
import pytest

import tfdist
from tfdist.encryption import keys, load_model, memory, models, save_model


@pytest.fixture
def key(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv(keys.IDENTITY_FILE, str(tmp_path / "identity"))
    return keys.new_identity(tmp_path / "identity")


def _model() -> keras.Model:
    keras.utils.set_random_seed(1)
    words = keras.layers.StringLookup()
    words.adapt(["secret-word", "secret-word", "b"])  # else the words are in the configuration
    text = keras.Input((), dtype="string")
    numbers = keras.layers.Embedding(3, 4)(words(text))
    model = keras.Model(text, keras.layers.Dense(2)(numbers))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


_X = np.array(["b", "secret-word", "other"], dtype=object)


def test_a_model_with_a_vocabulary_and_an_optimizer_comes_back(tmp_path, key):
    model = _model()
    model.optimizer.iterations.assign(7)
    save_model(model, tmp_path / "a.keras.age", encrypt_to=[key])
    read = load_model(tmp_path / "a.keras.age")
    np.testing.assert_array_equal(read.predict(_X, verbose=0), model.predict(_X, verbose=0))
    assert read.optimizer.iterations == 7
    assert load_model(tmp_path / "a.keras.age", compile=False).compiled is False


def test_the_file_is_that_of_keras_encrypted(tmp_path, key, monkeypatch):
    model = _model()
    save_model(model, tmp_path / "a.keras.age", encrypt_to=key)
    model.save(tmp_path / "plain.keras")
    tfdist.encryption.decrypt_file(tmp_path / "a.keras.age")
    with zipfile.ZipFile(tmp_path / "a.keras") as found, zipfile.ZipFile(
        tmp_path / "plain.keras"
    ) as expected:
        assert found.namelist() == expected.namelist()
        assert any("vocabulary" in name for name in found.namelist())
        assert found.read("config.json") == expected.read("config.json")


def test_no_disk_sees_it(tmp_path, key, monkeypatch):
    """All files that are opened for writing lie in memory, but for the encrypted one."""
    written = []

    def note(event: str, args: tuple) -> None:
        if event == "open" and is_noting and args[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(str(args[0]))

    is_noting = False
    sys.addaudithook(note)  # which stays, and then does nothing
    model = _model()
    is_noting = True
    try:
        save_model(model, tmp_path / "a.keras.age", encrypt_to=key)
        load_model(tmp_path / "a.keras.age")
    finally:
        is_noting = False
    outside = [path for path in written if not path.startswith("/dev/shm/")]
    assert [pathlib.Path(path).name.partition("-")[0] for path in outside] == [".a.keras.age"]
    assert len(written) > len(outside)  # the vocabulary
    assert not [path for path in written if path not in outside and os.path.exists(path)]


def test_a_disk_in_the_place_of_memory_is_refused_before_anything_is_written(tmp_path, key):
    disk = tmp_path / "disk"
    disk.mkdir()
    save_model(_model(), tmp_path / "a.keras.age", encrypt_to=key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_OF_MEMORY", ())
        patch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(RuntimeError, match="have to lie in memory"):
            save_model(_model(), tmp_path / "b.keras.age", encrypt_to=key)
        with pytest.raises(RuntimeError, match="have to lie in memory"):
            load_model(tmp_path / "a.keras.age")
    assert not list(disk.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras.age", "disk", "identity"]


def test_a_changed_file_loads_nothing(tmp_path, key, monkeypatch):
    path = tmp_path / "a.keras.age"
    save_model(_model(), path, encrypt_to=key)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(models.model_files, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match="was changed or cut short .* nothing of it was used"):
        load_model(path)


def test_code_in_a_file_is_not_run(tmp_path, key):
    """Whoever has the public key can write such a file."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
    save_model(model, tmp_path / "a.keras.age", encrypt_to=key)
    with pytest.raises(ValueError, match="safe_mode"):
        load_model(tmp_path / "a.keras.age")
    assert load_model(tmp_path / "a.keras.age", safe_mode=False).layers


def test_another_name_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=r"does not end in '.keras.age'"):
        save_model(_model(), tmp_path / "model.keras", encrypt_to=key)


def test_keras_saves_into_memory_what_it_saves_into_a_file():
    """A release of Keras that no longer takes an open file is named here."""
    from tfdist.compat import model_files

    content = io.BytesIO()
    model_files.save(_model(), content)
    content.seek(0)
    assert model_files.load(content).count_params() == _model().count_params()
