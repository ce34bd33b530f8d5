"""Do the files of Weights & Biases hold what was told, and has a resumed run the same number?"""

from __future__ import annotations

import json
import struct
import time

import pytest

from tfdist import tracking
from tfdist.tracking import kept_state

wandb = pytest.importorskip("wandb", reason="pip install 'tfdist[wandb]'")
# What its own dependencies will refuse one day is for its authors.
pytestmark = pytest.mark.filterwarnings("default")


_BLOCK = 2**15


@pytest.fixture
def service():
    """Its process is a helper of all runs of this one."""
    yield
    wandb.teardown()


def _records(folder):
    """Returns what lies in the file of an offline run: the history, the configuration, the end.

    It is a log of LevelDB behind a header of its own: blocks of records with a checksum, a length
    and a kind each (whole, first, middle, last).
    """
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("*.wandb")
    content, whole, at = path.read_bytes(), b"", 7
    while at + 7 <= len(content):
        if _BLOCK - at % _BLOCK < 7:  # too short for another record
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def test_runs_are_told_offline(tmp_path, service):
    config = {"replicas": 2, "compiled": {"loss": "mse"}, "checkpoint_dir": str(tmp_path / "run")}
    for begins in (0, 8):  # the second is a resumed run
        tracker = tracking.WeightsAndBiases(folder=tmp_path)
        tracker.start({**config, "begins_at_step": begins})
        tracker.log({"loss": 0.5, "check/train_step": "it agrees"}, step=begins + 4)
        tracker.log({"loss": 0.25}, step=begins + 8)
        tracker.finish("finished" if begins else "failed")
        time.sleep(1.1)  # the folders' names have the number and the second
    run_id = kept_state.kept(str(tmp_path / "run"), "wandb")["run_id"]
    folders = [path for path in (tmp_path / "wandb").iterdir()
               if path.name.startswith("offline-run-")]
    assert len(folders) == 2
    assert all(path.name.endswith(run_id) for path in folders)
    records = [record for folder in sorted(folders) for record in _records(folder)]
    rows = [{(item.key or "/".join(item.nested_key)): json.loads(item.value_json)
             for item in record.history.item} for record in records if record.HasField("history")]
    losses = {row["_step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == {4: 0.5, 8: 0.25, 12: 0.5, 16: 0.25}
    told = {item.key: json.loads(item.value_json) for record in records
            for item in [*record.config.update, *record.run.config.update] if item.key}
    assert told["compiled.loss"] == "mse"
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert exits == [1, 0]
