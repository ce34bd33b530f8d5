"""Is a checkpoint there as a whole or not at all, and is every damage to it seen?"""

from __future__ import annotations

import json
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import hypothesis
import pytest
from hypothesis import strategies

from tfdist.checkpoint import manifest

_FILES = {"tensors.data": bytes(range(256)) * 4, "state.json": b'{"epoch": 3}', "empty": b""}


def _write(folder: pathlib.Path) -> None:
    for name, content in _FILES.items():
        (folder / name).write_bytes(content)


def _names(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_publish_and_read(tmp_path):
    facts = {"score": 0.1 + 0.2, "text": "Grüße", "deep": {"a": [1, None, True]}}
    folder = manifest.publish(tmp_path, _write, step=7, facts=facts)
    body = manifest.read_manifest(folder)
    assert {key: body[key] for key in facts} == facts
    assert body["step"] == 7
    assert body["files"].keys() == _FILES.keys()
    assert manifest.peek(folder)["score"] == facts["score"]


def test_newest_is_the_last_written_whatever_its_step(tmp_path):
    made = [manifest.publish(tmp_path, _write, step=step) for step in (300, 20, 20)]
    (tmp_path / "notes").mkdir()
    (tmp_path / "1000000-step-1").mkdir()
    assert manifest.list_checkpoints(tmp_path) == [*made, tmp_path / "1000000-step-1"]
    assert manifest.publish(tmp_path, _write, step=1).name == "1000001-step-1"


def test_nothing_to_list(tmp_path):
    assert manifest.list_checkpoints(tmp_path / "absent") == []
    assert manifest.peek(tmp_path) == {}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_write_leaves_what_was_there(tmp_path, error):
    before = manifest.publish(tmp_path, _write, step=1)

    def fail(folder: pathlib.Path) -> None:
        _write(folder)
        raise error

    with pytest.raises(type(error)):
        manifest.publish(tmp_path, fail, step=2)
    assert _names(tmp_path) == [before.name]
    manifest.read_manifest(before)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    before = manifest.publish(tmp_path, _write, step=1)
    code = f"""
        import pathlib, resource
        from tfdist.checkpoint import manifest
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        root = pathlib.Path({str(tmp_path)!r})
        manifest.publish(root, lambda f: (f / "a").write_bytes(bytes(100_000)) and None, step=2)
    """
    done = _run(code)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert _names(tmp_path) == [before.name]
    manifest.read_manifest(before)


def test_killed_writer_leaves_whole_checkpoints_only(tmp_path):
    code = f"""
        import pathlib
        from tfdist.checkpoint import manifest
        root = pathlib.Path({str(tmp_path)!r})
        def write(folder):
            for number in range(8):
                (folder / str(number)).write_bytes(bytes([number]) * 100_000)
        for step in range(10_000):
            folder = manifest.publish(root, write, step=step)
            manifest.remove_all_but(root, [folder])
    """
    chance, newest = random.Random(1), -1
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
        try:
            _wait_for_checkpoint_after(tmp_path, newest)
            time.sleep(0.2 * chance.random())
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=10)
        for folder in manifest.list_checkpoints(tmp_path):
            manifest.read_manifest(folder)
        assert _newest(tmp_path) > newest
        newest = _newest(tmp_path)
    manifest.remove_leftovers(tmp_path)
    assert _names(tmp_path) == [path.name for path in manifest.list_checkpoints(tmp_path)]


def _newest(root: pathlib.Path) -> int:
    """Returns the serial number of the last checkpoint, or -1."""
    return max((int(path.name[:6]) for path in manifest.list_checkpoints(root)), default=-1)


def _wait_for_checkpoint_after(root: pathlib.Path, serial: int) -> None:
    """Waits until a new process has started to write, however slow the machine is."""
    deadline = time.monotonic() + 60
    while _newest(root) <= serial:
        assert time.monotonic() < deadline, "no new checkpoint within 60 s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> pathlib.Path:
    return manifest.publish(tmp_path_factory.mktemp("runs"), _write, step=7, facts={"a": 1.5})


@hypothesis.given(data=strategies.data())
@hypothesis.settings(max_examples=300)
def test_damage_of_any_byte_is_seen(written, data):
    path = data.draw(strategies.sampled_from(sorted(written.iterdir())))
    content = path.read_bytes()
    damage = data.draw(strategies.sampled_from(["cut", "flip", "lengthen", "remove", "empty"]))
    offset = data.draw(strategies.integers(0, max(len(content) - 1, 0)))
    bit = 1 << data.draw(strategies.integers(0, 7))
    damaged = {
        "cut": content[:offset],
        "flip": content[:offset] + bytes(b ^ bit for b in content[offset : offset + 1])
        + content[offset + 1 :],
        "lengthen": content + b"\0",
        "remove": None,
        "empty": b"",
    }[damage]
    hypothesis.assume(damaged != content)
    good = manifest.read_manifest(written)
    try:
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        try:
            found = manifest.read_manifest(written)
        except ValueError as error:
            assert path.name in str(error)
        else:  # a blank of the manifest that became another one
            assert path.name == manifest.MANIFEST
            assert found == good
    finally:
        path.write_bytes(content)


_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats()
    | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner, max_size=3)
    | strategies.dictionaries(
        strategies.sampled_from(["format", "files", "bytes", "sha256", "a", "../a", "", "\0"]),
        inner, max_size=4,
    ),
    max_leaves=10,
)
_SEALED = strategies.fixed_dictionaries({"format": strategies.just(1), "files": _JSON})


@hypothesis.given(strategies.text() | strategies.binary() | _JSON.map(json.dumps))
def test_any_manifest_is_refused(written, content):
    assert _refusal(written, content if isinstance(content, bytes) else content.encode())


@hypothesis.given(_JSON | _SEALED)
def test_any_manifest_with_a_right_checksum_is_read_or_refused(written, body):
    hypothesis.assume(isinstance(body, dict))
    text = json.dumps({**body, "checksum": manifest._checksum(body)})
    said = _refusal(written, text.encode())
    if body.get("format") != 1:
        assert "and this tfdist reads 1 only" in said
    elif not said:
        assert body["files"] == {}  # there are no others with right checksums


def _refusal(folder, content):
    """Returns what is said against a manifest of this content; any error but ValueError fails."""
    path = folder / manifest.MANIFEST
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        manifest.read_manifest(folder)
    except ValueError as error:
        return str(error)
    finally:
        manifest.peek(folder)
        path.write_bytes(before)
    return ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "cut short or garbled"),
        ("", "cut short or garbled"),
        ("[" * 100_000, "cut short or garbled"),
        ("{}", "cut short or garbled"),
        ('{"checksum": "0"}', "not what was written"),
    ],
)
def test_manifest_that_is_none(tmp_path, content, said):
    folder = manifest.publish(tmp_path, _write, step=1)
    (folder / manifest.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=said):
        manifest.read_manifest(folder)


def test_manifest_of_another_format(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 99)
    folder = manifest.publish(tmp_path, _write, step=1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format is 99, and this tfdist reads 1 only"):
        manifest.read_manifest(folder)


def test_damage_is_no_part_of_the_name_of_a_file(tmp_path):
    folder = manifest.publish(tmp_path, _write, step=1)
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()
    with pytest.raises(ValueError, match="state.json"):
        manifest.read_manifest(folder)


def test_removing(tmp_path):
    made = [manifest.publish(tmp_path, _write, step=step) for step in range(4)]
    (tmp_path / ".writing-000009-step-9-1").mkdir()
    (tmp_path / ".removing-000001-step-0").mkdir()
    (tmp_path / "mine.txt").write_text("stays")
    manifest.remove_all_but(tmp_path, [made[1], made[3]])
    manifest.remove(tmp_path / "000009-step-9")  # gone already
    manifest.remove_leftovers(tmp_path)
    assert _names(tmp_path) == [made[1].name, made[3].name, "mine.txt"]


def test_manifest_is_readable_json(tmp_path):
    folder = manifest.publish(tmp_path, _write, step=1)
    assert "\n" in (folder / manifest.MANIFEST).read_text()
    assert json.loads((folder / manifest.MANIFEST).read_text())["step"] == 1


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=False,
    )
