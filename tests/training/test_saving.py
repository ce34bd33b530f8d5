"""Does an unchanged program's file come from the chief, and is it there when it is read?"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import pytest

from tfdist import encryption, testing


def _on_worker(folder: str) -> dict[str, Any]:
    import keras
    import numpy as np

    import tfdist
    from tfdist import export

    strategy = tfdist.patch_keras("cpu")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    os.chdir(folder)
    model.save("model.keras")
    read = keras.models.load_model("model.keras")
    model.save_weights("model.weights.h5")
    keras.saving.save_model(model, pathlib.Path("other.keras"))
    exported = export.export_model(model, "exported", np.ones((3, 2), "float32"))
    tfdist.encryption.save_model(model, "secret.keras.age", encrypt_to="key.pub")
    secret = tfdist.encryption.load_model("secret.keras.age", identity_file="../key")
    found = {"replicas": strategy.num_replicas_in_sync, "files": sorted(os.listdir())}
    found["exported"] = exported.largest_difference
    found["same"] = all(map(np.array_equal, read.get_weights(), model.get_weights()))
    found["secret"] = all(map(np.array_equal, secret.get_weights(), model.get_weights()))
    with tfdist.Checkpointer("../run", encrypt_to="key.pub") as checkpointer:
        checkpointer.save(model, step=3, progress={"of": "the chief"})
        try:
            checkpointer.restore(model)
        except Exception as error:
            found["no identity"] = f"{type(error).__name__}: {error}"
        os.environ["TFDIST_IDENTITY_FILE"] = "../key"
        found["progress"] = checkpointer.restore(model)
    try:
        model.save("no_such_folder/model.keras")
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.slow
def test_files_are_the_chiefs(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "key.pub").write_text(encryption.new_identity(tmp_path / "key"))
    chief, other = testing.run_workers(functools.partial(_on_worker, str(folder)), workers=2)
    assert chief["replicas"] == 2
    for found in (chief, other):
        wanted = ["exported", "key.pub", "model.keras", "model.weights.h5", "other.keras"]
        assert found["files"] == [*wanted, "secret.keras.age"]
        assert found["secret"]
        assert "Set TFDIST_IDENTITY_FILE to the path" in found["no identity"]
        assert found["progress"] == {"of": "the chief"}
        assert found["same"]
        assert found["exported"] < 1e-6  # the chief has read its file back, and told the other
    assert not chief["error"].startswith("RuntimeError: Worker")  # what Keras says
    assert other["error"].startswith("RuntimeError: Worker 0 could not save the model")


@pytest.mark.parametrize("name", ["save", "save_weights", "export"])
def test_keras_own_are_back_afterwards(name):
    import keras

    from tfdist.training import saving

    own = getattr(keras.Model, name)
    with saving.on_chief_alone():
        assert getattr(keras.Model, name) is not own
    assert getattr(keras.Model, name) is own
