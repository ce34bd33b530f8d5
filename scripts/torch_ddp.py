"""Times a training step of torch's DistributedDataParallel over gloo: a peer of benchmark.py.

    python scripts/torch_ddp.py RANK WORKERS PORT ROUNDS

Prints the medians of milliseconds of a step, and of a sum of as many bytes alone. Run by
`benchmark.py --peer=torch-ddp` with a Python that has torch, on the MLP and the batches that suite
reduction times tfdist on.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

_STEPS = 12
_BUCKET = 25 * 2**20  # bytes, as DistributedDataParallel sums them by default


def main(rank: int, workers: int, port: str, rounds: int) -> None:
    """Runs one worker."""
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=workers)
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)
    )
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.01, momentum=0.9)
    x, y = torch.zeros(64, 1024), torch.zeros(64, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(x), y).backward()
        optimizer.step()

    numbers = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))

    def sums() -> None:
        parts = torch.split(numbers, _BUCKET // numbers.itemsize)
        for work in [torch.distributed.all_reduce(part, async_op=True) for part in parts]:
            work.wait()

    def secs(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        for _ in range(_STEPS):
            work()
        return (time.perf_counter() - start) / _STEPS

    found = []
    for work in (step, sums):
        secs(work)  # warms up
        found.append(statistics.median(secs(work) for _ in range(rounds)))
    torch.distributed.destroy_process_group()
    print(*(1000 * one for one in found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
