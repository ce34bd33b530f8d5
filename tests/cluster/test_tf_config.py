"""Is TF_CONFIG read in all its forms, and is every broken one refused with the cure?"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfdist.cluster.tf_config import TASK_TYPES, TfConfig, check_address, parse_tf_config
from tfdist.cluster.wording import shorten

TWO = ["a:1", "b:2"]


def _text(cluster, task_type="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": task_type, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            _text({"worker": TWO}, index=1),
            TfConfig((("worker", ("a:1", "b:2")),), "worker", 1),
            id="workers",
        ),
        pytest.param(
            _text({"worker": TWO, "chief": ["c:3"]}, "chief"),
            TfConfig((("worker", ("a:1", "b:2")), ("chief", ("c:3",))), "chief", 0),
            id="chief after workers keeps its order",
        ),
        pytest.param(
            _text({"master": ["c:3"], "worker": TWO}, "master"),
            TfConfig((("chief", ("c:3",)), ("worker", ("a:1", "b:2"))), "chief", 0),
            id="master is the chief's old name",
        ),
        pytest.param(
            _text({"chief": ["c:3"], "worker": ["a:1"]}, "evaluator"),
            TfConfig((("chief", ("c:3",)), ("worker", ("a:1",))), "evaluator", 0),
            id="evaluator outside the cluster",
        ),
        pytest.param(
            _text({"worker": ["a:1"], "ps": ["p:1"], "evaluator": ["e:1"]}, "ps"),
            TfConfig((("worker", ("a:1",)), ("ps", ("p:1",)), ("evaluator", ("e:1",))), "ps", 0),
            id="parameter server",
        ),
        pytest.param(
            _text({"worker": {"1": "b:2", "0": "a:1"}}),
            TfConfig((("worker", ("a:1", "b:2")),), "worker", 0),
            id="dict of indices",
        ),
        pytest.param(
            _text({"worker": TWO, "ps": []}, index="1"),
            TfConfig((("worker", ("a:1", "b:2")),), "worker", 1),
            id="index as text, empty list",
        ),
        pytest.param(
            json.dumps(
                {
                    "cluster": {"worker": ["[::1]:80"]},
                    "task": {"type": "worker", "index": 0, "trial": "1"},
                    "environment": "cloud",
                    "rpc_layer": "grpc",
                }
            ),
            TfConfig((("worker", ("[::1]:80",)),), "worker", 0),
            id="IPv6 and keys of others",
        ),
        pytest.param("", None, id="empty"),
        pytest.param(" \n", None, id="blank"),
        pytest.param("{}", None, id="empty object"),
        pytest.param('{"environment": "cloud"}', None, id="no cluster"),
        pytest.param('{"cluster": {}, "task": {"type": "worker", "index": 0}}', None, id="alone"),
    ],
)
def test_parse(text, expected):
    assert parse_tf_config(text) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is nested too deeply|is no valid JSON"),
        ("'cluster'", "is no valid JSON"),
        ('{"cluster": NaN}', "NaN is no JSON number"),
        ('{"cluster": {}, "cluster": {}}', "the key 'cluster' is there twice"),
        ("[]", "is a JSON list"),
        ("3", "is a JSON number"),
        ("null", "is a JSON null"),
        ('{"cluster": ["a:1"]}', "has a list as 'cluster'"),
        ('{"cluster": null}', "has a null as 'cluster'"),
        ('{"sparseCluster": {"worker": {"0": "a:1"}}}', "turn off enableDynamicWorker"),
        ('{"task": {"type": "worker", "index": 1}}', "task index 1, but no cluster"),
        ('{"cluster": {"worker": ["a:1"]}}', "has a cluster but no 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": 3}', "has a cluster but a number as 'task'"),
        (_text({"worker": "a:1"}), "has a text under 'worker'"),
        (_text({"worker": [1]}), "1 is a number, not a text"),
        (_text({"worker": [None]}), "None is a null"),
        (_text({"worker": ["a"]}), "'a' has no port or no host"),
        (_text({"worker": [":1"]}), "':1' has no port or no host"),
        (_text({"worker": ["a:"]}), "the port ''"),
        (_text({"worker": ["a:b"]}), "the port 'b'"),
        (_text({"worker": ["a:0"]}), "the port '0'"),
        (_text({"worker": ["a:65536"]}), "the port '65536'"),
        (_text({"worker": ["a:-1"]}), "the port '-1'"),
        (_text({"worker": ["a:٣"]}), "has the port"),
        (_text({"worker": ["grpc://a:1"]}), "no scheme"),
        (_text({"worker": ["a b:1"]}), "no spaces"),
        (_text({"worker": ["::1:80"]}), "without brackets"),
        (_text({"worker": ["a:1", "a:1"]}), "'a:1' to both worker 0 and worker 1"),
        (_text({"worker": ["a:1"], "chief": ["a:1"]}), "'a:1' to both worker 0 and chief 0"),
        (_text({"chief": TWO}, "chief"), "has 2 chiefs"),
        (_text({"chief": ["a:1"], "master": ["b:1"]}, "chief"), "names 'chief' twice, once as 'm"),
        (_text({"coordinator": ["a:1"]}, "coordinator"), "unknown task type 'coordinator'"),
        (_text({"worker": TWO}, index=2), "use an index from 0 to 1"),
        (_text({"worker": TWO}, index=-1), "task index -1"),
        (_text({"worker": TWO}, index=1.0), "task index 1.0"),
        (_text({"worker": TWO}, index=True), "task index True"),
        (_text({"worker": TWO}, index=None), "task index None"),
        (_text({"worker": TWO}, "chief"), "this task is a 'chief', but the cluster has"),
        (_text({"worker": TWO}, "ps"), "add 'ps' to the cluster"),
        (_text({"worker": TWO}, "walker"), "has the task type 'walker'"),
        (_text({"worker": TWO}, ["worker"]), r"has the task type \['worker'\]"),
        (_text({"worker": TWO}, None), "has the task type None"),
        (_text({"worker": {"1": "b:1"}}, index=1), r"only \['1'\]"),
        (_text({"worker": {"one": "b:1"}}), r"only \['one'\]"),
        (_text({"evaluator": ["e:1"], "worker": TWO}, "evaluator", 1), "evaluator 1, but"),
    ],
)
def test_broken_is_refused_with_the_variable_and_its_value(text, cause):
    with pytest.raises(ValueError, match=cause) as caught:
        parse_tf_config(text)
    message = str(caught.value)
    assert message.startswith("TF_CONFIG ")
    assert f"Received: TF_CONFIG={shorten(text)}" in message
    assert len(message) < 1000


def test_long_values_are_cut():
    addresses = [f"host{n}:1" for n in range(5000)] + ["host"]
    with pytest.raises(ValueError, match="'host' has no port") as caught:
        parse_tf_config(_text({"worker": addresses}))
    assert len(str(caught.value)) < 500


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TASK_TYPES, "master", "cluster", "task", "type", "index", "0", "1"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.text() | _JSON.map(json.dumps))
@example('{"cluster": {"worker": {}}}')
@example("1" * 5000)
def test_any_text_is_read_or_refused(text):
    try:
        config = parse_tf_config(text)
    except ValueError as error:  # any other error is a failure
        assert str(error).startswith("TF_CONFIG ")
        assert f"Received: TF_CONFIG={shorten(text)}" in str(error)
    else:
        assert config is None or config.task_index >= 0


@pytest.mark.parametrize(
    "text",
    [
        _text({"worker": ["a:1"] * 20_000}),
        _text({"worker": [f"h{n}:1" for n in range(20_000)] + ["h"]}),
        _text({"worker": ["a" * 1_000_000 + ":" + "1" * 1_000_000]}),
        _text({"worker": {str(n): "a:1" for n in range(20_000)}}),
        '{"a":' * 50_000,
        '"' + "\\" * 500_000,
    ],
)
def test_long_texts_are_refused_at_once(text):
    began = time.monotonic()
    with pytest.raises(ValueError, match="^TF_CONFIG ") as caught:
        parse_tf_config(text)
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 1000


_ADDRESSES = st.lists(
    st.builds(
        "{}:{}".format,
        st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True),
        st.integers(1, 65535),
    ),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(_ADDRESSES, st.booleans(), st.data())
def test_every_right_config_is_read(addresses, has_chief, data):
    jobs = {"chief": addresses[:1], "worker": addresses[1:]} if has_chief else {"worker": addresses}
    task_type = data.draw(st.sampled_from([name for name, tasks in jobs.items() if tasks]))
    index = data.draw(st.integers(0, len(jobs[task_type]) - 1))
    config = parse_tf_config(_text(jobs, task_type, index))
    assert config is not None
    assert (config.task_type, config.task_index) == (task_type, index)
    assert dict(config.jobs) == {name: tuple(tasks) for name, tasks in jobs.items() if tasks}
    again = _text(dict(config.jobs), config.task_type, config.task_index)
    assert parse_tf_config(again) == config


@given(st.text())
def test_check_address_never_fails(address):
    wrong = check_address(address)
    assert wrong or int(address.rpartition(":")[2]) in range(1, 65536)


@pytest.mark.parametrize(
    "host", ["a..b", ".a", "a" * 64, "a." * 130 + "b", "ü..b", "a\0b", "\ud83d"]
)
def test_host_that_no_system_can_look_up_is_named(host):
    with pytest.raises(ValueError, match="has a host that is no name"):
        parse_tf_config(json.dumps({"cluster": {"worker": [f"{host}:1"]}, "task": {}}))


@pytest.mark.parametrize("host", ["a.b.", "a" * 63, "münchen.example", "[::1]", "10.0.0.1", "a_b"])
def test_host_that_is_a_name(host):
    assert check_address(f"{host}:1") == ""
