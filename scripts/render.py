"""Writes the description of a job for a cluster or cloud that starts the workers.

    python scripts/render.py --target=slurm --workers=4 train.py --epochs=5 | sbatch
    python scripts/render.py --target=kubernetes --name=digits --image=IMAGE train.py > job.yaml
    python scripts/render.py --target=vertex --image=IMAGE --machine=n1-standard-8 train.py

Targets: slurm (a script), kubernetes, kubeflow, azureml (YAML), sagemaker (JSON: arguments of its
Estimator), vertex (JSON: a CustomJob). Everything after the script's name belongs to the script.
"""

from __future__ import annotations

import sys

from absl import app, flags

from tfdist.launch import output, render

_TARGET = flags.DEFINE_enum("target", None, list(render.TARGETS), "Who starts the workers.")
_NAME = flags.DEFINE_string("name", "tfdist", "Name of the job.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Number of workers.", lower_bound=1)
_IMAGE = flags.DEFINE_string("image", "", "Container with Python, tfdist and the script.")
_MACHINE = flags.DEFINE_string(
    "machine", "", "Machine type (sagemaker, vertex) or compute cluster (azureml)."
)
_CPUS = flags.DEFINE_integer("cpus", 4, "CPUs of each worker.", lower_bound=1)
_MEMORY_GIB = flags.DEFINE_integer("memory_gib", 16, "Memory of each worker.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 0, "GPUs of each worker.", lower_bound=0)
_ACCELERATOR = flags.DEFINE_string("accelerator", "", "Kind of GPU, as the cloud calls it (vertex)")
_MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 0, "Restarts of all workers.", lower_bound=0)
_HOURS = flags.DEFINE_float("hours", 24.0, "Longest time of the whole job.", lower_bound=0.0)


def main(argv: list[str]) -> None:
    if _TARGET.value is None or len(argv) < 2:
        raise app.UsageError("Give --target=... and the script that the workers run.")
    try:
        request = render.Request(
            target=_TARGET.value,
            name=_NAME.value,
            script=argv[1],
            args=tuple(argv[2:]),
            workers=_WORKERS.value,
            image=_IMAGE.value,
            machine=_MACHINE.value,
            cpus=_CPUS.value,
            memory_gib=_MEMORY_GIB.value,
            gpus=_GPUS.value,
            accelerator=_ACCELERATOR.value,
            max_restarts=_MAX_RESTARTS.value,
            hours=_HOURS.value,
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    output.write(render.render(request).encode(), sys.stdout)  # UTF-8, whatever the terminal speaks


if __name__ == "__main__":
    # Else absl would take the script's own flags for this program's.
    flags.FLAGS.set_gnu_getopt(False)
    app.run(main)
