"""Does a run of several workers go on after a stop, on as many or on others?"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from tfdist import testing

pytestmark = pytest.mark.slow

_STEPS = 5  # of an epoch


class Stop(Exception):
    """Ends a run in its midst."""


def _fit(
    device: str,
    folder: str | None,
    *,
    stop_at: int | None = None,
    records: str | None = None,
    optimizer: str = "Adam",
    **kwargs: Any,
) -> Any:
    """Trains on one of the workers; returns weights and history, or what went wrong.

    Args:
        device: As in `get_strategy`.
        folder: For checkpoints, or None.
        stop_at: The step after which the run ends, or None.
        records: A file with the number of an example a line, which is read; "grain" for a dataset
            of Grain; None for arrays.
        optimizer: The name of its class.
        **kwargs: As in `fit`.
    """
    import keras
    import tensorflow as tf

    import tfdist

    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations.numpy() == stop_at:
                raise Stop

    keras.config.set_floatx("float64")
    strategy = tfdist.get_strategy(device)
    keras.utils.set_random_seed(7)
    layers = keras.layers
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(5, activation="tanh"),
                layers.Dropout(0.4),
                layers.Dense(3, activation="softmax"),
            ]
        )
        made = getattr(keras.optimizers, optimizer)(0.05)
        model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(19, 6))
    y = np.random.default_rng(1).integers(0, 3, size=19)
    kwargs = {"batch_size": 4, "epochs": 3, **kwargs}
    if folder is not None:
        kwargs |= {"checkpoint_dir": folder, "save_every": 2}
    data = {"x": x, "y": y}
    if records == "grain":
        import grain

        pairs = grain.MapDataset.source(list(zip(x, y, strict=True)))
        data = {"x": pairs.shuffle(seed=5).batch(kwargs.pop("batch_size"))}
    elif records is not None:

        def example(line: Any) -> Any:
            number = tf.strings.to_number(line, tf.int64)
            return tf.gather(x, number), tf.gather(y, number)

        size = kwargs.pop("batch_size")
        files = {"batch_size": size, "shuffle": True, "seed": 5, "format": "text"}
        data = {"x": tfdist.from_files([records], example, **files)}
        kwargs["shuffle"] = False
    try:
        history = tfdist.fit(
            model, **data, verbose=0, validation_data=(x[:9], y[:9]), callbacks=[StopAt()], **kwargs
        )
    except (Stop, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    weights = [np.asarray(variable.value) for variable in model.weights]
    return [weight.tolist() for weight in weights], history.history


def _whole_and_in_parts(folders: list[str]) -> dict[str, Any]:
    import tfdist

    folder = folders[tfdist.detect_cluster().rank]
    found = {"whole": _fit("cpu", None)}
    found["stops"] = [_fit("cpu", folder, stop_at=3), _fit("cpu", folder, stop_at=9)]
    found["other"] = _fit("cpu", folder, batch_size=5)
    found["parts"] = _fit("cpu", folder)
    found["no folder"] = _fit("cpu", "/proc/tfdist")
    rank = tfdist.detect_cluster().rank
    found["one alone"] = _fit("cpu", folder if rank == 0 else None)
    return found


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> tuple[list[dict[str, Any]], str]:
    # The other worker can neither see the chief's folder nor write into the one that it is given.
    folder = str(tmp_path_factory.mktemp("chief") / "run")
    return testing.run_workers(_whole_and_in_parts, args=([folder, "/proc/none"],)), folder


def test_same_bits_on_as_many_workers(two_workers):
    for found in two_workers[0]:
        assert found["stops"] == ["Stop: ", "Stop: "]
        assert found["parts"] == found["whole"]
        assert len(found["whole"][1]["loss"]) == 3


def test_refused_on_all_workers_alike(two_workers):
    for found in two_workers[0]:
        assert found["other"].startswith("ValueError: The checkpoint ")
        assert "data.batch size: 4 in the checkpoint, 5 here" in found["other"]


def test_a_folder_that_the_chief_cannot_write_to(two_workers):
    for found in two_workers[0]:
        told = "RuntimeError: checkpoint_dir='/proc/tfdist' cannot be written to"
        assert found["no folder"].startswith(told)


def test_a_folder_that_one_worker_alone_is_given(two_workers):
    for found in two_workers[0]:
        assert "worker 0: checkpoint_dir is given; worker 1: checkpoint_dir" in found["one alone"]


_PARTED = ("Adam", "Adafactor")  # in slices, and by owner


def _stop_in_parts(folders: list[str]) -> list[Any]:
    import tfdist

    folder = folders[tfdist.detect_cluster().rank]
    stops = (3, 8)  # the second process goes on where the first one stopped
    return [
        _fit("cpu", f"{folder}-{name}", stop_at=stop, optimizer=name, sharded_optimizer=True)
        for name in _PARTED
        for stop in stops
    ]


def _rest(folder: str, **kwargs: Any) -> list[Any]:
    return [_fit("cpu", f"{folder}-{name}", optimizer=name, **kwargs) for name in _PARTED]


def _wholes_and_rests_of_one(folder: str) -> list[Any]:
    wholes = [_fit("cpu", None, optimizer=name) for name in _PARTED]
    return [wholes, _rest(folder)]


@pytest.mark.timeout(300)  # for a busy machine
def test_states_in_parts_go_on_on_two_workers_three_and_one(tmp_path):
    """The checkpoint has whole states, in which each worker finds its parts.

    Takes three jobs of 8 s each. Nothing else shows that what was gathered from two workers is what
    three of them cut or deal anew, or one keeps.
    """
    chief = str(tmp_path / "run")
    stopped = testing.run_workers(_stop_in_parts, args=([chief, "/proc/none"],))
    assert stopped == [["Stop: "] * 4] * 2
    copied = str(tmp_path / "copied")
    for name in _PARTED:
        shutil.copytree(f"{chief}-{name}", f"{copied}-{name}")
    of_three = testing.run_workers(
        _rest, workers=3, args=(copied,), kwargs={"sharded_optimizer": True}
    )
    [(wholes, of_one)] = testing.run_workers(_wholes_and_rests_of_one, workers=1, args=(chief,))
    for rests in (of_one, *of_three):
        for whole, rest in zip(wholes, rests, strict=True):
            for one, other in zip(whole[0], rest[0], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
            for name, values in whole[1].items():
                np.testing.assert_allclose(values, rest[1][name], rtol=1e-12, atol=1e-13)


def _stop(device: str, folder: str, records: str | None) -> Any:
    return _fit(device, folder, stop_at=8, records=records)


def _whole_and_rest(device: str, folder: str, records: str | None) -> list[Any]:
    return [_fit(device, where, records=records) for where in (None, folder)]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ((2, "cpu"), (1, "cpu"), "records"),
        ((1, "4xcpu"), (1, "3xcpu"), "arrays"),
        ((1, "4xcpu"), (2, "cpu"), "grain"),
    ],
    ids=["2 workers to 1, records of a file", "4 replicas to 3", "4 replicas to 2 workers, Grain"],
)
def test_another_world_goes_on_with_the_same_examples(tmp_path, before, after, kind):
    folder, records = str(tmp_path / "run"), None
    if kind == "grain":
        pytest.importorskip("grain", reason="needs the extra grain")
        records = "grain"
    if kind == "records":
        records = str(tmp_path / "numbers")
        pathlib.Path(records).write_text("".join(f"{number}\n" for number in range(19)))
    workers, device = before
    stopped = testing.run_workers(_stop, workers=workers, args=(device, folder, records))
    assert stopped == ["Stop: "] * workers
    workers, device = after
    args = (device, folder, records)
    for whole, rest in testing.run_workers(_whole_and_rest, workers=workers, args=args):
        for one, other in zip(whole[0], rest[0], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
        for name, values in whole[1].items():
            np.testing.assert_allclose(values, rest[1][name], rtol=1e-12, atol=1e-13)
