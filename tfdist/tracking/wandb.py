"""How is a run told to Weights & Biases?  Offline, in files that `wandb sync` may send later."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from tfdist.tracking import kept_state
from tfdist.tracking.tracker import Value, flat, require

_NAME = "wandb"
_WELL = ("finished", "saved")


class WeightsAndBiases:
    """A tracker that tells Weights & Biases, beside whatever run of its own a program has there.

    Nothing is sent. `wandb sync FOLDER/wandb/offline-run-*` sends it, if you wish. A run that is
    resumed from its checkpoints has the same number, so that both parts become one run then.

    Args:
        project: Its name.
        folder: The folder in which a folder "wandb" is made.
        mode: Of `wandb.init`: "offline"; "online" sends, for which `wandb login` is needed.

    Raises:
        ImportError: The package wandb is not installed.
    """

    def __init__(
        self,
        project: str = "tfdist",
        *,
        folder: str | os.PathLike[str] = ".",
        mode: Literal["online", "offline", "disabled", "shared"] = "offline",
    ) -> None:
        require("wandb", tracker="WeightsAndBiases", extra="wandb")
        self._project, self._mode = project, mode
        self._folder = os.path.abspath(os.path.expanduser(folder))
        self._run: Any = None

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins a run of Weights & Biases, or goes on with one; see `Tracker`."""
        import wandb

        folder = config.get("checkpoint_dir")
        kept = kept_state.kept(folder, _NAME)
        run_id = kept.get("run_id") or secrets.token_hex(4)
        os.makedirs(self._folder, exist_ok=True)
        self._run = wandb.init(
            project=self._project, dir=self._folder, mode=self._mode, id=run_id, resume="allow",
            config=flat(config), reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        kept_state.keep(folder, _NAME, {"run_id": run_id})

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Tells numbers as history, and texts in the summary; see `Tracker`."""
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        self._run.summary.update(texts)
        self._run.log({k: v for k, v in values.items() if k not in texts}, step=step)

    def finish(self, status: str) -> None:
        """Ends the run of Weights & Biases; see `Tracker`."""
        self._run.summary["run/status"] = status
        self._run.finish(exit_code=0 if status in _WELL else 1)
