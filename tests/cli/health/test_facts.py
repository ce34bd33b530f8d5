"""Is what is known of a host true, complete and free of secrets, and can it be read elsewhere?"""

from __future__ import annotations

import sys

import pytest
from planting import plant_packages

from tfdist.cli.health import facts


def test_packages_are_those_that_python_would_import(tmp_path):
    first = plant_packages(tmp_path / "a", tensorflow_cpu="2.21.0", unknown="1")
    second = plant_packages(tmp_path / "b", tensorflow_cpu="2.18.0", Keras="3.13.2")
    found = facts.versions([first, second])
    assert found == {"tensorflow-cpu": "2.21.0", "keras": "3.13.2"}


def test_secrets_are_not_shown():
    environ = {
        "RAY_AUTH_TOKEN": "abc", "TFDIST_SECRET": "abc", "NCCL_DEBUG": "INFO", "HOME": "/abc",
        "TF_VAR_password": "abc", "https_proxy": "http://me:abc@proxy:3128",
        "AWS_SECRET_ACCESS_KEY": "abc", "TF_CONFIG": "{}",
    }  # fmt: skip
    assert facts.shown_environ(environ) == {
        "NCCL_DEBUG": "INFO", "RAY_AUTH_TOKEN": "(set)", "TFDIST_SECRET": "(set)",
        "TF_CONFIG": "{}", "https_proxy": "http://proxy:3128",
    }  # fmt: skip


def test_this_host():
    found = facts.collect({"KERAS_HOME": "/no/such/folder"})
    assert found.python[1] == sys.executable
    assert found.packages["keras"].startswith("3.")
    assert found.cores[0] >= 1
    assert 0 < found.memory_bytes[1] <= found.memory_bytes[0]
    assert found.keras_json == ""
    assert found.clock[1] == 0
    assert facts.from_json(facts.to_json(found)) == found


def test_the_backend_of_keras_own_file(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert facts.collect({"KERAS_HOME": str(tmp_path)}).keras_json == "jax"


@pytest.mark.parametrize(
    ("text", "told"),
    [("hello", "It is no JSON"), ("[1]", "It holds no report"), ('{"a": 1}', "holds no report")],
)
def test_what_is_no_report(text, told):
    with pytest.raises(ValueError, match=told):
        facts.from_json(text)


def test_a_report_of_another_version_can_be_read():
    text = '{"python": ["3.12.1", "python"], "packages": {"keras": "3.13.2"}, "new": 1}'
    assert facts.from_json(text).packages == {"keras": "3.13.2"}
