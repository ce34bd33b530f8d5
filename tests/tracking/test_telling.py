"""Is a tracker that raises told of once, and are the others told all the same?"""

from __future__ import annotations

import logging

import pytest

from tfdist.tracking.telling import Telling


class Told:
    def __init__(self, *fails):
        self.fails, self.calls = fails, []

    def _call(self, name, *values):
        self.calls.append((name, *values))
        if name in self.fails:
            raise OSError("the disk is full")

    def start(self, config):
        self._call("start", config)

    def log(self, values, step):
        self._call("log", values, step)

    def finish(self, status):
        self._call("finish", status)


_ALL = [("start", {"a": 1}), ("log", {"b": 2.0}, 3), ("log", {"b": 4.0}, 5), ("finish", "saved")]


def _tell(*trackers):
    telling = Telling(trackers)
    telling.start({"a": 1})
    telling.log({"b": 2.0}, 3)
    telling.log({}, 4)  # nothing to tell
    telling.log({"b": 4.0}, 5)
    telling.finish("saved")


@pytest.mark.parametrize(
    ("fails", "calls", "end"),
    [
        (("log", "finish"), _ALL, "further failures of it are not told"),
        (("start",), _ALL[:1], "it is told nothing more"),
    ],
)
def test_one_fails_and_the_others_go_on(fails, calls, end, caplog):
    bad, good = Told(*fails), Told()
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        _tell(bad, good)
    assert good.calls == _ALL
    assert bad.calls == calls
    [record] = caplog.records
    assert record.message.startswith(
        f"The tracker Told failed in {fails[0]}: OSError: the disk is full. Training goes on"
    )
    assert end in record.message


def test_an_interrupt_is_no_failure_of_a_tracker():
    class Stops(Told):
        def log(self, values, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tell(Stops())
