"""How is a job described to a cluster or cloud that starts the workers itself?

Each function takes a request, and returns the documents of one target as plain dicts and lists;
`render` turns them into text.

    >>> asked = Request(target="vertex", name="digits", script="train.py", workers=2,
    ...                 image="images/digits", machine="n1-standard-4")
    >>> [pool["replicaCount"] for pool in vertex(asked)["jobSpec"]["workerPoolSpecs"]]
    [1, 1]

In one file, since a target is a few lines over parts that all share.

No launcher runs there: each worker finds its rank in its environment. Slurm is the exception,
where the launcher runs inside the allocation.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from tfdist.cluster import contract
from tfdist.cluster.contract import NUM_WORKERS, PREEMPTED

ROLL_CALL_PORT = 9900  # in Kubernetes, at worker 0
SAVE_SECS = 60  # between the notice and the end, for the workers to save
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")  # as Kubernetes wants it, with an index

# Which fields of the request each target needs.
_NEEDED = {
    "slurm": (),
    "kubernetes": ("image",),
    "kubeflow": ("image",),
    "sagemaker": ("image", "machine"),
    "azureml": ("image", "machine"),
    "vertex": ("image", "machine"),
}
TARGETS = tuple(_NEEDED)


@dataclasses.dataclass(frozen=True)
class Request:
    """A request, the same for every target."""

    target: str
    name: str  # of the job
    script: str  # Python program that each worker runs
    args: tuple[str, ...] = ()  # its arguments
    workers: int = 2
    image: str = ""  # container that holds Python, tfdist and the script
    machine: str = ""  # the cloud's name of a machine type, or of a compute cluster (azureml)
    cpus: int = 4  # of each worker, if the machine type does not decide it
    memory_gib: int = 16  # of each worker, likewise
    gpus: int = 0  # of each worker
    accelerator: str = ""  # the cloud's name of the kind of GPU (vertex)
    max_restarts: int = 0
    hours: float = 24.0  # longest time of the whole job

    def __post_init__(self) -> None:
        if self.target not in _NEEDED:
            raise ValueError(f"target={self.target!r} is unknown; use one of {TARGETS}.")
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name={self.name!r} must be small letters, digits and hyphens, begin with a letter"
                " and have 42 characters at most."
            )
        for name, least in (
            ("workers", 1),
            ("cpus", 1),
            ("memory_gib", 1),
            ("gpus", 0),
            ("max_restarts", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {least} at least.")
        if not 0 < self.hours < 1e6:
            raise ValueError(f"hours={self.hours!r} must be above 0, and no more than a century.")
        texts = {name: value for name, value in vars(self).items() if isinstance(value, str)}
        for name, text in [*texts.items(), *(("args", argument) for argument in self.args)]:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(
                    f"{name}={text!r} has bytes that are no UTF-8, and no description can hold "
                    "them. Give it another name."
                )
        for name in _NEEDED[self.target]:
            if not getattr(self, name):
                raise ValueError(f"target={self.target!r} needs {name}; give it.")
        if self.max_restarts and self.target in ("kubeflow", "sagemaker", "azureml"):
            raise ValueError(
                f"target={self.target!r} cannot restart the workers of a job: max_restarts="
                f"{self.max_restarts!r} must be 0. Submit the same job again: it resumes from its"
                " checkpoint."
            )
        if self.target == "vertex" and self.gpus and not self.accelerator:
            raise ValueError("target='vertex' with gpus needs accelerator; give it.")

    @property
    def secs(self) -> int:
        """Longest time of the whole job, in seconds."""
        return max(1, round(self.hours * 3600))

    @property
    def command(self) -> list[str]:
        """What each worker runs."""
        return ["python", self.script, *self.args]


def render(request: Request) -> str:
    """Returns the job's description as text: YAML, JSON, or for Slurm a script for sbatch."""
    if request.target == "slurm":
        return slurm(request)
    document = _MAKERS[request.target](request)
    if request.target in ("sagemaker", "vertex"):
        return json.dumps(document, indent=2) + "\n"
    documents = document if isinstance(document, list) else [document]
    return "---\n".join(to_yaml(each) for each in documents)


def slurm(request: Request) -> str:
    """A script for sbatch: the launcher, which places the workers in the allocation."""
    minutes = -(-request.secs // 60)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={request.name}",
        f"#SBATCH --ntasks={request.workers}",
        f"#SBATCH --cpus-per-task={request.cpus}",
        f"#SBATCH --mem-per-cpu={max(1, request.memory_gib * 1024 // request.cpus)}M",
        *([f"#SBATCH --gpus-per-task={request.gpus}"] if request.gpus else []),
        f"#SBATCH --time={minutes}",
        f"#SBATCH --output={request.name}-%j.log",
        "# Before the time is over the launcher is told, and the workers save and leave.",
        f"#SBATCH --signal=B:USR1@{SAVE_SECS + 30}",
        "",
        "# Since Slurm 22.05 srun does not take this from sbatch by itself.",
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        "# exec: the signal goes to this process, not to its children.",
        f"exec python -m tfdist.launch --engine=slurm --workers={request.workers}"
        f" --max_restarts={request.max_restarts} --save_secs={SAVE_SECS} "
        + shlex.join(request.command[1:]),
    ]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------- Kubernetes


def kubernetes(request: Request) -> list[dict[str, Any]]:
    """An Indexed Job, its headless Service, its secret, and who may reach its pods."""
    labels = {"app.kubernetes.io/managed-by": "tfdist", "tfdist-job": request.name}
    meta = {"name": request.name, "labels": labels}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # workers have to meet before any of them is ready
            "selector": {"tfdist-job": request.name},
            "ports": [{"name": "roll-call", "port": ROLL_CALL_PORT}],
        },
    }
    own_pods = {"podSelector": {"matchLabels": {"tfdist-job": request.name}}}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta,
        "spec": {**own_pods, "policyTypes": ["Ingress"], "ingress": [{"from": [own_pods]}]},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "type": "Opaque",
        "stringData": {"secret": secrets.token_hex(32)},
    }
    return [service, policy, secret, _indexed_job(request, meta)]


def _indexed_job(request: Request, meta: dict[str, Any]) -> dict[str, Any]:
    # When a pod fails the others lose it, and fail too; each of them is restarted by itself.
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    ignored = [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [PREEMPTED]}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "completions": request.workers,
            "parallelism": request.workers,
            "completionMode": "Indexed",
            "backoffLimit": request.workers * request.max_restarts,
            "activeDeadlineSeconds": request.secs,
            "podFailurePolicy": {"rules": ignored},
            "template": {
                "metadata": {"labels": meta["labels"]},
                "spec": {
                    "restartPolicy": "Never",
                    "subdomain": request.name,
                    "terminationGracePeriodSeconds": SAVE_SECS,
                    "automountServiceAccountToken": False,
                    "containers": [_container(request)],
                },
            },
        },
    }


def _container(request: Request) -> dict[str, Any]:
    return {
        "name": "worker",
        "image": request.image,
        "command": request.command,
        "env": [
            *_env(
                {
                    NUM_WORKERS: str(request.workers),
                    contract.RENDEZVOUS: f"{request.name}-0.{request.name}:{ROLL_CALL_PORT}",
                }
            ),
            {
                "name": contract.SECRET,
                "valueFrom": {"secretKeyRef": {"name": request.name, "key": "secret"}},
            },
        ],
        "resources": {"requests": _resources(request), "limits": _resources(request)},
    }


def kubeflow(request: Request) -> dict[str, Any]:
    """A TrainJob; its runtime for torchrun gives each worker a rank and the first one's address."""
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": request.name},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": request.image,
                "numNodes": request.workers,
                "command": request.command,
                "resourcesPerNode": {
                    "requests": _resources(request),
                    "limits": _resources(request),
                },
            },
        },
    }


# ------------------------------------------------------------------------------------------- clouds


def sagemaker(request: Request) -> dict[str, Any]:
    """Arguments of SageMaker's Estimator; without a `distribution`, so that SM_HOSTS tells all."""
    return {
        "base_job_name": request.name,
        "image_uri": request.image,
        "instance_count": request.workers,
        "instance_type": request.machine,
        "container_entry_point": request.command,
        "max_run": request.secs,
        "environment": {contract.ROLL_CALL_SECS: "600"},
    }


def azureml(request: Request) -> dict[str, Any]:
    """A command job; its TensorFlow distribution sets TF_CONFIG."""
    return {
        "$schema": "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json",
        "type": "command",
        "display_name": request.name,
        "command": shlex.join(request.command),
        "code": ".",
        "environment": {"image": request.image},
        "compute": f"azureml:{request.machine}",
        "resources": {"instance_count": request.workers},
        "distribution": {
            "type": "tensorflow",
            "worker_count": request.workers,
            "parameter_server_count": 0,
        },
        "limits": {"timeout": request.secs},
    }


def vertex(request: Request) -> dict[str, Any]:
    """A CustomJob: the chief is worker pool 0, the others are pool 1."""
    machine: dict[str, Any] = {"machineType": request.machine}
    if request.gpus:
        machine |= {"acceleratorType": request.accelerator, "acceleratorCount": request.gpus}
    pool = {
        "machineSpec": machine,
        "containerSpec": {
            "imageUri": request.image,
            "command": request.command[:2],
            "args": list(request.args),
        },
    }
    counts = [1, request.workers - 1] if request.workers > 1 else [1]
    return {
        "displayName": request.name,
        "jobSpec": {
            "workerPoolSpecs": [{"replicaCount": count, **pool} for count in counts],
            "scheduling": {
                "timeout": f"{request.secs}s",
                "restartJobOnWorkerRestart": request.max_restarts > 0,
            },
        },
    }


_MAKERS: Mapping[str, Callable[[Request], Any]] = {
    "kubernetes": kubernetes,
    "kubeflow": kubeflow,
    "sagemaker": sagemaker,
    "azureml": azureml,
    "vertex": vertex,
}


# ---------------------------------------------------------------------------------------- the parts


def _resources(request: Request) -> dict[str, str]:
    gpus = {"nvidia.com/gpu": str(request.gpus)} if request.gpus else {}
    return {"cpu": str(request.cpus), "memory": f"{request.memory_gib}Gi", **gpus}


def _env(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def to_yaml(value: Any, *, indent: int = 0) -> str:
    """Writes dicts, lists, texts, numbers and truth values as YAML.

    >>> print(to_yaml({"a": [{"b": "no"}, 1], "c": {}}), end="")
    a:
      - b: "no"
      - 1
    c: {}
    """
    pad = "  " * indent
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            lines.append(f"{pad}{key}:{_after_key(item, indent)}")
    else:
        for item in value:
            if isinstance(item, (dict, list)) and item:
                text = to_yaml(item, indent=indent + 1)
                lines.append(f"{pad}- {text[len(pad) + 2 :]}")
            else:
                lines.append(f"{pad}- {_scalar(item)}\n")
    return "".join(lines)


def _after_key(item: Any, indent: int) -> str:
    if isinstance(item, (dict, list)) and item:
        return "\n" + to_yaml(item, indent=indent + 1)
    return f" {_scalar(item)}\n"


def _scalar(item: Any) -> str:
    """Returns a scalar's JSON, which is YAML, but for the characters that JSON writes as two."""
    text = json.dumps(item, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text)
