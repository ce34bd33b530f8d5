"""Is what a tracker keeps in a folder there for the next process, and for no other tracker?"""

from __future__ import annotations

import pytest

from tfdist.tracking import kept_state


def test_each_tracker_finds_its_own(tmp_path):
    folder = str(tmp_path / "new")
    assert kept_state.kept(folder, "mlflow") == {}
    kept_state.keep(folder, "mlflow", {"run_id": "1"})
    kept_state.keep(folder, "wandb", {"run_id": "2"})
    assert kept_state.kept(folder, "mlflow") == {"run_id": "1"}
    assert kept_state.kept(folder, "wandb") == {"run_id": "2"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trackers.json"]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept_state.keep(None, "mlflow", {"run_id": "1"})
    assert kept_state.kept(None, "mlflow") == {}
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(ValueError, match=r"trackers\.json .*is no JSON.*Delete it"):
        kept_state.kept(str(tmp_path), "mlflow")
