"""Are the records of files found, each where it is, and is a faulty file named?"""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data.files.record_index import records_of


def _tfrecords(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)
    return path


def test_records_of_several_files_are_numbered_in_order(tmp_path):
    files = [
        _tfrecords(tmp_path / "a", [b"one", b"", b"three" * 9]),
        _tfrecords(tmp_path / "b", []),
        _tfrecords(tmp_path / "c", [b"four"]),
    ]
    records = records_of(files, format="tfrecord")
    assert len(records) == 4
    found = [records.read(number) for number in range(4)]
    assert found == [b"one", b"", b"three" * 9, b"four"]
    assert found == [one.numpy() for one in tf.data.TFRecordDataset([str(f) for f in files])]


@pytest.mark.parametrize("text", ["", "a\n", "a", "a\n\nb", "\n", "grün\nüber\r\n"])
def test_lines_are_those_of_tensorflow(tmp_path, text):
    file = tmp_path / "lines"
    file.write_bytes(text.encode())
    records = records_of([file], format="text")
    found = [records.read(number).rstrip(b"\r") for number in range(len(records))]
    assert found == [line.numpy() for line in tf.data.TextLineDataset(str(file))]


def test_places_are_kept_beside_the_file_until_it_changes(tmp_path):
    file = tmp_path / "lines"
    file.write_text("a\nb\n")
    assert len(records_of([file], format="text")) == 2
    beside = tmp_path / "lines.index.npy"
    places = np.load(beside)
    places[2, 1] = 0
    np.save(beside, places)
    assert records_of([file], format="text").read(0) == b""  # it is what was read
    file.write_text("a\nb\nc\n")
    assert records_of([file], format="text").read(2) == b"c"
    beside.write_bytes(b"\x93NUMPY cut")
    assert len(records_of([file], format="text")) == 3


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    file = tmp_path / "lines"
    file.write_text("a\n")
    (tmp_path / "lines.index.npy").mkdir()  # what root may do, too, fails here
    assert len(records_of([file], format="text")) == 1
    assert sorted(os.listdir(tmp_path / "lines.index.npy")) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\x1f\x8b\x08\x00 and so on", "is compressed by gzip"),
        (b"no records, but a text", "is no file of TFRecords, or is cut: the record at byte 0"),
        (b"short", "is no file of TFRecords, or is cut"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, part):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {part}"):
        records_of([file], format="tfrecord")


def test_a_cut_file_is_refused(tmp_path):
    file = _tfrecords(tmp_path / "a", [b"one", b"two"])
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is cut: the record at byte 19 ends behind the file's 35"):
        records_of([file], format="tfrecord")


def test_a_file_that_became_shorter_is_told(tmp_path):
    file = tmp_path / "lines"
    file.write_text("a\nbcd\n")
    records = records_of([file], format="text")
    file.write_text("a\n")
    with pytest.raises(ValueError, match="has become shorter"):
        records.read(1)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="files is empty"):
        records_of([], format="text")
    with pytest.raises(ValueError, match="format='csv' is unknown; there are tfrecord, text"):
        records_of(["a"], format="csv")
