"""How are rounds run to their end, each saved and told?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tfdist.federated.record.kept import Kept
from tfdist.federated.record.telling import Teller
from tfdist.federated.rounds import Progress, Rounds
from tfdist.federated.task import Task


def run_rounds(
    rounds: Rounds, kept: Kept, teller: Teller, facts: dict[str, Any],
    before: Callable[[], None] = lambda: None,
) -> Progress:
    """Runs the rounds that are left, and saves and tells each.

    Args:
        rounds: The rounds.
        kept: Where they are saved.
        teller: Who is told.
        facts: What the run is made of.
        before: Is called before each round.
    """
    with kept:
        progress = kept.restore(rounds.server)
        with teller.run({**facts, "begins_at_step": progress.done}):
            while progress.done < rounds.plan.rounds:
                before()
                teller.round(rounds.run(progress))
                kept.save(rounds.server, progress)
    return progress


def facts_of(
    task: Task, fraction: float, names: Iterable[str], server_optimizer: Any, keep_local: Any
) -> dict[str, Any]:
    """Returns what must be the same when a run goes on."""
    optimizer = None
    if server_optimizer is not None:
        config = {**server_optimizer.get_config(), "name": type(server_optimizer).__name__}
        optimizer = json.dumps(config, sort_keys=True, default=str)
    told = {name: value for name, value in task.told().items() if name != "round_number"}
    kept = getattr(keep_local, "__qualname__", keep_local)
    return {
        **told, "fraction": float(fraction), "clients": sorted(names),
        "server_optimizer": optimizer, "keep_local": kept,
    }
