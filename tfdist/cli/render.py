"""How is a job described to a cluster or cloud that starts the workers itself?

    tfdist render --target=slurm --workers=4 train.py --epochs=5 | sbatch
    tfdist render --target=kubernetes --name=digits --image=IMAGE train.py | kubectl apply -f -
    tfdist render --target=vertex --image=IMAGE --machine=n1-standard-8 train.py

Targets: slurm (a script), kubernetes, kubeflow, azureml (YAML), sagemaker (JSON: arguments of its
Estimator), vertex (JSON: a CustomJob). Everything after the script's name belongs to the script.
Exit code 0, or 2 for wrong flags.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from tfdist.launch import output, render
from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    line = _make_line()
    rest = line.parse(argv)
    given = line.flags
    if given.target is None or not rest:
        line.refuse(
            f"give --target=... (one of {', '.join(render.TARGETS)}), and the script that the "
            "workers run"
        )
    asked = {
        name: given[name].value
        for name in ("name", "workers", "image", "machine", "cpus", "memory_gib", "gpus",
                     "accelerator", "max_restarts", "hours")
    }
    try:
        request = render.Request(
            target=given.target, script=rest[0], args=tuple(rest[1:]), **asked
        )
    except ValueError as error:
        line.refuse(str(error))
    output.write(render.render(request).encode(), sys.stdout)  # UTF-8, whatever the terminal speaks
    return 0


def _make_line() -> CommandLine:
    line = CommandLine("tfdist render", "--target=KIND [flags] script.py ARGS", text=__doc__)
    own = {"flag_values": line.flags}
    flags.DEFINE_enum("target", None, list(render.TARGETS), "Who starts the workers.", **own)
    flags.DEFINE_string("name", "tfdist", "Name of the job.", **own)
    flags.DEFINE_integer("workers", 2, "Number of workers.", lower_bound=1, **own)
    flags.DEFINE_string("image", "", "Container with Python, tfdist and the script.", **own)
    flags.DEFINE_string(
        "machine", "", "Machine type (sagemaker, vertex) or compute cluster (azureml).", **own
    )
    flags.DEFINE_integer("cpus", 4, "CPUs of each worker.", lower_bound=1, **own)
    flags.DEFINE_integer("memory_gib", 16, "Memory of each worker, in GiB.", lower_bound=1, **own)
    flags.DEFINE_integer("gpus", 0, "GPUs of each worker.", lower_bound=0, **own)
    flags.DEFINE_string("accelerator", "", "Kind of GPU, as the cloud calls it (vertex).", **own)
    flags.DEFINE_integer(
        "max_restarts", 0, "Restarts of all workers.", lower_bound=0, **own
    )
    flags.DEFINE_float("hours", 24.0, "Longest time of the whole job, in hours.", lower_bound=0.0,
                       **own)
    return line
