"""Are masks what they should be, and are changed boxes and shared identities refused?"""

from __future__ import annotations

import numpy as np
import pytest

from tfdist.federated.secure import keys


def test_masks_cancel_in_pieces_too(monkeypatch):
    monkeypatch.setattr(keys, "_PIECE", 7)
    vector = np.arange(20, dtype=np.uint64)
    keys.add_mask(vector, b"k" * 32, sign=1)
    monkeypatch.setattr(keys, "_PIECE", 100)
    assert not (vector == np.arange(20)).any()
    keys.add_mask(vector, b"k" * 32, sign=-1)
    np.testing.assert_array_equal(vector, np.arange(20))


def test_the_mask_is_the_stream_of_chacha20():
    """The first words of RFC 8439's key stream for a key of zeros, appendix A.1, vector 1."""
    vector = np.zeros(2, np.uint64)
    keys.add_mask(vector, bytes(32), sign=1)
    assert vector.astype("<u8").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_a_box_opens_for_its_key_and_label_alone():
    box = keys.seal(b"k" * 32, b"text", b"label")
    assert keys.unseal(b"k" * 32, box, b"label") == b"text"
    for key, content, label in [
        (b"l" * 32, box, b"label"), (b"k" * 32, box, b"other"),
        (b"k" * 32, box[:-1] + bytes([box[-1] ^ 1]), b"label"), (b"k" * 32, box[:9], b"label"),
    ]:  # fmt: skip
        assert keys.unseal(key, content, label) is None


def test_an_identity_is_kept_in_a_file_of_its_own(tmp_path):
    one = keys.Identity.generate()
    one.save(tmp_path / "id")
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    assert keys.Identity.load(tmp_path / "id").public == one.public
    with pytest.raises(FileExistsError):
        one.save(tmp_path / "id")
    (tmp_path / "id").chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others"):
        keys.Identity.load(tmp_path / "id")
    (tmp_path / "short").touch(0o600)
    with pytest.raises(ValueError, match="holds 0 bytes"):
        keys.Identity.load(tmp_path / "short")


def test_a_key_that_gives_everybody_the_same_is_refused():
    with pytest.raises(ValueError):  # noqa: PT011 (the library's own)
        keys.Exchange.generate().agree(bytes(32), b"")


def test_two_agree_on_another_key_for_each_purpose():
    one, other = keys.Exchange.generate(), keys.Exchange.generate()
    found = {purpose: one.agree(other.public, purpose) for purpose in (b"mask", b"box")}
    assert found == {purpose: other.agree(one.public, purpose) for purpose in found}
    assert len(set(found.values())) == 2
