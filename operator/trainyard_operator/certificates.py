"""The certificate of the progress endpoint: the operator's own, or files that others (cert-manager) keep.

Its own: each replica makes a certificate authority when it starts and signs its serving certificate with it.
The keys never leave the replica: no Secret has to be read or written, and a key dies with the process that
made it. Clients trust the authorities of all replicas, see `certificate_bundle.py`.
"""

import ipaddress
import secrets
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_VALIDITY = timedelta(days=5 * 365)
"""Longer than any process lives: an authority ends with the process that holds its key."""
SERVING_VALIDITY = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
"""How far behind the clock of a client may be."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives in this process only."""

    certificate: x509.Certificate
    """What clients trust."""
    key: ec.EllipticCurvePrivateKey
    """What signs; never stored."""

    @property
    def pem(self) -> str:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate that somebody else renews in place."""

    certificate: Path
    """The serving certificate and its intermediates, PEM."""
    key: Path
    """Its private key, PEM."""
    authority: Path
    """What clients verify it with, PEM."""

    def version(self) -> tuple[int, ...]:
        """Changes when the files do."""
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key, self.authority))


def create_authority(now: float) -> Authority:
    """A new authority; its name is unique, so that clients can tell several apart.

    Args:
        now: Unix time in seconds.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"trainyard-progress-{secrets.token_hex(8)}")])
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_VALIDITY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Authority, names: Sequence[str], now: float) -> tuple[str, str, float]:
    """A serving certificate and its key as PEM, and the Unix time at which it ends.

    Args:
        authority: signs it.
        names: host names and addresses that it is for.
        now: Unix time in seconds.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainyard-progress")])
    issuer = authority.certificate
    builder = _builder(subject, issuer.subject, key.public_key(), now, SERVING_VALIDITY)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([_name(name) for name in names]), critical=False
    )
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        ),
        critical=False,
    )
    certificate = builder.sign(authority.key, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return pem, key_pem.decode(), certificate.not_valid_after_utc.timestamp()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    validity: timedelta,
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_SKEW)
        .not_valid_after(moment + validity)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class ServingCertificate:
    """The TLS side of the endpoint, kept fresh by `refresh`; connections under way are not disturbed.

    Args:
        names: host names and addresses that clients use.
        clock: Unix time in seconds.
        files: a certificate that somebody else keeps; None makes one.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file holds no certificate, or the key is another one's.
    """

    def __init__(
        self, names: Sequence[str], clock: Callable[[], float], files: CertificateFiles | None = None
    ) -> None:
        self._names = tuple(names)
        self._clock = clock
        self._files = files
        self._version: tuple[int, ...] = ()
        self._authority = create_authority(clock()) if files is None else None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.authority_pem = ""
        """What clients verify the certificate with."""
        self.expires_at = 0.0
        """Unix time at which the certificate ends."""
        self.refresh()

    @property
    def is_own(self) -> bool:
        """Whether the operator made it, and clients have to be told of its authority."""
        return self._authority is not None

    def refresh(self) -> bool:
        """Renew the own certificate in the second half of its life, or load files that changed.

        Returns:
            Whether the certificate is another one now.
        """
        if self._authority is not None:
            return self._renew(self._authority)
        if self._files is None:
            return False
        version = self._files.version()
        if version == self._version:
            return False
        self.context.load_cert_chain(self._files.certificate, self._files.key)
        certificate = x509.load_pem_x509_certificate(self._files.certificate.read_bytes())
        self.expires_at = certificate.not_valid_after_utc.timestamp()
        self.authority_pem = self._files.authority.read_text(encoding="ascii")
        self._version = version
        return True

    def _renew(self, authority: Authority) -> bool:
        now = self._clock()
        if self.expires_at - now > SERVING_VALIDITY.total_seconds() / 2:
            return False
        certificate, key, self.expires_at = issue(authority, self._names, now)
        # Python's ssl reads keys from files only; the folder is private and gone at once.
        with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
            file = Path(folder) / "serving.pem"
            file.touch(mode=0o600)
            file.write_text(certificate + key, encoding="ascii")
            self.context.load_cert_chain(file)
        self.authority_pem = authority.pem
        return True
