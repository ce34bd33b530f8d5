"""One part of the check, in a process of its own, which may crash or hang.

    python -m tfdist.cli.gpu_check.part NAME KIND FOLDER      prints a JSON object for each row
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tfdist.cli.gpu_check.rows import FAILED, Row
from tfdist.cli.gpu_check.setting import Setting

_MARK = "tfdist row: "
_LAST_LINES = 3
#: Name of a part, and the function that gives its rows.
PARTS = {
    "card": "card:rows",
    "oracles": "parity:oracles",
    "parity": "parity:rows",
    "replicas": "replicas:rows",
    "collectives": "probes:rows",
    "workers": "workers:rows",
    "CNN": "rates:cnn_rows",
    "transformer": "rates:transformer_rows",
    "overlap": "overlap:rows",
}


def run(name: str, setting: Setting, *, timeout_secs: float) -> list[Row]:
    """Runs a part, and returns its rows; a last one says where its process did not end well.

    Args:
        name: One of PARTS.
        setting: The setting.
        timeout_secs: The longest time that it may take, in seconds.
    """
    environ = {"TF_CPP_MIN_LOG_LEVEL": "1", **os.environ}
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environ.pop("TF_CONFIG", None)
    if name == "oracles" or not setting.is_gpu:
        environ["CUDA_VISIBLE_DEVICES"] = "-1"
    files = [pathlib.Path(setting.folder, f"{name}.{kind}") for kind in ("out", "err")]
    with files[0].open("w") as out, files[1].open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, name, setting.kind, setting.folder],
            env=environ, stdout=out, stderr=err, start_new_session=True,
        )
        is_late = not _ends(process, timeout_secs)
    told, heard = (file.read_text(errors="replace") for file in files)
    rows = list(read(told))
    if is_late:
        how = f"was not done after {timeout_secs:.0f} s"
        return [*rows, Row(FAILED, name, f"{how}: {_last(heard)}")]
    if process.returncode:
        code = process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return [*rows, Row(FAILED, name, f"{how}: {_last(heard)}")]
    return rows


def read(told: str) -> Iterator[Row]:
    """Gives the rows that a part has printed."""
    for line in told.splitlines():
        if line.startswith(_MARK):
            yield Row(*json.loads(line.removeprefix(_MARK)))


def _ends(process: subprocess.Popen[Any], timeout_secs: float) -> bool:
    """Waits for a part; ends it, and what it has started, where it takes too long."""
    try:
        process.wait(timeout_secs)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                break
            time.sleep(0.2)
        process.wait()


def _last(heard: str) -> str:
    lines = [line.strip() for line in heard.splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:])[:600] or "it said nothing"


def main() -> None:
    """Runs in the process that may crash."""
    name, kind, folder = sys.argv[1:]
    module, _, function = PARTS[name].partition(":")
    gives: Callable[[Setting], Iterator[Row]] = getattr(
        importlib.import_module(f"tfdist.cli.gpu_check.{module}"), function
    )
    for row in gives(Setting(kind, folder)):
        print(_MARK + json.dumps([row.verdict, row.what, row.text]), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads that wait for a collective would keep the process


if __name__ == "__main__":
    main()
