"""Do epochs begin and end in the data where Keras's do?

The oracle is Keras's own `TFEpochIterator`, gone through as `keras.Model.fit` does it.
"""

from __future__ import annotations

import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator

import tfdist
from tfdist.communication.share import Share
from tfdist.data.adapters import make_source
from tfdist.data.feed import Feed
from tfdist.data.padding import pad

ONE = Share(0, 1, 1)
NUMBERS = np.arange(7.0)


def shuffled():
    return tf.data.Dataset.from_tensor_slices(NUMBERS).shuffle(7, seed=5).batch(2)


def unknown():
    return shuffled().filter(lambda x: True)


def endless():
    return shuffled().repeat()


def generator():
    return ((NUMBERS[i : i + 1],) for i in range(5))


class Batches(keras.utils.PyDataset):
    """Shuffles by itself in `on_epoch_end`, as people's do, and writes down its hooks."""

    def __init__(self):
        super().__init__()
        self.rng, self.order, self.hooks = np.random.default_rng(3), np.arange(4), []

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return (NUMBERS[self.order[index]][np.newaxis],)

    def on_epoch_begin(self):
        self.hooks.append("begin")

    def on_epoch_end(self):
        self.hooks.append("end")
        self.order = self.rng.permutation(4)


CASES = [
    ("known", shuffled, None),
    ("fewer steps", shuffled, 2),
    ("as many steps", shuffled, 4),
    ("more steps", shuffled, 6),
    ("unknown", unknown, None),
    ("unknown, fewer steps", unknown, 2),
    ("unknown, more steps", unknown, 6),
    ("endless", endless, 3),
    ("generator", generator, None),
    ("generator, fewer steps", generator, 2),
    ("generator, more steps", generator, 9),
    ("own batches", Batches, None),
    ("arrays", lambda: NUMBERS, None),
    ("arrays, fewer steps", lambda: NUMBERS, 3),
]


def numbers_of(batch):
    return [float(number) for number in np.ravel(keras.tree.flatten(batch)[0])]


def of_keras(x, steps, epochs):
    """Returns the batches of each epoch, and for which epochs Keras warned."""
    strategy = tf.distribute.get_strategy()
    iterator = TFEpochIterator(
        x=x, batch_size=2 if x is NUMBERS else None, steps_per_epoch=steps,
        distribute_strategy=strategy, steps_per_execution=1,
    )
    iterator.reset()

    def epoch():
        used = []
        with iterator.catch_stop_iteration():
            for _, _, batches in iterator:
                used.append(numbers_of(next(batches)))
        return used

    return [warned(epoch) for _ in range(epochs)]


def of_feed(feed, epochs):
    def epoch():
        planned, used, ended = feed.begin_epoch(), [], False
        while not ended and (planned is None or len(used) < planned):
            batch = feed.iterator.get_next_as_optional()
            ended = not bool(batch.has_value())
            if not ended:
                used.append(numbers_of(batch.get_value()[1]))
        feed.end_epoch(len(used), ended=ended)
        return used

    return [warned(epoch) for _ in range(epochs)]


def warned(epoch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        used = epoch()
    return used, any("data" in str(warning.message) for warning in caught)


def feed_of(x, steps, **kwargs):
    source = make_source(x, share=ONE, batch_size=2 if x is NUMBERS else None, steps=steps)
    return Feed(source, steps_per_epoch=steps, **kwargs)


@pytest.mark.parametrize(("make", "steps"), [row[1:] for row in CASES], ids=[r[0] for r in CASES])
def test_epochs_are_those_of_keras(make, steps):
    wanted = of_keras(make(), steps, epochs=4)
    feed = feed_of(make(), steps)
    feed.rewind()
    found = of_feed(feed, epochs=4)
    assert [used for used, _ in found] == [used for used, _ in wanted]
    if steps is not None:  # without it Keras warns of the expected end of what it does not know
        assert [told for _, told in found] == [told for _, told in wanted]


def test_a_generator_that_is_used_up_is_told():
    found = of_feed(feed_of(generator(), None), epochs=2)
    assert [told for _, told in found] == [False, True]


def test_hooks_of_a_py_dataset_come_as_in_keras():
    theirs, ours = Batches(), Batches()
    of_keras(theirs, None, epochs=2)
    feed = feed_of(ours, None)
    feed.rewind()
    of_feed(feed, epochs=2)
    assert ours.hooks == theirs.hooks
    assert ours.hooks[:3] == ["end", "begin", "end"]


def test_evaluation_starts_each_time_at_the_beginning():
    feed = feed_of(NUMBERS, 2)
    epochs = []
    for _ in range(2):
        feed.rewind()
        epochs += of_feed(feed, epochs=1)
    assert epochs[0] == epochs[1] == ([[0, 1], [2, 3]], False)


def source_of_arrays(seed=4):
    return make_source(NUMBERS, share=ONE, batch_size=2, shuffle=True, seed=seed)


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(
    "make",
    [source_of_arrays, lambda: make_source(shuffled(), share=ONE)],
    ids=["arrays", "dataset"],
)
def test_seek_goes_on_as_if_nothing_had_happened(make, steps):
    whole = Feed(make(), steps_per_epoch=steps)
    epochs = of_feed(whole, epochs=2)
    position = whole.position
    wanted = of_feed(whole, epochs=2)
    again = Feed(make(), steps_per_epoch=steps)
    again.seek(*position)
    assert of_feed(again, epochs=2) == wanted != epochs


def test_seek_into_a_pass():
    whole = of_feed(Feed(make_source(shuffled(), share=ONE), steps_per_epoch=None), epochs=2)
    feed = Feed(make_source(shuffled(), share=ONE), steps_per_epoch=None)
    feed.seek(0, 3)
    rest = of_feed(feed, epochs=2)
    assert rest[0][0] == whole[0][0][3:]
    assert len(rest[1][0]) == 4  # nothing is left out of the next pass


def test_first_pass_is_the_epoch_that_training_starts_with():
    whole = of_feed(Feed(source_of_arrays(), steps_per_epoch=None), epochs=3)
    later = of_feed(Feed(source_of_arrays(), steps_per_epoch=None, first_pass=2), epochs=1)
    assert later == whole[2:]


def test_steps_that_the_progress_bar_shows():
    assert feed_of(NUMBERS, None).num_batches == 4
    assert feed_of(NUMBERS, 3).num_batches == 3
    assert feed_of(unknown(), None).num_batches is None


def test_position_counts_passes_and_batches():
    feed = feed_of(NUMBERS, 3)
    positions = []
    for _ in range(3):
        of_feed(feed, epochs=1)
        positions.append(feed.position)
    assert positions == [(0, 3), (1, 0), (1, 3)]


class _Endless(keras.utils.PyDataset):
    """Batches that never end, read by two threads of Keras."""

    def __init__(self):
        super().__init__(workers=2)

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        time.sleep(0.05)  # so that whoever reads ahead waits when the epoch ends
        return (np.full([4], index),)


def test_threads_that_rest_between_epochs_are_not_asked_for_a_batch():
    source = make_source(_Endless(), share=Share(0, 2, 2), steps=3)
    feed = Feed(source, steps_per_epoch=3)
    seen = []
    for _ in range(3):
        feed.begin_epoch()
        seen += [int(next(feed.iterator)[1][0][0][0]) for _ in range(3)]
        feed.end_epoch(3, ended=False)
    assert seen == list(range(9))
    for made in (source, pad(source, Share(0, 2, 2))):  # the error is a matter of luck
        assert "Prefetch" not in type(made.stream(0, 0)).__name__


@pytest.mark.parametrize("is_nested", [False, True])
def test_states_of_rows_are_refused(is_nested):
    layer = keras.layers.LSTM(3, stateful=True, name="remembers")
    with tfdist.get_strategy("2xcpu").scope():
        inputs = keras.Input(batch_shape=(8, 5, 2))
        inner = keras.Sequential([layer]) if is_nested else layer
        model = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
        model.compile("sgd", "mse")
    x, y = np.zeros([8, 5, 2]), np.zeros([8, 1])
    for use in (lambda: tfdist.fit(model, x, y, batch_size=8), lambda: tfdist.predict(model, x)):
        with pytest.raises(ValueError, match="'remembers'.* keep a state .* 2 replicas .*stateful"):
            use()
