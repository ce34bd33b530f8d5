"""Certificates for tests: an authority, and who it has signed."""

from __future__ import annotations

import datetime
import ipaddress
import os
import pathlib
from typing import Any

from tfdist.federated import TLS


def made(folder: pathlib.Path, *names: str) -> dict[str, TLS]:
    """Returns certificates for 127.0.0.1 and these names, all signed by an authority of their own.

    Args:
        folder: Where the files go.
        *names: What the certificates are for.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True)
    root = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM

    def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        return path

    def signed(name: str, key: Any, *, is_authority: bool) -> bytes:
        own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        now = datetime.datetime.now(datetime.timezone.utc)
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder().subject_name(own).issuer_name(issuer)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )  # fmt: skip
        return builder.sign(root, hashes.SHA256()).public_bytes(pem)

    authority = write(folder / "authority.pem", signed("authority", root, is_authority=True))
    found = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        found[name] = TLS(
            certificate=write(folder / f"{name}.pem", signed(name, key, is_authority=False)),
            key=write(folder / f"{name}.key", private), authority=authority,
        )
    return found
