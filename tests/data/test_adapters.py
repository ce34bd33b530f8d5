"""Does every replica get its rows of the batches that Keras would make, each row once?

The oracle is Keras's own adapter of the same data: its batches are the global ones.
"""

from __future__ import annotations

import itertools
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf
from keras.src.trainers.data_adapters import get_data_adapter

from tfdist.communication.share import Share, bounds
from tfdist.data import already_sharded
from tfdist.data.adapters import make_source
from tfdist.data.errors import told_plainly
from tfdist.data.order import epoch_order, worker_examples
from tfdist.data.pipelines.tf_data import dataset_source

ROWS = 11
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype("float32")
Y = RNG.integers(0, 2, size=ROWS)
WEIGHTS = RNG.uniform(size=ROWS)
EVERY_WORLD = [(1, 1), (1, 4), (3, 1), (2, 2)]  # workers, replicas of each
WORLDS = {"numpy": EVERY_WORLD, "dataset": EVERY_WORLD, "py dataset, processes": [(2, 1)]}


class Batches(keras.utils.PyDataset):
    """Batches of 4, the last one of 3."""

    def __init__(self, *, structure=lambda rows: (X[rows], Y[rows]), **kwargs):
        super().__init__(**kwargs)
        self.structure = structure

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.structure(slice(4 * index, 4 * index + 4))


def generator(structure=lambda rows: (X[rows], Y[rows])):
    return (structure(slice(start, start + 4)) for start in range(0, ROWS, 4))


def dataset(structure=(X, Y)):
    return tf.data.Dataset.from_tensor_slices(structure).batch(4)


def ragged(rows=slice(None)):
    lengths = (np.arange(ROWS) % 3)[rows]
    return tf.ragged.constant([[float(i)] * n for i, n in enumerate(lengths)])


def sparse():
    return tf.sparse.from_dense(X * (X > 0.5))


TEXTS = np.array([f"text {i}" for i in range(ROWS)])

# Name, what is given to `fit`, by name of the argument.
KINDS = {
    "numpy": lambda: {"x": X, "y": Y},
    "numpy, weights": lambda: {"x": X, "y": Y, "sample_weight": WEIGHTS},
    "numpy, class weights": lambda: {"x": X, "y": Y, "class_weight": {0: 1.0, 1: 3.0}},
    "numpy, x alone": lambda: {"x": X},
    "tensors": lambda: {"x": tf.constant(X), "y": tf.constant(Y)},
    "float16": lambda: {"x": X.astype("float16"), "y": Y},
    "texts": lambda: {"x": tf.constant(TEXTS), "y": Y},
    "pandas": lambda: {"x": pd.DataFrame(X), "y": pd.Series(Y)},
    "scipy sparse": lambda: {"x": scipy.sparse.csr_matrix(X * (X > 0.5)), "y": Y},
    "tf sparse": lambda: {"x": sparse(), "y": Y},
    "ragged": lambda: {"x": ragged(), "y": Y},
    "dict": lambda: {"x": {"a": X, "b": X[:, :1]}, "y": Y},
    "nested": lambda: {"x": {"a": (X, X[:, :1]), "b": [X]}, "y": (Y, {"c": X})},
    "dict of outputs": lambda: {"x": X, "y": {"p": Y, "q": X}, "sample_weight": WEIGHTS},
    "dataset": lambda: {"x": dataset()},
    "dataset, x alone": lambda: {"x": dataset(X)},
    "dataset of dicts": lambda: {"x": dataset(({"a": X, "b": X}, Y))},
    "dataset, weights": lambda: {"x": dataset((X, Y, WEIGHTS))},
    "dataset, class weights": lambda: {"x": dataset(), "class_weight": {0: 1.0, 1: 3.0}},
    "dataset of texts": lambda: {"x": dataset((TEXTS, Y))},
    "dataset, ragged": lambda: {"x": dataset((ragged(), Y))},
    "dataset, sparse": lambda: {"x": dataset((sparse(), Y))},
    "dataset of no known size": lambda: {"x": dataset().filter(lambda x, y: True)},
    "py dataset": lambda: {"x": Batches()},
    "py dataset, threads": lambda: {"x": Batches(workers=3)},
    "py dataset, dicts": lambda: {"x": Batches(structure=lambda r: ({"a": X[r]}, Y[r]))},
    "generator": lambda: {"x": generator()},
    "generator, weights": lambda: {"x": generator(lambda r: (X[r], Y[r], WEIGHTS[r]))},
    "generator, x alone": lambda: {"x": generator(lambda r: (X[r],))},
    "generator, no targets": lambda: {"x": generator(lambda r: (X[r], None))},
    "generator, no weights": lambda: {"x": generator(lambda r: (X[r], Y[r], None))},
}
QUICK = (
    "numpy", "numpy, weights", "scipy sparse", "tf sparse", "nested", "dataset", "dataset, ragged",
    "dataset of no known size", "py dataset, threads", "generator, no targets",
)
# A worker's loading processes are forked, and TensorFlow's threads do not survive that safely.
PROCESSES = {"py dataset, processes": lambda: {"x": Batches(workers=2, use_multiprocessing=True)}}


def dense(value):
    """Makes an array of a tensor of any kind; None stays, and so does Keras's way to say None."""
    if value is None or isinstance(value, tf.experimental.Optional):
        return None
    if isinstance(value, tf.RaggedTensor):
        return value.to_tensor(-1.0, shape=[None, 3]).numpy()
    if isinstance(value, tf.SparseTensor):
        return tf.sparse.to_dense(tf.sparse.reorder(value)).numpy()
    return value.numpy()


def arrays(structure):
    return keras.tree.map_structure(dense, structure)


def batches_of_keras(arguments):
    """Returns the batches of Keras's adapter for the same data."""
    batch_size = 4 if "y" in arguments or isinstance(arguments["x"], np.ndarray) else None
    adapter = get_data_adapter(**arguments, batch_size=batch_size, shuffle=False)
    adapter.on_epoch_begin()
    batches = [arrays(batch) for batch in adapter.get_tf_dataset()]
    adapter.on_epoch_end()
    return batches


def shares(workers, local):
    return [Share(rank * local, local, workers * local) for rank in range(workers)]


def batches_of_tfdist(make_arguments, workers, local, **kwargs):
    """Returns the global batches, put together again of the rows of all replicas."""
    streams = []
    for share in shares(workers, local):
        arguments = make_arguments()
        size = 4 if "y" in arguments or isinstance(arguments["x"], np.ndarray) else None
        source = make_source(**arguments, batch_size=size, share=share, **kwargs)
        source.on_pass_begin()
        streams.append(list(itertools.islice(source.stream(0, 0), 3)))
        source.on_pass_end()
    return [joined(step) for step in zip(*streams, strict=True)]


def joined(step):
    """Puts the rows of a step's replicas together, without the rows that do not count."""
    size = int(step[0][0])
    parts = [part for element in step for part in element[1]]
    kept = []
    for replica, part in enumerate(parts):
        start, stop = bounds(size, replica, len(parts))
        kept.append(keras.tree.map_structure(
            lambda v, n=stop - start: None if v is None else dense(v)[:n], part
        ))
    return keras.tree.map_structure(
        lambda *values: None if values[0] is None else np.concatenate(values), *kept
    )


def assert_same(found, wanted):
    keras.tree.assert_same_structure(found, wanted)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
        if other is None:
            assert one is None
        else:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow)
        for kind in {**KINDS, **PROCESSES}
    ],
)
def test_replicas_get_the_batches_of_keras(kind):
    make = {**KINDS, **PROCESSES}[kind]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*fork.*", category=RuntimeWarning)
        wanted = batches_of_keras(make())
        assert len(wanted) == 3
        for workers, local in WORLDS.get(kind, [(1, 2), (2, 1)]):
            found = batches_of_tfdist(make, workers, local)
            for one, other in zip(found, wanted, strict=True):
                assert_same(one, other)


@pytest.mark.parametrize("kind", ["numpy", "dataset", "py dataset", "generator", "ragged"])
def test_spec_has_an_open_number_of_rows(kind):
    source = make_source(**KINDS[kind](), share=Share(0, 2, 2), batch_size=None)
    for leaf in keras.tree.flatten(source.spec):
        assert leaf.shape[0] is None or isinstance(leaf, tf.RaggedTensorSpec)


def test_size_of_a_dataset_is_known_where_classes_are_weighed():
    source = make_source(**KINDS["dataset, class weights"](), share=ONE)
    assert source.batch_size() == 4


def test_spec_has_no_place_for_what_is_not_there():
    arguments = KINDS["generator, no weights"]()
    source = make_source(**arguments, share=Share(0, 1, 1))
    assert source.spec[2] is None


ONE = Share(0, 1, 1)


def ids_of_passes(shuffle, *, passes=2, seed=3, size=4, share=ONE):
    source = make_source(
        np.arange(ROWS), share=share, batch_size=size, shuffle=shuffle, seed=seed
    )
    stream = itertools.islice(source.stream(0, 0), passes * source.num_batches)
    batches = [element[1][0].numpy().tolist() for element in stream]
    return [batches[i : i + source.num_batches] for i in range(0, len(batches), source.num_batches)]


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("size", [1, 4, 11, 32])
def test_each_example_comes_once_in_a_pass(shuffle, size):
    first, second = ids_of_passes(shuffle, size=size)
    for one_pass in (first, second):
        assert sorted(itertools.chain(*one_pass)) == list(range(ROWS))
    assert (first == second) == (shuffle is False or (shuffle == "batch" and size > 4))


def test_shuffled_arrays_come_in_epoch_order():
    for epoch, batches in enumerate(ids_of_passes(True)):
        order = epoch_order(ROWS, seed=3, epoch=epoch).tolist()
        assert list(itertools.chain(*batches)) == order


def test_shuffled_batches_keep_their_neighbours():
    for batches in ids_of_passes("batch"):
        assert sorted(batches[:2]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert batches[2] == [8, 9, 10]


def test_a_stream_can_begin_anywhere():
    source = make_source(np.arange(ROWS), share=Share(0, 1, 1), batch_size=4, shuffle=True, seed=3)
    whole = [e[1][0].numpy().tolist() for e in itertools.islice(source.stream(0, 0), 9)]
    rest = [e[1][0].numpy().tolist() for e in itertools.islice(source.stream(1, 2), 4)]
    assert rest == whole[5:]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_examples_are_those_of_the_stream(workers):
    order = epoch_order(ROWS, seed=3, epoch=0)
    for share in shares(workers, 1):
        told = worker_examples(order, batch_size=4, share=share).tolist()
        seen = list(itertools.chain(*ids_of_passes(True, passes=1, share=share)[0]))
        assert [number for number in seen if number in told] == told


def test_a_shuffled_py_dataset_has_an_order_of_its_own_each_pass():
    def passes(seed):
        source = make_source(
            Batches(structure=lambda r: (np.arange(ROWS)[r],)), share=Share(0, 1, 1),
            shuffle=True, seed=seed,
        )
        found = []
        for _ in range(4):
            source.on_pass_end()
            found.append([e[1][0][0].numpy().tolist() for e in source.stream(0, 0)])
        return found

    first = passes(seed=1)
    assert all(sorted(itertools.chain(*one)) == list(range(ROWS)) for one in first)
    assert len({str(one) for one in first}) > 1
    assert passes(seed=1) == first != passes(seed=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"x": X, "batch_size": 0}, "batch_size=0"),
        (lambda: {"x": X[:0]}, "no examples"),
        (lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y))}, r"not batched.*\.batch\("),
        (lambda: {"x": X, "y": Y[:-1]}, "same number of samples"),
        (lambda: {"x": Batches(), "y": Y, "shuffle": True}, "PyDataset brings its targets"),
        (lambda: {"x": dataset(), "y": Y}, "`y`"),
        (lambda: {"x": 3}, "Unrecognized"),
    ],
)
def test_data_that_cannot_be_used_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make_source(**make(), share=Share(0, 2, 2))


def test_a_distributed_dataset_is_refused():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with pytest.raises(ValueError, match="distributed already"):
        make_source(strategy.experimental_distribute_dataset(dataset()), share=Share(0, 2, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_of_no_rows_is_refused(workers):
    empty = tf.data.Dataset.from_tensors(X).concatenate(tf.data.Dataset.from_tensors(X[:0]))
    source = make_source(empty, share=Share(0, 1, workers))
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds no examples"):
        list(source.stream(0, 0))


@pytest.mark.parametrize("policy", ["AUTO", "DATA", "FILE", "OFF"])
def test_a_dataset_is_the_global_one_whatever_its_policy(policy):
    def make():
        options = tf.data.Options()
        auto_shard_policy = getattr(tf.data.experimental.AutoShardPolicy, policy)
        options.experimental_distribute.auto_shard_policy = auto_shard_policy
        return {"x": dataset().with_options(options)}

    found = batches_of_tfdist(make, 2, 1)
    for one, other in zip(found, batches_of_keras(make()), strict=True):
        assert_same(one, other)


def test_fewer_files_than_workers(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(map(str, range(ROWS))))
    found = batches_of_tfdist(
        lambda: {"x": tf.data.TextLineDataset([str(path)]).batch(4)}, 3, 1
    )
    assert np.concatenate(found).tolist() == [str(i).encode() for i in range(ROWS)]


def test_filling_can_be_left_to_others():
    source = dataset_source(dataset(X[:1]), share=Share(0, 2, 2), fill_empty=False)
    (element,) = source.stream(0, 0)
    assert [len(part) for part in element[1]] == [1, 0]


# ---- each worker's own share -----------------------------------------------------------------


def elements(arguments, count, *, local=1, **kwargs):
    source = make_source(**arguments, share=Share(0, local, local), **kwargs)
    return source, list(itertools.islice(already_sharded.padded(source, 0, 0), count))


@pytest.mark.parametrize(
    "kind", ["numpy", "dataset", "dataset, ragged", "dataset, sparse", "dataset of texts", "nested"]
)
@pytest.mark.parametrize("local", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_share_goes_on_with_empty_batches(kind, local):
    arguments = KINDS[kind]()
    size = None if "dataset" in kind else 4
    source, found = elements(arguments, 6, local=local, batch_size=size)
    whole = list(itertools.islice(source.stream(0, 0), 3))
    assert [int(element[0]) for element in found] == [4, 4, 3, 0, 0, 0]
    for one, other in zip(found[:3], whole, strict=True):
        assert_same(arrays(one[1]), arrays(other[1]))
    for element in found[3:]:  # a real row, since a model may not stand one that was made up
        assert_same(
            arrays(element[1]), keras.tree.map_structure(
                lambda v: dense(v)[:1] if v is not None else None, whole[-1][1]
            )
        )


def test_a_share_without_a_row_can_take_part():
    nothing = tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(4)
    _, found = elements({"x": nothing}, 2)
    assert [int(element[0]) for element in found] == [0, 0]
    assert found[0][1][0][0].shape == (1, 3)


def test_a_share_of_arrays_is_shuffled_anew_each_pass():
    source = make_source(
        np.arange(ROWS), share=Share(0, 1, 1), batch_size=4, shuffle=True, seed=3
    )
    for epoch in range(2):
        taken = itertools.islice(already_sharded.padded(source, epoch, 0), 3)
        seen = np.concatenate([element[1][0] for element in taken])
        assert seen.tolist() == epoch_order(ROWS, seed=3, epoch=epoch).tolist()


def unlike(labelled, unlabelled, **options):
    """Returns a dataset of batches whose two tensors have such numbers of rows."""
    first = tf.data.Dataset.from_tensor_slices(X).batch(labelled, **options)
    return tf.data.Dataset.zip(first, tf.data.Dataset.from_tensor_slices(Y).batch(unlabelled))


SEVERAL = "different numbers of rows, 2 5, so that replicas cannot take their rows"


def test_tensors_of_different_numbers_of_rows_are_refused_before_training():
    batches = unlike(2, 5, drop_remainder=True).map(lambda x, y: (x, tf.ensure_shape(y, [5])))
    with pytest.raises(ValueError, match=SEVERAL):
        make_source(batches.take(2), share=Share(0, 2, 2))
    source = make_source(batches.take(2), share=Share(0, 1, 1))
    with pytest.raises(ValueError, match=SEVERAL):
        already_sharded.agreed(source, Alone())
    assert [len(part[1]) for _, (part,) in source.stream(0, 0)] == [5, 5]


class Alone:
    """The only worker."""

    def gather(self, *numbers):
        return np.array([numbers])


@pytest.mark.parametrize("share", [Share(0, 2, 2), Share(1, 1, 2)])
def test_tensors_of_different_numbers_of_rows_are_refused_when_they_are_read(share):
    kinds = {
        "dataset": unlike(2, 5),
        "ragged": dataset((ragged(), X)).map(lambda x, y: (x, y[1:])),
        "sparse": dataset((sparse(), X)).map(lambda x, y: (x, y[1:])),
        "generator": generator(lambda rows: (X[rows], Y[rows][:-1])),
        "generator, no weights": generator(lambda rows: (X[rows], Y[rows][:-1], None)),
    }
    for data in kinds.values():
        stream = make_source(data, share=share).stream(0, 0)
        with pytest.raises(ValueError, match="different numbers of rows, "), told_plainly():
            next(iter(stream))


def test_a_worker_with_one_replica_and_its_own_share_is_refused_them_too():
    source = already_sharded.agreed(make_source(unlike(2, 5), share=Share(0, 1, 1)), Alone())
    with pytest.raises(ValueError, match=SEVERAL), told_plainly():
        next(iter(source.stream(0, 0)))


@pytest.mark.parametrize("kind", ["tf sparse", "scipy sparse", "dataset, sparse"])
def test_rows_of_sparse_tensors_keep_their_length(kind):
    source = make_source(**KINDS[kind](), share=Share(0, 2, 2))
    assert source.spec[0].shape.as_list()[1:] == [X.shape[1]]  # a layer is built by it
