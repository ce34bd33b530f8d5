"""Is each example used exactly once an epoch, by whatever number of workers and replicas?

Every example carries its number as a target, and a metric counts how often it has seen each. The
counts are sums over all replicas of all workers; its result is 0 where each number came once.
"""

from __future__ import annotations

import importlib.util
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import testing

ROWS = 23  # no multiple of anything
NUMBERS = np.arange(ROWS)
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
LIMIT_SECS = 400.0
pytestmark = pytest.mark.timeout(500)  # of the pair of workers, who go through several kinds


class Ledger(keras.metrics.Metric):
    """Counts how often it has seen each number; 0 where each came once."""

    def __init__(self, name="ledger"):
        super().__init__(name=name)
        self.counts = self.add_weight(shape=(ROWS,), initializer="zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        numbers = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
        self.counts.assign_add(tf.reduce_sum(tf.one_hot(numbers, ROWS), axis=0))

    def result(self):
        return tf.reduce_sum(tf.square(self.counts - 1))


def make_model(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-6), "mse", metrics=[Ledger()])
    return model


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(6 * index, 6 * index + 6)
        return X[rows], NUMBERS[rows]


class Rows(tfdist.RowsDataset):
    def get_rows(self, indices):
        return X[indices], NUMBERS[indices]


class Pairs:
    """The same examples, for Grain."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return X[index], NUMBERS[index]


def of_grain(seed=2):
    import grain

    return grain.MapDataset.source(Pairs()).shuffle(seed=seed)


def dataset(rows=slice(None), size=6):
    return tf.data.Dataset.from_tensor_slices((X[rows], NUMBERS[rows])).batch(size)


def files(folder):
    """Two files for whatever number of workers, under a policy that would deal them out."""
    paths = []
    for index in range(2):
        paths.append(f"{folder}/{tfdist.__name__}_{index}.txt")
        half = NUMBERS[index::2]
        tf.io.write_file(paths[-1], "\n".join(map(str, half)))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE

    def parse(line):
        number = tf.strings.to_number(line, tf.int64)
        return tf.gather(X, number), number

    return tf.data.TextLineDataset(paths).map(parse).batch(6).with_options(options)


def example(number):
    return tf.gather(X, number), number


# Name, what is given for each rank of so many workers.
WHOLE = {
    "arrays": lambda: {"x": X, "y": NUMBERS, "batch_size": 6},
    "batches of one row": lambda: {"x": X, "y": NUMBERS, "batch_size": 1},
    "dataset": lambda: {"x": dataset().shuffle(4, seed=2)},
    "mapped": lambda: {"x": tf.data.Dataset.range(ROWS).shuffle(9, seed=2).map(example).batch(6)},
    "py dataset": lambda: {"x": Batches()},
    "rows": lambda: {"x": Rows(num_rows=ROWS, batch_size=6)},
}
if importlib.util.find_spec("grain"):
    WHOLE["rows of Grain"] = lambda: {"x": of_grain().batch(6)}
    WHOLE["batches of Grain"] = lambda: {"x": of_grain().to_iter_dataset().batch(6)}


def shares(rank, workers):
    """Shares that end at different steps, one of which is empty from the first step on."""
    cuts = [0, 3, *[ROWS] * (workers - 1)]
    rows = slice(cuts[rank], cuts[rank + 1])
    return {
        "shares of a dataset": {"x": dataset(rows, size=4 - rank)},
        "shares of arrays": {"x": X[rank::workers], "y": NUMBERS[rank::workers], "batch_size": 7},
    }


def ledger_of(strategy, arguments, **kwargs):
    """Returns what the ledger said after each epoch of training and validation, and evaluation."""
    model = make_model(strategy)
    shuffles = {"shuffle": not isinstance(arguments["x"], tf.data.Dataset)}
    validation = arguments["x"] if "y" not in arguments else (arguments["x"], arguments["y"])
    sizes = {"validation_batch_size": arguments["batch_size"]} if "y" in arguments else {}
    history = tfdist.fit(
        model, **arguments, epochs=2, verbose=0, validation_data=validation, **shuffles, **sizes,
        **kwargs,
    ).history
    scores = tfdist.evaluate(model, **arguments, verbose=0, return_dict=True, **kwargs)
    return [*history["ledger"], *history["val_ledger"], scores["ledger"]]


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        pytest.param(kind, device, marks=() if row == ("arrays", "2xcpu") else pytest.mark.slow)
        for row in itertools.product(WHOLE, ["2xcpu", "4xcpu"])
        for kind, device in [row]
    ],
)
def test_replicas_use_each_example_once(kind, device):
    strategy = tfdist.get_strategy(device, cluster=None)
    assert ledger_of(strategy, WHOLE[kind]()) == [0.0] * 5


def test_the_ledger_tells_of_what_is_lost_and_used_twice():
    strategy = tfdist.get_strategy("cpu", cluster=None)
    twice = {"x": np.concatenate([X[1:], X[1:2]]), "y": np.concatenate([NUMBERS[1:], NUMBERS[1:2]])}
    assert ledger_of(strategy, {**twice, "batch_size": 6}) == [2.0] * 5


def work(folder, kinds):
    """What each worker does: the ledgers of all kinds, by name."""
    import warnings

    warnings.simplefilter("ignore")
    strategy, cluster = tfdist.get_strategy("cpu"), tfdist.detect_cluster()
    assert strategy.num_replicas_in_sync == cluster.size > 1
    found = {name: ledger_of(strategy, WHOLE[name]()) for name in kinds if name in WHOLE}
    for name, arguments in shares(cluster.rank, cluster.size).items():
        if name in kinds:
            found[name] = ledger_of(strategy, arguments, already_sharded=True)
    if "files" in kinds:
        found["files"] = ledger_of(strategy, {"x": files(folder)})
        paths = [f"{folder}/{tfdist.__name__}_{index}.txt" for index in range(2)]
        records = tfdist.from_files(
            paths, lambda line: example(tf.strings.to_number(line, tf.int64)), batch_size=6,
            shuffle=True, format="text",
        )
        found["records"] = ledger_of(strategy, {"x": records})
    if "predictions" in kinds:
        found["predictions"] = predictions(strategy, cluster)
    if "refusals" in kinds:
        found["refusals"] = refusals(strategy, cluster)
    return found


def predictions(strategy, cluster):
    """Rows of all examples in their order, or of this worker's own."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    wanted = X @ np.asarray(model.layers[0].kernel)
    own = slice(cluster.rank, None, cluster.size)
    given = [(X, wanted, {}), (X[own], wanted[own], {"already_sharded": True})]
    found = [(tfdist.predict(model, x, batch_size=6, verbose=0, **kw), y) for x, y, kw in given]
    return [rows.shape == y.shape and float(np.abs(rows - y).max()) < 1e-6 for rows, y in found]


def refusals(strategy, cluster):
    """What is said to workers that would not read the same; the last one is told while training."""
    rank = cluster.rank

    def generator():
        rows = np.random.default_rng(rank).permutation(ROWS)
        yield from ((X[part], NUMBERS[part]) for part in np.array_split(rows, 4))

    def numbers():
        order = np.random.default_rng(rank).permutation(ROWS)
        return tf.data.Dataset.from_generator(
            lambda: iter(order), output_signature=tf.TensorSpec([], tf.int64)
        )

    given = {
        "contents": {"x": X + rank, "y": NUMBERS},
        "sizes": {"x": X[: 10 + rank], "y": NUMBERS[: 10 + rank]},
        "seeds": {"x": dataset().shuffle(4, seed=rank)},
        "endless": {"x": dataset().repeat() if rank else dataset(), "already_sharded": True,
                    "steps_per_epoch": 2},
        "generator": {"x": generator()},
        **({"Grain": {"x": of_grain(rank).batch(6)}} if "rows of Grain" in WHOLE else {}),
        "elements of maps": {"x": numbers().map(example).batch(6)},
    }
    said = {}
    for name, arguments in given.items():
        try:
            shuffles = {"shuffle": "y" in arguments}
            tfdist.fit(make_model(strategy), **shuffles, **arguments, verbose=0)
            said[name] = "nothing"
        except (ValueError, RuntimeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


KINDS = (*WHOLE, "files", "shares of a dataset", "shares of arrays", "predictions")


def assert_ledgers_are_even(results, kinds):
    for result in results:
        names = [*kinds, "records"] if "files" in kinds else kinds
        for name in names:
            if name not in ("predictions", "refusals"):
                assert result[name] == [0.0] * 5, name


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    kinds = (*KINDS, "refusals")
    folder = str(tmp_path_factory.mktemp("ledger"))
    return testing.run_workers(work, args=(folder, kinds), timeout_secs=LIMIT_SECS), kinds


@pytest.mark.slow
def test_two_workers_use_each_example_once_of_every_kind(two_workers):
    assert_ledgers_are_even(*two_workers)


@pytest.mark.slow
def test_workers_get_predictions_in_the_order_of_their_inputs(two_workers):
    for result in two_workers[0]:
        assert result["predictions"] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("contents", "ValueError: The workers were given different data: worker 0: contents is"),
        ("sizes", "number of examples is 10; worker 1: number of examples is 11"),
        ("seeds", "seeds is"),
        ("endless", "{0: '4 batches', 1: 'endless'} by worker"),
        ("generator", "RuntimeError: The workers have read different batches"),
        pytest.param(
            "Grain", "contents is",
            marks=pytest.mark.skipif("rows of Grain" not in WHOLE, reason="needs the extra grain"),
        ),
        ("elements of maps", "RuntimeError: The workers have read different batches"),
    ],
)
def test_workers_that_would_read_something_else_are_refused(kind, words, two_workers):
    for result in two_workers[0]:
        assert words in result["refusals"][kind]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_workers_use_each_example_once_of_every_kind(tmp_path):
    results = testing.run_workers(
        work, workers=3, args=(str(tmp_path), KINDS), timeout_secs=2 * LIMIT_SECS
    )
    assert_ledgers_are_even(results, KINDS)
    assert all(result["predictions"] == [True, True] for result in results)
