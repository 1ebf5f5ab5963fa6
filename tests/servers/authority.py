"""A made-up authority, and certificates that it signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
COMMON_NAME = "somebody.test"
"""Of every certificate that is signed; it stands in no SAN."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates of servers and of callers."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority.test")
        signed = (
            _begun(self._name, self._name, self._key, until=DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = signed.public_bytes(serialization.Encoding.PEM)
        """PEM: what whoever trusts it needs."""

    def signs(self, *names: str, until: timedelta = DAY) -> Pair:
        """Return a pair with these names in its SAN: an IPv4 address, a URI, or a DNS name; none at all is none."""
        key = ec.generate_private_key(ec.SECP256R1())
        building = _begun(_name(COMMON_NAME), self._name, key, until=until)
        if names:
            building = building.add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
        signed = building.sign(self._key, hashes.SHA256())
        return Pair(
            signed.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, until: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - 3 * DAY)
        .not_valid_after(datetime.now(UTC) + until)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    if ":" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.IPAddress(IPv4Address(name)) if name[0].isdigit() else x509.DNSName(name)
