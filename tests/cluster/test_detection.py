"""Does a worker learn its place from its environment, and is every contradiction an error?"""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdist.cluster.detection import Cluster, detect_cluster


def _tf_config(cluster, task_type="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": task_type, "index": index}})


def _own(**variables):
    return {f"TFDIST_{name.upper()}": str(value) for name, value in variables.items()}


CHIEF_AND_TWO = {"chief": ["h:1"], "worker": ["h:2", "i:1"]}


@pytest.mark.parametrize(
    ("cluster", "task_type", "index", "expected"),
    [
        ({"worker": ["a:1"]}, "worker", 0, {"rank": 0, "size": 1, "is_chief": True}),
        ({"worker": ["a:1", "b:1"]}, "worker", 0, {"rank": 0, "size": 2, "is_chief": True}),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, {"rank": 1, "size": 2, "is_chief": False}),
        (
            CHIEF_AND_TWO,
            "chief",
            0,
            {"rank": 0, "size": 3, "is_chief": True, "local_rank": 0, "local_size": 2},
        ),
        (
            CHIEF_AND_TWO,
            "worker",
            0,
            {"rank": 1, "size": 3, "is_chief": False, "local_rank": 1, "local_size": 2},
        ),
        (
            CHIEF_AND_TWO,
            "worker",
            1,
            {"rank": 2, "size": 3, "local_rank": 0, "local_size": 1, "task_index": 1},
        ),
        (
            {**CHIEF_AND_TWO, "evaluator": ["e:1", "e:2"]},
            "evaluator",
            1,
            {"rank": 0, "size": 1, "is_chief": False, "addresses": ("e:2",), "task_index": 1},
        ),
        (
            CHIEF_AND_TWO,
            "evaluator",
            0,
            {"rank": 0, "size": 1, "is_chief": False, "addresses": ()},
        ),
        (
            {**CHIEF_AND_TWO, "ps": ["p:1"]},
            "ps",
            0,
            {"rank": 0, "size": 1, "is_chief": False, "task_type": "ps"},
        ),
    ],
)
def test_place_from_tf_config(cluster, task_type, index, expected):
    found = detect_cluster({"TF_CONFIG": _tf_config(cluster, task_type, index)})
    assert found.source == "TF_CONFIG"
    assert {name: getattr(found, name) for name in expected} == expected


def test_ranks_count_the_chief_first_wherever_it_stands():
    found = detect_cluster({"TF_CONFIG": _tf_config({"worker": ["b:1"], "chief": ["a:1"]})})
    assert (found.rank, found.addresses) == (1, ("a:1", "b:1"))


@pytest.mark.parametrize("task_type", ["chief", "worker", "ps", "evaluator"])
def test_tf_config_round_trip(task_type):
    config = json.loads(
        _tf_config({**CHIEF_AND_TWO, "ps": ["p:1"], "evaluator": ["e:1"]}, task_type)
    )
    found = detect_cluster({"TF_CONFIG": json.dumps(config)})
    assert found.to_tf_config() == config
    assert list(found.to_tf_config()["cluster"]) == list(config["cluster"])
    assert detect_cluster({"TF_CONFIG": json.dumps(found.to_tf_config())}) == found


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (
            Cluster(rank=1, size=2, addresses=("a:1", "b:1")),
            {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}},
        ),
        (
            Cluster(rank=0, size=2, addresses=("a:1", "b:1"), task_type="chief"),
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
                "task": {"type": "chief", "index": 0},
            },
        ),
        (
            Cluster(rank=1, size=2, addresses=("a:1", "b:1"), task_index=0),
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
                "task": {"type": "worker", "index": 0},
            },
        ),
        (
            Cluster(rank=0, size=1, addresses=("a:1",), task_type="chief"),
            {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}},
        ),
        (Cluster(rank=0, size=1), {}),
    ],
)
def test_tf_config_of_a_cluster_by_addresses(cluster, expected):
    assert cluster.to_tf_config() == expected
    if expected:
        again = detect_cluster({"TF_CONFIG": json.dumps(expected)})
        assert (again.rank, again.addresses) == (cluster.rank, cluster.addresses)


def test_tf_config_without_addresses_is_an_error():
    with pytest.raises(RuntimeError, match=r"rank=1 and size=2 only\. Set TF_CONFIG, or start"):
        Cluster(rank=1, size=2).to_tf_config()


@pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, {"HOME": "/"}])
def test_alone(environ):
    assert detect_cluster(environ) is None


def test_own_launcher():
    environ = _own(rank=1, size=3, local_rank=0, local_size=2, addresses="a:1,b:1,b:2")
    assert detect_cluster(environ) == Cluster(
        rank=1,
        size=3,
        addresses=("a:1", "b:1", "b:2"),
        local_rank=0,
        local_size=2,
        source="tfdist launcher",
    )


def test_own_launcher_before_the_roll_call():
    assert detect_cluster(_own(rank=1, size=2)).addresses == ()


def test_environment_of_this_process_is_the_default(monkeypatch):
    assert detect_cluster() is None
    monkeypatch.setenv("TF_CONFIG", _tf_config({"worker": ["a:1"]}))
    assert detect_cluster().addresses == ("a:1",)


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        (_own(rank=2, size=2), "TFDIST_RANK=2 is outside the world of TFDIST_SIZE=2"),
        (_own(rank=0), "TFDIST_SIZE is not set, although its companions are"),
        (_own(size=2), "TFDIST_RANK is not set"),
        (_own(rank="x", size=2), "TFDIST_RANK='x' must be a whole number"),
        (_own(rank="-1", size=2), "TFDIST_RANK='-1' must be a whole number"),
        (_own(rank="٣", size=4), "TFDIST_RANK='٣' must be a whole number"),
        (_own(rank="0", size=0), "TFDIST_SIZE='0' must be a whole number from 1"),
        (_own(rank="1" * 5000, size=2), "must be a whole number"),
        (_own(rank=0, size=2, addresses="a:1"), "TFDIST_ADDRESSES, 1 different addresses"),
        (_own(rank=0, size=2, addresses="a:1,a:1"), "TFDIST_ADDRESSES, 1 different addresses"),
        (_own(rank=0, size=2, addresses="a:1,b"), "TFDIST_ADDRESSES, 'b' has no port"),
        (_own(rank=0, size=1, local_rank=1), "TFDIST_LOCAL_RANK=1 and TFDIST_LOCAL_SIZE=1"),
        (
            {"TF_CONFIG": _tf_config({"worker": ["a:1", "b:1"]}), **_own(rank=1, size=2)},
            "TF_CONFIG says rank 0 of 2 at a:1, tfdist launcher says rank 1 of 2",
        ),
        (
            {"TF_CONFIG": _tf_config({"worker": ["a:1", "b:1"]}), **_own(rank=0, size=3)},
            "rank 0 of 3. Unset the variables",
        ),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is no valid JSON"),
    ],
)
def test_contradictions_are_errors(environ, cause):
    with pytest.raises(ValueError, match=cause) as caught:
        detect_cluster(environ)
    assert len(str(caught.value)) < 700


def test_evaluator_is_not_compared_with_ranks():
    environ = {"TF_CONFIG": _tf_config(CHIEF_AND_TWO, "evaluator"), **_own(rank=3, size=4)}
    assert detect_cluster(environ).task_type == "evaluator"


@pytest.mark.parametrize(
    ("environ", "lines"),
    [
        ({}, ("TF_CONFIG: not set", "tfdist launcher: not set")),
        (
            {"TF_CONFIG": "{}"},
            ("TF_CONFIG: ignored: TF_CONFIG names no cluster", "tfdist launcher: not set"),
        ),
        (
            {"TF_CONFIG": _tf_config({"worker": ["a:1", "b:1"]}), **_own(rank=0, size=2)},
            (
                "TF_CONFIG: used: rank 0 of 2 at a:1",
                "tfdist launcher: agrees: rank 0 of 2",
            ),
        ),
        (
            {"TF_CONFIG": _tf_config({"worker": ["a:1"], "evaluator": ["e:1"]}, "evaluator")},
            (
                "TF_CONFIG: used: evaluator 0, outside the training world",
                "tfdist launcher: not set",
            ),
        ),
    ],
)
def test_explanation(environ, lines):
    found, told = detect_cluster(environ, explain=True)
    assert told[: len(lines)] == lines
    assert found == detect_cluster(environ)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"rank": 2, "size": 2}, "rank=2 is outside the world of size=2"),
        ({"rank": -1, "size": 2}, "rank=-1 is outside"),
        ({"rank": 0, "size": 0}, "rank=0 is outside the world of size=0"),
        ({"rank": 0, "size": 2, "addresses": ("a:1",)}, "1 addresses for size=2"),
        ({"rank": 0, "size": 2, "addresses": ("a:1", "b")}, "'b' has no port"),
        ({"rank": 0, "size": 2, "addresses": ("a:1", "a:1")}, "the same address"),
        ({"rank": 0, "size": 1, "task_type": "boss"}, "task_type='boss' is unknown"),
        ({"rank": 1, "size": 2, "task_type": "chief"}, "The chief has rank 0"),
        ({"rank": 0, "size": 2, "local_size": 3}, "local_size=3 do not fit"),
        ({"rank": 0, "size": 2, "local_rank": 1}, "local_rank=1 and local_size=1"),
    ],
)
def test_impossible_cluster_is_refused(arguments, cause):
    with pytest.raises(ValueError, match=cause):
        Cluster(**arguments)


def test_cluster_is_a_frozen_fact():
    cluster = Cluster(rank=0, size=2, addresses=["a:1", "b:1"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        cluster.rank = 1
    assert cluster.addresses == ("a:1", "b:1")
    assert hash(cluster) == hash(pickle.loads(pickle.dumps(cluster)))


_VALUES = st.sampled_from(["", "0", "1", "2", "-1", "x", "a:1", "a:1,b:1", "9" * 30]) | st.text()


@given(
    st.dictionaries(
        st.sampled_from(
            ["TFDIST_RANK", "TFDIST_SIZE", "TFDIST_LOCAL_RANK", "TFDIST_LOCAL_SIZE"]
            + ["TFDIST_ADDRESSES"]
        ),
        _VALUES,
    )
)
def test_any_variables_are_read_or_refused(environ):
    try:
        found, lines = detect_cluster(environ, explain=True)
    except ValueError as error:
        found, lines = None, [str(error)]
    assert lines
    assert found is None or 0 <= found.rank < found.size
