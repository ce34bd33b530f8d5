"""Would a cluster or cloud start the right workers from what is rendered?"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import time

import launching
import pytest

from tfdist.cluster.detection import detect_cluster
from tfdist.cluster.meeting import find_address
from tfdist.launch import render

_SCRIPT = launching.CHECKOUT / "scripts" / "render.py"


def _request(target, **changes):
    machine = {} if target in ("slurm", "kubernetes", "kubeflow") else {"machine": "big"}
    image = {} if target == "slurm" else {"image": "images/digits:1"}
    asked = {"name": "digits", "script": "train.py", "args": ("--epochs=5", "a b"), "workers": 3}
    return render.Request(target=target, **{**asked, **machine, **image, **changes})


def _by_kind(documents):
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def complaints_about(documents):
    """What the validators of Kubernetes miss; lines that say what is wrong."""
    kinds = _by_kind(documents)
    job, service, policy = (kinds[kind]["spec"] for kind in ("Job", "Service", "NetworkPolicy"))
    pod = job["template"]["spec"]
    labels = job["template"]["metadata"]["labels"]
    pods = {"podSelector": {"matchLabels": service["selector"]}}
    rules = [
        ("restartPolicy", pod.get("restartPolicy") == "Never"),
        ("completionMode", job.get("completionMode") == "Indexed"),
        ("completions", job.get("completions") == job.get("parallelism")),
        ("headless", service.get("clusterIP") == "None"),
        ("not ready", service.get("publishNotReadyAddresses") is True),
        ("subdomain", pod.get("subdomain") == kinds["Service"]["metadata"]["name"]),
        ("service's pods", service["selector"].items() <= labels.items()),
        ("policy's pods", policy["podSelector"] == pods["podSelector"]),
        ("own pods only", policy.get("ingress") == [{"from": [pods]}]),
        ("ingress", policy.get("policyTypes") == ["Ingress"]),
        ("selector", bool(service["selector"])),
    ]
    return [name for name, is_right in rules if not is_right]


@pytest.mark.parametrize("target", render.TARGETS)
def test_any_text_comes_out_as_it_went_in(target):
    import yaml

    text = "\N{ROCKET} é \u2028 \x85 \x7f \t \N{NO-BREAK SPACE} \" \\ ' #"
    request = _request(target, args=(text,), **({"accelerator": "a"} if target == "vertex" else {}))
    rendered = render.render(request)
    if target == "slurm":
        assert text in shlex.split(rendered.strip("\n").rpartition("\n")[2])
    elif target in ("sagemaker", "vertex"):
        assert text in _texts(json.loads(rendered))
    else:
        assert text in _texts(list(yaml.safe_load_all(rendered)))


def _texts(value):
    """All texts in it, and what a shell would make of them."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value, *(shlex.split(value) if "train.py" in str(value) else [])]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"script": "\udcff.py"}, "script='\\udcff.py' has bytes that are no UTF-8"),
        ({"args": ("a", "\ud83d")}, "args='\\ud83d' has bytes that are no UTF-8"),
        ({"hours": float("inf")}, "hours=inf must be above 0"),
    ],
)
def test_what_no_description_can_hold_is_refused(changes, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        _request("kubernetes", **changes)


# ---------------------------------------------------------------------------------- Kubernetes


def test_kubernetes_is_consistent():
    assert complaints_about(render.kubernetes(_request("kubernetes"))) == []


@pytest.mark.parametrize(
    ("kind", "path", "value", "complaint"),
    [
        ("Job", "spec template spec restartPolicy", "Always", "restartPolicy"),
        ("Job", "spec completionMode", "NonIndexed", "completionMode"),
        ("Job", "spec completions", 7, "completions"),
        ("Job", "spec template spec subdomain", "other", "subdomain"),
        ("Job", "spec template metadata labels", {}, "service's pods"),
        ("Service", "spec clusterIP", "", "headless"),
        ("Service", "spec publishNotReadyAddresses", False, "not ready"),
        ("NetworkPolicy", "spec podSelector", {}, "policy's pods"),
        ("NetworkPolicy", "spec ingress", [{}], "own pods only"),
        ("NetworkPolicy", "spec ingress", [{"from": [{"podSelector": {}}]}], "own pods only"),
        ("NetworkPolicy", "spec policyTypes", [], "ingress"),
    ],
)
def test_checks_find_what_is_wrong(kind, path, value, complaint):
    documents = json.loads(json.dumps(render.kubernetes(_request("kubernetes"))))
    *folders, name = path.split()
    part = _by_kind(documents)[kind]
    for folder in folders:
        part = part[folder]
    part[name] = value
    assert complaint in complaints_about(documents)


def test_kubernetes_against_its_schema():
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in render.kubernetes(_request("kubernetes", gpus=2, max_restarts=2)):
        validate.validate(document, "1.31", strict=True)


def test_pods_find_their_places():
    """From the environment that Kubernetes makes of the document."""
    job = _by_kind(render.kubernetes(_request("kubernetes")))["Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    for rank in range(3):
        environ = {
            **given,
            "KUBERNETES_SERVICE_HOST": "10.96.0.1",
            "JOB_COMPLETION_INDEX": str(rank),
        }
        found = detect_cluster(environ)
        assert (found.rank, found.size, found.source) == (rank, 3, "Kubernetes")
        # Pod 0 of an Indexed Job with a subdomain has this name.
        assert find_address(found, environ) == ("digits-0.digits", (render.ROLL_CALL_PORT,))
    assert container["command"] == ["python", "train.py", "--epochs=5", "a b"]


def test_secret_is_new_each_time_and_given_to_the_pods():
    first, second = (_by_kind(render.kubernetes(_request("kubernetes"))) for _ in range(2))
    assert first["Secret"]["stringData"] != second["Secret"]["stringData"]
    env = first["Job"]["spec"]["template"]["spec"]["containers"][0]["env"]
    [entry] = [entry for entry in env if entry["name"] == "TFDIST_SECRET"]
    reference = entry["valueFrom"]["secretKeyRef"]
    assert reference["name"] == first["Secret"]["metadata"]["name"]
    assert len(first["Secret"]["stringData"][reference["key"]]) == 64


def test_yaml_is_read_back_as_it_was():
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    for target in ("kubernetes", "kubeflow", "azureml"):
        document = render._MAKERS[target](_request(target))
        text = render.render(_request(target))
        found = list(yaml.safe_load_all(text))
        wanted = document if isinstance(document, list) else [document]
        for one, other in itertools.zip_longest(found, wanted):
            if one["kind" if "kind" in one else "type"] != "Secret":
                assert one == other


def test_kubeflow():
    document = render.kubeflow(_request("kubeflow", gpus=1))
    trainer = document["spec"]["trainer"]
    assert document["kind"] == "TrainJob"
    assert trainer["numNodes"] == 3
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "1"


# --------------------------------------------------------------------------------------- clouds


def test_sagemaker():
    document = json.loads(render.render(_request("sagemaker", hours=2)))
    assert (document["instance_count"], document["instance_type"]) == (3, "big")
    assert document["container_entry_point"] == ["python", "train.py", "--epochs=5", "a b"]
    assert document["max_run"] == 7200
    assert "distribution" not in document


def test_azureml():
    document = render.azureml(_request("azureml"))
    assert document["command"] == "python train.py --epochs=5 'a b'"
    assert document["resources"] == {"instance_count": 3}
    assert document["distribution"]["worker_count"] == 3


@pytest.mark.parametrize(("workers", "counts"), [(1, [1]), (2, [1, 1]), (5, [1, 4])])
def test_vertex(workers, counts):
    asked = _request("vertex", workers=workers, gpus=2, accelerator="NVIDIA_L4", max_restarts=1)
    spec = json.loads(render.render(asked))["jobSpec"]
    assert [pool["replicaCount"] for pool in spec["workerPoolSpecs"]] == counts
    for pool in spec["workerPoolSpecs"]:
        assert pool["machineSpec"]["acceleratorCount"] == 2
        assert pool["containerSpec"]["args"] == ["--epochs=5", "a b"]
    assert spec["scheduling"] == {"timeout": "86400s", "restartJobOnWorkerRestart": True}


# ---------------------------------------------------------------------------------------- Slurm


def test_slurm_script_is_right(tmp_path):
    script = render.render(_request("slurm", gpus=2, hours=0.5))
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True, timeout=20)
    options = re.findall(r"^#SBATCH --(\S+)$", script, re.MULTILINE)
    assert {"ntasks=3", "gpus-per-task=2", "time=30", "signal=B:USR1@90"} <= set(options)
    assert script.splitlines()[-1].startswith("exec python -m tfdist.launch --engine=slurm ")
    assert script.endswith(" train.py --epochs=5 'a b'\n")


@pytest.mark.slow
def test_slurm_runs_it(tmp_path):
    if shutil.which("sbatch") is None or subprocess.run(["sinfo", "-h"], check=False).returncode:
        pytest.skip("Slurm does not run here: bash scripts/setup_engines.sh")
    launching.write_program(tmp_path, "import os, sys; print(sys.argv[1:])")
    environ = launching.environ_with()
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    flags = ["--target=slurm", "--cpus=1", "--memory_gib=1", "--hours=0.1", "program.py", "a b"]
    rendered = _run(*flags)
    # A cluster of one small node may know nothing of memory.
    script = re.sub(r"#SBATCH --mem.*\n", "", rendered.stdout)
    done = subprocess.run(
        ["sbatch", "--wait"],
        input=script,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    time.sleep(0.2)
    [log] = tmp_path.glob("tfdist-*.log")
    assert done.returncode == 0, done.stderr + log.read_text()
    assert sorted(log.read_text().splitlines()) == [f"[worker {n}] ['a b']" for n in (0, 1)]


# ---------------------------------------------------------------------------------- the script


def _run(*arguments):
    return subprocess.run(
        [sys.executable, str(_SCRIPT), *arguments],
        env=launching.environ_with(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_flags_of_the_script_are_its_own():
    done = _run("--target=sagemaker", "--image=i", "--machine=m", "train.py", "--workers=9", "-m")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["instance_count"] == 2
    assert document["container_entry_point"] == ["python", "train.py", "--workers=9", "-m"]


def test_no_script_is_an_error():
    done = _run("--target=slurm")
    assert done.returncode == 2
    assert "the script that the workers run" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "changes", "told"),
    [
        ("banana", {}, "target='banana' is unknown"),
        ("kubernetes", {"image": ""}, "target='kubernetes' needs image"),
        ("vertex", {"machine": ""}, "target='vertex' needs machine"),
        ("vertex", {"gpus": 1}, "needs accelerator"),
        ("kubernetes", {"name": "Digits"}, "name='Digits' must be small letters"),
        ("kubernetes", {"name": "a" * 43}, "42 characters at most"),
        ("slurm", {"workers": 0}, "workers=0 must be 1 at least"),
        ("slurm", {"gpus": -1}, "gpus=-1 must be 0 at least"),
        ("slurm", {"hours": float("nan")}, "hours=nan must be above 0"),
        ("azureml", {"max_restarts": 1}, "cannot restart the workers"),
    ],
)
def test_wrong_requests(target, changes, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        _request(target, **changes)
