"""Are Slurm's short lists expanded in their own order, and broken ones refused?"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdist.cluster.hostlists import MAX_HOSTS, expand_counts, expand_hosts
from tfdist.cluster.wording import shorten


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n2,n10,n1", ["n2", "n10", "n1"]),
        ("n[2,10-12]", ["n2", "n10", "n11", "n12"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[1-2]-ib,login", ["n1-ib", "n2-ib", "login"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("a.example.org,b_1", ["a.example.org", "b_1"]),
        ("[1-2]", ["1", "2"]),
    ],
)
def test_hosts(text, hosts):
    assert expand_hosts(text) == tuple(hosts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "n[",
        "n]",
        "n[1",
        "n[]",
        "n[a]",
        "n[2-1]",
        "n[1-]",
        "n[1--2]",
        "n[1,]",
        "n 1",
        "n[١]",
    ]
    + ["n[[1]]", "n/1", "n1,", "n[0-999999999]", "n[0-999][0-999]", "n:1", "n[1-2]\n"],
)
def test_broken_hosts(text):
    with pytest.raises(ValueError, match="list of hosts|more than 100000 hosts"):
        expand_hosts(text)


@pytest.mark.parametrize(
    ("text", "counts"), [("2", [2]), ("2(x3),1", [2, 2, 2, 1]), ("1,1(x2)", [1, 1, 1])]
)
def test_counts(text, counts):
    assert expand_counts(text) == tuple(counts)


@pytest.mark.parametrize("text", ["", "x", "2(x)", "2x3", "-1", "2(x999999)", "1,", "2(x3", "²"])
def test_broken_counts(text):
    with pytest.raises(ValueError, match="list of counts|more than 100000 counts"):
        expand_counts(text)


_LISTLIKE = st.text(alphabet="n1239,[]-(x) ") | st.text()


@given(_LISTLIKE)
def test_any_text_is_a_list_of_hosts_or_refused(text):
    _is_read_or_refused(expand_hosts, text)


@given(_LISTLIKE)
def test_any_text_is_a_list_of_counts_or_refused(text):
    _is_read_or_refused(expand_counts, text)


def _is_read_or_refused(expand, text):
    try:
        found = expand(text)
    except ValueError as error:  # any other error is a failure
        assert shorten(text) in str(error)
    else:
        assert 1 <= len(found) <= MAX_HOSTS


@given(st.lists(st.integers(0, 999), min_size=1, max_size=6), st.integers(1, 4))
def test_every_right_list_is_expanded(numbers, width):
    names = [f"n{str(number).zfill(width)}" for number in numbers]
    assert expand_hosts(",".join(names)) == tuple(names)
    short = ",".join(str(number).zfill(width) for number in numbers)
    assert expand_hosts(f"n[{short}]") == tuple(names)


@given(st.lists(st.tuples(st.integers(0, 999_999), st.integers(1, 99)), min_size=1, max_size=6))
def test_every_right_list_of_counts_is_expanded(runs):
    text = ",".join(f"{count}(x{many})" if many > 1 else f"{count}" for count, many in runs)
    expected = [count for count, many in runs for _ in range(many)]
    assert expand_counts(text) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    [
        "n," * 60_000 + "]",
        "[1-99999]" * 10_000,
        f"n[{'1-99999,' * 10_000}1]",
        "[1-99]," * 10_000 + "[",
        "[" * 100_000,
        "n[1,2" * 20_000,
        "2(x9" * 30_000,
        "2(x99999)," * 10_000,
    ],
)
@pytest.mark.parametrize("expand", [expand_hosts, expand_counts])
def test_long_texts_are_refused_at_once(expand, text):
    began = time.monotonic()
    with pytest.raises(ValueError, match="list of|more than 100000") as caught:
        expand(text)
    assert time.monotonic() - began < 5  # those that took minutes, and the memory, take some ms
    assert len(str(caught.value)) < 500


def test_long_lists_are_expanded_at_once():
    began = time.monotonic()
    assert len(expand_hosts(",".join(["n"] * 60_000))) == 60_000
    assert time.monotonic() - began < 5
