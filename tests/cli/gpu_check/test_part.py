"""Are the rows of a part kept where its process crashes, hangs or fails?"""

from __future__ import annotations

import re

import pytest

from tfdist.cli.gpu_check import part
from tfdist.cli.gpu_check.rows import FAILED, OK, Row
from tfdist.cli.gpu_check.setting import Setting

_FIRST = 'yield rows.Row(rows.OK, "first", "done")'


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts code in the place of one part, for the process that runs it."""

    def plant(code):
        (tmp_path / "sitecustomize.py").write_text(
            "import sys, types\n"
            "from tfdist.cli.gpu_check import rows\n"
            "def gives(setting):\n"
            f"    {_FIRST}\n    {code}\n    {_FIRST.replace('first', 'last')}\n"
            "module = types.ModuleType('tfdist.cli.gpu_check.card')\n"
            "module.rows = gives\n"
            "sys.modules['tfdist.cli.gpu_check.card'] = module\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        return part.run("card", Setting("cpu", str(tmp_path)), timeout_secs=5.0)

    return plant


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "ended by SIGABRT"),
        ("raise ValueError('no such card')", "ended with code 1: .*ValueError: no such card"),
        ("import time; time.sleep(60)", "was not done after 5 s"),
    ],
)
def test_what_was_found_before_is_kept(stand_in, code, told):
    first, second = stand_in(code)
    assert first == Row(OK, "first", "done")
    assert (second.verdict, second.what) == (FAILED, "card")
    assert re.match(told, second.text)


def test_a_part_that_ends_well_has_its_rows_alone(stand_in):
    assert [row.what for row in stand_in("import threading, time; threading.Thread("
                                         "target=time.sleep, args=[60]).start()")] == [
        "first", "last"
    ]  # and its process does not wait for threads
