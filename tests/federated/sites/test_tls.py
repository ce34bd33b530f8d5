"""Is nobody let in, and nobody connected to, who has no certificate of the authority?"""

from __future__ import annotations

import ssl

import pytest
from certificates import made

from tfdist.federated.sites import tls


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "no.such.host.invalid"])
def test_without_certificates_only_this_host(side, host):
    with pytest.raises(ValueError, match="no certificates were given"):
        tls.wrapped(side, None, host=host)
    for own in ("127.0.0.1", "::1", "localhost"):
        assert tls.wrapped(side, None, host=own) is None


def test_both_sides_have_to_show_a_certificate_of_one_authority(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'tfdist[federated]'")
    one = made(tmp_path, "server")["server"]
    for side in ("server", "client"):
        context = tls.wrapped(side, one, host="192.0.2.7")
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs()) == 1  # none of the system's
        assert context.check_hostname is (side == "client")


def test_files_that_cannot_be_used_are_named(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'tfdist[federated]'")
    one = made(tmp_path, "server")["server"]
    (tmp_path / "server.key").chmod(0o640)
    with pytest.raises(ValueError, match="can be read by others"):
        one.context("server")
    (tmp_path / "server.key").chmod(0o600)
    (tmp_path / "authority.pem").write_text("nothing")
    with pytest.raises(ValueError, match="Give files in PEM"):
        one.context("client")
