"""Do callbacks on two real workers do what they do on one device, and clash on nothing?

One pair of workers goes through all scenarios; the oracle is stock Keras on one device, here.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import http.server
import io
import os
import threading

import keras
import numpy as np
import pytest

import tfdist
from tfdist import testing

ROWS, FEATURES, CLASSES, EPOCHS = 22, 4, 3, 6
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(ROWS, FEATURES))
Y = _RNG.integers(0, CLASSES, size=ROWS)
FIT = {"batch_size": 5, "shuffle": False, "verbose": 0, "validation_data": (X[:9], Y[:9])}
LIMIT_SECS = 400.0
pytestmark = pytest.mark.timeout(500)  # of the pair of workers, who go through all scenarios


# ---- the scenarios, run by each worker, and by stock Keras --------------------------------------


class Api:
    """Stock Keras on one device, or tfdist as one of several workers."""

    def __init__(self, strategy=None, rank=0):
        self.strategy, self.rank, self.is_stock = strategy, rank, strategy is None

    def fit(self, model, *args, **kwargs):
        run = model.fit if self.is_stock else lambda *a, **k: tfdist.fit(model, *a, **k)
        return run(*args, **{**FIT, **kwargs})

    def model(self, optimizer=None, **options):
        keras.utils.set_random_seed(7)
        with contextlib.nullcontext() if self.is_stock else self.strategy.scope():
            model = keras.Sequential(
                [
                    keras.Input((FEATURES,)),
                    keras.layers.Dense(5, activation="tanh"),
                    keras.layers.Dense(CLASSES, activation="softmax"),
                ]
            )
            model.compile(
                optimizer() if optimizer else keras.optimizers.SGD(0.5, momentum=0.9),
                "sparse_categorical_crossentropy",
                metrics=["accuracy"],
                **options,
            )
        return model

    def on(self, rank, hook, action):
        """A callback that acts on one worker only; on one device it acts as the chief."""
        callback = keras.callbacks.LambdaCallback()
        setattr(callback, hook, lambda *args, **kwargs: action() if self.rank == rank else None)
        return callback


def outcome(model, history=None):
    found = {
        "weights": model.get_weights(),
        "rate": float(np.asarray(model.optimizer.learning_rate)),
        "iterations": int(np.asarray(model.optimizer.iterations)),
    }
    return found | ({"history": history.history, "epochs": history.epoch} if history else {})


def everything(api, folder, url):
    """A fit with nearly all of Keras's callbacks at once, which plateaus and stops early."""
    kinds = keras.callbacks
    given = [
        kinds.ModelCheckpoint(f"{folder}/{{epoch}}.keras"),
        kinds.ModelCheckpoint(f"{folder}/best.weights.h5", save_weights_only=True,
                              save_best_only=True, verbose=1),
        kinds.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        kinds.CSVLogger(f"{folder}/log.csv"),
        kinds.TensorBoard(f"{folder}/board", histogram_freq=1),
        kinds.RemoteMonitor(url, send_as_json=True),
        kinds.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        kinds.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=0.5),
        kinds.TerminateOnNaN(),
        kinds.EarlyStopping("loss", patience=2, min_delta=0.4, restore_best_weights=True),
        kinds.ProgbarLogger(),
        kinds.History(),
    ]
    model = api.model()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        history = api.fit(model, X, Y, epochs=EPOCHS, callbacks=given, verbose=1)
    return {**outcome(model, history), "said": said.getvalue(), "path": given[0].filepath}


def averaging():
    return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)


def averages(api, folder):
    model = api.model(averaging)
    given = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(f"{folder}/ema.weights.h5", save_weights_only=True),
    ]
    return outcome(model, api.fit(model, X, Y, epochs=2, callbacks=given))


def saves_often(api, folder):
    """Saves every 3 of 5 batches an epoch, and names the files by batch."""
    model = api.model()
    given = [
        keras.callbacks.ModelCheckpoint(
            f"{folder}/{{epoch}}-{{batch}}-{{loss:.6f}}.weights.h5", save_weights_only=True,
            save_freq=3,
        ),
        keras.callbacks.BackupAndRestore(f"{folder}/often", save_freq=4, delete_checkpoint=False),
    ]
    return outcome(model, api.fit(model, X, Y, epochs=3, callbacks=given))


def interrupted(api, folder):
    """Ends in the third epoch, then goes on in a second `fit` from the backup."""
    model = api.model()

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyError("enough")

    def backup():
        return keras.callbacks.BackupAndRestore(f"{folder}/resume")

    with contextlib.suppress(KeyError):
        api.fit(model, X, Y, epochs=4, callbacks=[backup(), Stop()])
    model = api.model()  # as a new process would
    history = api.fit(model, X, Y, epochs=4, callbacks=[backup()])
    return outcome(model, history)


def not_a_number(api, folder):
    """A value that is not a number among the last rows of the third batch."""
    broken = X.copy()
    broken[14] = np.nan
    model = api.model()
    history = api.fit(model, broken, Y, epochs=2, callbacks=[keras.callbacks.TerminateOnNaN()])
    return {"epochs": history.epoch, "iterations": outcome(model)["iterations"]}


def stops(api, folder):
    """One worker wants to stop after the second batch of the second epoch."""
    model, seen = api.model(), []

    def stop():
        seen.append(1)
        if len(seen) == 7:
            model.stop_training = True

    rank = 0 if api.is_stock else 1
    given = [api.on(rank, "on_train_batch_end", stop)]
    history = api.fit(model, X, Y, epochs=3, callbacks=given)
    return {**outcome(model, history), "stop_training": model.stop_training}


def sets_rate(api, folder):
    """Each worker sets a learning rate of its own: the chief's holds."""
    model = api.model()

    def set_rate(*args, **kwargs):
        model.optimizer.learning_rate = 0.25 * (api.rank + 1)

    given = [keras.callbacks.LambdaCallback(on_train_batch_begin=set_rate)]
    return outcome(model, api.fit(model, X, Y, epochs=2, callbacks=given))


def sets_weights(api, folder):
    """One worker sets weights at the end of an epoch: the chief, who does not, holds its own."""
    model = api.model()
    kernel, weights = model.layers[0].kernel, model.get_weights()
    zero = api.on(1, "on_epoch_end", lambda: model.set_weights([w * 0 for w in weights]))
    one = api.on(0, "on_epoch_begin", lambda: kernel.assign(np.ones((FEATURES, 5))))
    return outcome(model, api.fit(model, X, Y, epochs=2, callbacks=[zero, one]))


def sets_weights_between(api, folder):
    """One worker sets weights between two batches."""
    model = api.model()
    bad = api.on(1, "on_train_batch_end", lambda: model.layers[0].kernel.assign(
        np.ones((FEATURES, 5))))
    try:
        api.fit(model, X, Y, epochs=2, callbacks=[bad])
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def evaluates(api, folder):
    """`evaluate` and `predict` with callbacks, one of which listens on one worker only."""
    model, seen = api.model(), []
    given = [api.on(0, "on_test_batch_end", lambda: seen.append(1))]
    if api.is_stock:
        scores = model.evaluate(X, Y, batch_size=5, verbose=0, callbacks=given)
        rows = model.predict(X, batch_size=5, verbose=0)
    else:
        scores = tfdist.evaluate(model, X, Y, batch_size=5, verbose=0, callbacks=given)
        rows = tfdist.predict(model, X, batch_size=5, verbose=0)
    return {"scores": scores, "rows": rows}


QUICK = {
    "not_a_number": not_a_number,
    "stops": stops,
    "sets_rate": sets_rate,
}
SLOW = {
    "averages": averages,
    "saves_often": saves_often,
    "interrupted": interrupted,
    "sets_weights": sets_weights,
    "evaluates": evaluates,
}


def run_all(api, folder, url, scenarios):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    results = {name: scenario(api, folder) for name, scenario in scenarios.items()}
    if scenarios is QUICK:
        results["everything"] = everything(api, folder, url)
    return results


def work(folder, url, is_quick):
    """What each of the two workers does."""
    import warnings

    warnings.simplefilter("ignore")
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    api = Api(strategy, tfdist.detect_cluster().rank)
    results = run_all(api, folder, url, QUICK if is_quick else SLOW)
    if not is_quick:
        results["sets_weights_between"] = sets_weights_between(api, folder)
    return results


# ---- the checks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posts():
    """A server of the test's own that counts what is sent to it."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join()


@dataclasses.dataclass(frozen=True)
class Told:
    """What two workers and stock Keras came to, and wrote.

    Attributes:
        workers: What each worker returned, in rank order.
        stock: What stock Keras gave on one device.
        posts: What the workers sent to the server.
        folders: Where the workers ("workers") and Keras ("stock") wrote, and the place for the
            workers' temporary files.
    """

    workers: list
    stock: dict
    posts: list
    folders: dict


def tell(url, received, tmp_path_factory, scenarios):
    """Lets two workers and stock Keras go through the same scenarios."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("workers", "stock", "temporary")}
    before = len(received)
    results = testing.run_workers(
        work, args=(str(folders["workers"]), url, scenarios is QUICK), timeout_secs=LIMIT_SECS,
        env={"TMPDIR": str(folders["temporary"])},
    )
    sent = received[before:]
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    try:
        wanted = run_all(Api(), str(folders["stock"]), url, scenarios)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    return Told(results, wanted, sent, folders)


@pytest.fixture(scope="module")
def quick(posts, tmp_path_factory):
    return tell(*posts, tmp_path_factory, QUICK)


@pytest.fixture(scope="module")
def slow(posts, tmp_path_factory):
    return tell(*posts, tmp_path_factory, SLOW)


def assert_same(found, wanted):
    if isinstance(wanted, dict):
        assert sorted(found) == sorted(wanted)
        for name in wanted:
            assert_same(found[name], wanted[name])
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_workers_end_as_one_device_does(name, quick):
    for result in quick.workers:
        assert_same(result[name], quick.stock[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_workers_end_as_one_device_does_in_the_rest(name, slow):
    for result in slow.workers:
        assert_same(result[name], slow.stock[name])


@pytest.mark.slow
def test_everything_at_once_ends_as_on_one_device(quick):
    numbers = ("weights", "rate", "iterations", "history", "epochs")
    wanted = {name: quick.stock["everything"][name] for name in numbers}
    for result in quick.workers:
        assert_same({name: result["everything"][name] for name in numbers}, wanted)
    assert 1 < len(wanted["epochs"]) < EPOCHS, "the scenario has to stop early"


def files_under(folder):
    """Returns the files' paths, with what differs from run to run left out."""
    paths = (os.path.relpath(os.path.join(top, name), folder)
             for top, _, names in os.walk(folder) for name in names)
    return sorted("board event" if "events.out" in path else path for path in paths)


def assert_only_the_chief_wrote(told):
    found, wanted = (files_under(told.folders[name]) for name in ("workers", "stock"))
    assert found == wanted
    assert not [name for name in os.listdir(told.folders["temporary"]) if "tfdist-" in name]


@pytest.mark.slow
def test_only_the_chief_writes_files(quick):
    assert_only_the_chief_wrote(quick)
    files = {"1.keras", "best.weights.h5", "backup/training_metadata.json", "log.csv"}
    assert files <= {*files_under(quick.folders["workers"])}
    paths = [os.path.dirname(result["everything"]["path"]) for result in quick.workers]
    assert paths == [str(quick.folders["workers"])] * 2, "the callbacks are as they were"


@pytest.mark.slow
def test_only_the_chief_writes_files_in_the_rest(slow):
    assert_only_the_chief_wrote(slow)
    assert any(name.startswith("1-3-") for name in files_under(slow.folders["workers"]))


def assert_checkpoints_agree(told):
    for name in files_under(told.folders["stock"]):
        models = []
        for folder in (told.folders["workers"], told.folders["stock"]):
            if name.endswith(".keras"):
                models.append(keras.models.load_model(folder / name))
            elif name.endswith(".weights.h5"):
                models.append(Api().model(averaging if "ema" in name else None))
                models[-1].optimizer.build(models[-1].trainable_variables)
                models[-1].load_weights(folder / name)
        if models:
            assert_same(*[model.get_weights() for model in models])
            assert_same(*[[np.asarray(v) for v in m.optimizer.variables] for m in models])


@pytest.mark.slow
def test_checkpoints_are_those_of_one_device(quick):
    assert_checkpoints_agree(quick)


@pytest.mark.slow
def test_checkpoints_are_those_of_one_device_in_the_rest(slow):
    assert_checkpoints_agree(slow)


@pytest.mark.slow
def test_log_files_are_those_of_one_device(quick):
    rows = []
    for name in ("workers", "stock"):
        with open(quick.folders[name] / "log.csv") as file:
            rows.append(list(csv.reader(file)))
    assert rows[0][0] == rows[1][0]
    numbers = [[[float(value) for value in row] for row in table[1:]] for table in rows]
    assert_same(*numbers)


@pytest.mark.slow
def test_only_the_chief_speaks(quick):
    chief, other = (result["everything"]["said"] for result in quick.workers)
    assert "Epoch 1/6" in chief
    assert "saving model to" in chief
    assert other == ""
    assert len(quick.posts) == len(quick.stock["everything"]["epochs"]), "one post an epoch"


@pytest.mark.slow
def test_weights_set_between_batches_on_one_worker_end_the_run(slow):
    for result in slow.workers:
        text = result["sets_weights_between"]
        assert "differ before on_test_begin" in text
        assert "dense/kernel" in text


@pytest.mark.slow
def test_a_worker_whose_callback_fails_ends_the_job():
    with pytest.raises(RuntimeError, match=r"(?s)worker 1.*ZeroDivisionError: in a callback"):
        testing.run_workers(failing_on_one_worker, timeout_secs=LIMIT_SECS)


def failing_on_one_worker():
    api = Api(tfdist.get_strategy("cpu"), tfdist.detect_cluster().rank)

    def fail():
        raise ZeroDivisionError("in a callback")

    model = api.model()
    api.fit(model, X, Y, epochs=3, callbacks=[api.on(1, "on_epoch_end", fail)])


# ---- one process -----------------------------------------------------------------------------
