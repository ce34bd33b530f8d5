"""Are the places of workers seen, and is what is wrong with the command said?"""

from __future__ import annotations

import platform

import launching
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.launch.job import Job, split_workers
from tfdist.launch.places import parse_hosts, watch_places


@given(st.text())
@settings(max_examples=50)
def test_any_output_is_hosts_or_a_value_error(text):
    try:
        found = parse_hosts(text)
    except ValueError:
        return
    assert all(host and slots >= 0 for host, slots in found.items())


@pytest.mark.parametrize("line", ["n1:2:x", "n1:", ":2", "n 1:2", "n1:-2", "n1:1.5", "n1:99999999"])
def test_what_is_no_host_is_named(line):
    with pytest.raises(ValueError, match="is neither HOST nor HOST:SLOTS"):
        parse_hosts(line)


def test_slots_of_a_host_that_is_named_twice_are_added():
    assert parse_hosts("n1:2\nn2\nn1\n") == {"n1": 3, "n2": 1}


def _job(command, engine="local"):
    return Job(workers=4, fewest_workers=2, engine=engine, discover_hosts=command)


def test_places_are_seen_as_they_change(tmp_path):
    path = tmp_path / "places"
    path.write_text(f"localhost:1\n{platform.node()}:2\n")
    with watch_places(_job(f"cat {path}")) as places:
        assert places.number() == 3
        path.write_text("localhost:2\n")
        assert places.new_number() == 2
        assert places.hosts == {"localhost": 2}


def test_command_that_fails_later_leaves_what_was_seen(tmp_path, capfd):
    path = tmp_path / "places"
    path.write_text("localhost:3\n")
    with watch_places(_job(f"cat {path}")) as places:
        path.unlink()
        assert places.new_number() == places.new_number() == 3
        path.write_text("localhost:2\n")
        assert places.new_number() == 2
    said = capfd.readouterr().err
    assert said.count("for how many workers there are places cannot be seen: discover_hosts=") == 1
    assert "No such file or directory" in said


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("/no/such/command", "does not name the hosts that there are: .*No such file"),
        ("cat /no/such/file", "ends with exit code 1: '.*No such file"),
        ("echo what is this", "its line 'what is this' is neither HOST nor HOST:SLOTS"),
        ("echo n7:2", "names n7, and engine='local' has workers on this host alone"),
    ],
)
def test_command_that_fails_at_once_ends_the_job(command, told):
    with pytest.raises(RuntimeError, match=told), watch_places(_job(command)):
        pass


def test_without_a_command_nobody_knows():
    with watch_places(Job(workers=4, fewest_workers=2)) as places:
        assert places.number() is places.new_number() is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"workers": 2, "fewest_workers": 3}, "workers=3:2 has its larger number first"),
        ({"workers": 2, "fewest_workers": 0}, "fewest_workers=0 must be a whole number from 1"),
        ({"workers": 2, "discover_hosts": "x"}, "whose number of workers changes"),
        (
            {"workers": 2, "fewest_workers": 1, "discover_hosts": "x", "engine": "ray"},
            "engine='ray' knows its own hosts",
        ),
        ({"workers": 2, "fewest_workers": 1, "discover_hosts": " "}, "names no command"),
        ({"workers": 2, "wait_secs": 0}, "wait_secs=0 must be a number of seconds above 0"),
    ],
)
def test_fields_that_make_no_job(fields, told):
    with pytest.raises(ValueError, match=told):
        Job(**fields)


@pytest.mark.parametrize("text", ["", ":", "2:", ":4", "2:4:6", "-2:4", "a:b", "2:4e1", "٢:٤"])
def test_what_is_no_number_of_workers(text, tmp_path):
    with pytest.raises(ValueError, match="must be a whole number from 1, or MIN:MAX"):
        split_workers(text)


def test_command_line_says_what_is_wrong(tmp_path):
    path = launching.write_program(tmp_path, "print('ran')")
    done = launching.launch("--workers=3:2", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "workers=3:2 has its larger number first; give MIN:MAX" in done.stderr
