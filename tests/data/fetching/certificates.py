"""Certificates that the tests sign for themselves: for a web server of a given name, and for content credentials."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


def _builder(name: str, issuer: str, key: Key) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    named = [
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in (name, issuer)
    ]
    builder = x509.CertificateBuilder().subject_name(named[0]).issuer_name(named[1]).public_key(key.public_key())
    return (
        builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names}, encipher_only=False, decipher_only=False)


def root() -> tuple[x509.Certificate, Key]:
    """An authority's own certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("Test authority", "Test authority", key).add_extension(x509.BasicConstraints(True, None), critical=True)
    return builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True).sign(key, hashes.SHA256()), key


def signed(name: str, authority: tuple[x509.Certificate, Key], purpose: x509.ObjectIdentifier) -> tuple[x509.Certificate, Key]:
    """A certificate for one purpose under an authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, "Test authority", key).add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority[1].public_key()), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(authority[1], hashes.SHA256()), key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def authority(folder: Path) -> tuple[Path, Callable[[str], ssl.SSLContext]]:
    """The file of an authority's certificate, and what makes a server's context for a name."""
    own = root()
    file = folder / "authority.pem"
    file.write_bytes(pem(own[0]))

    def server(name: str) -> ssl.SSLContext:
        certificate, key = signed(name, own, ExtendedKeyUsageOID.SERVER_AUTH)
        place = folder / f"{name}.pem"
        place.write_bytes(pem(certificate) + key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place)
        return context

    return file, server
