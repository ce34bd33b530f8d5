"""Is the same run known again, and another one told from it?"""

from __future__ import annotations

import json

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.checkpoint import same_run
from tfdist.cluster import contract
from tfdist.communication.share import Share

_NAMES = ("seed", "workers", "replicas", "epoch", "train", "pass", "logs", "")


def _model(**compile_options) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, kernel_regularizer="l2"),
            keras.layers.Dropout(0.5),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compile_options})
    return model


def test_the_same_model_made_twice_is_the_same():
    first, second = same_run.of_model(_model()), same_run.of_model(_model())
    assert first == second
    assert same_run.differences(first, json.loads(json.dumps(second))) == []


@pytest.mark.parametrize(
    ("is_share", "local_steps", "bound"),
    [
        (False, None, {}),
        (True, None, {"workers with examples of their own": 2}),
        (False, 3, {"replicas with steps of their own": 4}),
    ],
)
def test_what_another_number_of_workers_would_change(monkeypatch, is_share, local_steps, bound):
    share = Share(0, 2, 4)  # two replicas each of two workers
    found = same_run.of_number(share, is_share=is_share, local_steps=local_steps)
    assert found == bound
    monkeypatch.setenv(contract.ELASTIC, "1")
    if bound:
        with pytest.raises(ValueError, match=r"the launcher may change it \(--workers=MIN:MAX\)"):
            same_run.of_number(share, is_share=is_share, local_steps=local_steps)
    else:
        assert same_run.of_number(share, is_share=is_share, local_steps=local_steps) == {}


_COUNT = st.integers(-1, 3) | st.none() | st.text(max_size=1) | st.floats() | st.booleans()
_ANY = st.recursive(
    _COUNT,
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from([*_NAMES]), inner, max_size=4),
    max_leaves=12,
)
_WHOLE = (
    {"run": {"seed": 1}, "world": {"workers": 1, "replicas": 2}, "learning_rate": None},
    {
        "place": {"epoch": 1, "done": 0, "step": 5, "is_over": False, "logs": {}},
        "feeds": {"train": dict.fromkeys(("pass", "batch", "ends", "longest", "skips"), 0)},
        "callbacks": {"History": {}},
    },
)


def test_whole_one_lacks_nothing():
    assert same_run.lacks(*_WHOLE) == []


@given(st.integers(0, 1), st.data())
@settings(max_examples=60)
def test_any_state_is_refused_by_name(part, data):
    """What a forger writes; and who saves with a Checkpointer alone writes nothing of it."""
    forged = json.loads(json.dumps(_WHOLE))
    place = forged[part]
    key = data.draw(st.sampled_from(sorted(place)))
    if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    value = data.draw(_ANY)
    place[key] = value
    lost = same_run.lacks(*forged)
    assert all(line.endswith(": absent in the checkpoint") for line in lost)
    if isinstance(value, str | float) and key not in ("learning_rate",):
        assert lost


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (lambda: {"optimizer": keras.optimizers.Adam(beta_1=0.5)}, "optimizer.config.beta_1: 0.9"),
        (lambda: {"loss": "mae"}, "loss: 'mse' in the checkpoint, 'mae' here"),
        (lambda: {"metrics": ["mse"]}, "metrics[0]: 'mae' in the checkpoint, 'mse' here"),
        (
            lambda: {
                "optimizer": keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9))
            },
            "optimizer.config.learning_rate: 'absent' in the checkpoint",
        ),
    ],
    ids=["optimizer", "loss", "metrics", "schedule"],
)
def test_other_models_are_told_apart(options, start):
    other = same_run.of_model(_model(**options()))
    found = same_run.differences(same_run.of_model(_model()), other)
    assert len(found) == 1
    assert found[0].startswith(start)


def test_a_number_as_learning_rate_is_no_difference():
    models = [_model(optimizer=keras.optimizers.Adam(rate)) for rate in (0.1, 0.2)]
    assert same_run.of_model(models[0]) == same_run.of_model(models[1])
    assert [round(same_run.learning_rate(model), 6) for model in models] == [0.1, 0.2]


def test_a_schedule_has_no_present_learning_rate():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 9)
    assert same_run.learning_rate(_model(optimizer=keras.optimizers.SGD(schedule))) is None


def test_a_model_that_does_not_tell_its_configuration():
    class Quiet(keras.Model):
        def get_config(self):
            raise KeyError("nothing to tell")

    described = same_run.of_model(Quiet())
    assert described["class"].endswith("Quiet")
    assert described["config"] is None


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {}, ["a: 1 in the checkpoint, 'absent' here"]),
        ({}, {"a": {"b": 1}}, ["a: 'absent' in the checkpoint, {'b': 1} here"]),
        ([1, 2], [1, 3], ["[1]: 2 in the checkpoint, 3 here"]),
        ([1], [1, 2], ["value: [1] in the checkpoint, [1, 2] here"]),
        ("x" * 99, "", [f"value: '{'x' * 39}...{'x' * 26}' in the checkpoint, '' here"]),
    ],
)
def test_differences(before, now, found):
    assert same_run.differences(before, now) == found


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("", None), ("many", None)])
def test_world(monkeypatch, variable, threads):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", variable)
    world = same_run.of_world(Share(first_replica=2, local_replicas=2, num_replicas=6))
    assert (world["workers"], world["replicas"]) == (3, 6)
    assert world["threads"] == threads if threads else world["threads"] >= 1
