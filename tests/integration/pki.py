# SPDX-License-Identifier: BSD-2-Clause
"""A throw-away PKI: CA hierarchies, devices' leafs as the field's agents have them, and
deliberately odd certificates.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Optional, Sequence, Union

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = Union[
    ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, dsa.DSAPrivateKey
]
PublicKey = Union[
    ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, dsa.DSAPublicKey
]
Extensions = list[tuple[x509.ExtensionType, bool]]

FACTORY = "acme-factory"
DAY = datetime.timedelta(days=1)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def new_key(kind: str = "P-256") -> PrivateKey:
    """`kind`: P-256, P-384, P-521, Ed25519, RSA-<bits>, or one that must be refused: P-224, K-256,
    DSA-2048.
    """
    curves = {
        "P-224": ec.SECP224R1,
        "P-256": ec.SECP256R1,
        "P-384": ec.SECP384R1,
        "P-521": ec.SECP521R1,
        "K-256": ec.SECP256K1,
    }
    if kind in curves:
        return ec.generate_private_key(curves[kind]())
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    algorithm, bits = kind.split("-")
    if algorithm == "DSA":
        return dsa.generate_private_key(int(bits))
    return rsa.generate_private_key(65537, int(bits))


def public_pem(key: PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def der_tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else b""
    if not length:
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        length = bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def key_id(key: PrivateKey) -> str:
    """Lower-case hex SHA-256 of the DER SubjectPublicKeyInfo: what pins a device."""
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def name(
    common_name: Union[str, Sequence[str]], factory: Optional[str] = None, production: bool = False
) -> x509.Name:
    names = [common_name] if isinstance(common_name, str) else common_name
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, cn) for cn in names]
    if factory is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, factory))
    if production:
        attributes.append(x509.NameAttribute(NameOID.BUSINESS_CATEGORY, "production"))
    return x509.Name(attributes)


def key_usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{usage: usage in names for usage in every})


# keyUsage digitalSignature and EKU clientAuth, nothing else: what the field's agents insist on.
DEVICE_EXTENSIONS: Extensions = [
    (key_usage("digital_signature"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True),
]


@dataclass
class Identity:
    """A private key with its certificate and the certificates above it (the root left out)."""

    name: str
    key: PrivateKey
    certificate: x509.Certificate
    chain: list[x509.Certificate] = field(default_factory=list)

    @property
    def key_id(self) -> str:
        return key_id(self.key)

    @property
    def public_pem(self) -> str:
        return public_pem(self.key)

    @property
    def certificate_id(self) -> str:
        """Lower-case hex SHA-256 of the DER certificate, as the deny-list names it."""
        return hashlib.sha256(self.certificate_der).hexdigest()

    @property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def twin(self) -> "Identity":
        """The same with the other form of the P-256 signature on its certificate: whoever sees
        (r, s) can write (r, n - s).
        """
        r, s = decode_dss_signature(self.certificate.signature)
        signature = encode_dss_signature(r, P256_ORDER - s)
        tbs = self.certificate.tbs_certificate_bytes
        algorithm_at = self.certificate_der.index(tbs) + len(tbs)
        algorithm_end = algorithm_at + 2 + self.certificate_der[algorithm_at + 1]
        head = tbs + self.certificate_der[algorithm_at:algorithm_end]
        der = der_tlv(0x30, head + der_tlv(0x03, b"\0" + signature))
        return dataclasses.replace(self, certificate=x509.load_der_x509_certificate(der))

    def write(self, folder: Path, stem: str, with_chain: bool = False) -> tuple[Path, Path]:
        """Writes <stem>.pem and <stem>.key; a file holds the leaf alone unless asked otherwise, as
        stock agents have it.
        """
        certificates = [self.certificate] + (self.chain if with_chain else [])
        certificate_file, key_file = folder / f"{stem}.pem", folder / f"{stem}.key"
        certificate_file.write_bytes(pem(certificates))
        key_file.write_bytes(private_pem(self.key))
        key_file.chmod(0o600)
        return certificate_file, key_file


def pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


class Authority:
    """A CA; make a root with Authority.root(), anything below with its methods."""

    def __init__(
        self, key: PrivateKey, certificate: x509.Certificate, parent: Optional["Authority"]
    ):
        self.key = key
        self.certificate = certificate
        self.parent = parent

    @classmethod
    def root(cls, common_name: str = "Test Root CA") -> "Authority":
        key = new_key()
        subject = name(common_name)
        certificate = _build(subject, subject, key.public_key(), key, _ca_extensions(None))
        return cls(key, certificate, None)

    def intermediate(self, common_name: str, path_length: Optional[int] = 0) -> "Authority":
        key = new_key()
        extensions = _ca_extensions(path_length)
        certificate = _build(
            name(common_name), self.certificate.subject, key.public_key(), self.key, extensions
        )
        return Authority(key, certificate, self)

    def chain(self) -> list[x509.Certificate]:
        """This CA first, then upwards to the self-signed root."""
        return [self.certificate] + (self.parent.chain() if self.parent else [])

    def write(self, path: Path) -> Path:
        path.write_bytes(pem(self.chain()))
        return path

    def device(
        self,
        device_name: Union[str, Sequence[str], None] = None,
        *,
        key: Optional[PrivateKey] = None,
        factory: Optional[str] = FACTORY,
        production: bool = False,
        not_before: Optional[datetime.datetime] = None,
        not_after: Optional[datetime.datetime] = None,
        extensions: Optional[Extensions] = None,
        subject: Optional[x509.Name] = None,
    ) -> Identity:
        """A device's identity; unless told otherwise with the leaf that the agents insist on."""
        device_name = str(uuid.uuid4()) if device_name is None else device_name
        key = key or new_key()
        certificate = self.leaf(
            key.public_key(),
            subject or name(device_name, factory, production),
            extensions,
            not_before,
            not_after,
        )
        label = device_name if isinstance(device_name, str) else device_name[0]
        return Identity(label, key, certificate, self._chain_without_root())

    def leaf(
        self,
        public_key: PublicKey,
        subject: x509.Name,
        extensions: Optional[Extensions] = None,
        not_before: Optional[datetime.datetime] = None,
        not_after: Optional[datetime.datetime] = None,
    ) -> x509.Certificate:
        """A certificate for a key of which only the public half is known, as EST signs them."""
        return _build(
            subject,
            self.certificate.subject,
            public_key,
            self.key,
            DEVICE_EXTENSIONS if extensions is None else extensions,
            not_before,
            not_after,
        )

    def server(
        self, dns_name: str = "localhost", *more: str, key: Optional[PrivateKey] = None
    ) -> Identity:
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in (dns_name, *more)]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        extensions: Extensions = [
            (key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectAlternativeName(alternatives), False),
        ]
        key = key or new_key()
        certificate = self.leaf(key.public_key(), name(dns_name), extensions)
        return Identity("server", key, certificate, self._chain_without_root())

    def crl(self, *revoked: Identity, next_update: Optional[datetime.datetime] = None) -> bytes:
        """A PEM CRL that lists the identities' certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now() - DAY)
            .next_update(next_update or now() + 30 * DAY)
            .add_extension(_authority_key_id(self.key), False)
            .add_extension(x509.CRLNumber(1), False)
        )
        for identity in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(identity.certificate.serial_number)
                .revocation_date(now() - DAY)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _chain_without_root(self) -> list[x509.Certificate]:
        return self.chain()[:-1] if self.parent else []


def _authority_key_id(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _ca_extensions(path_length: Optional[int]) -> Extensions:
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
    ]


def _build(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    signer: PrivateKey,
    extensions: Extensions,
    not_before: Optional[datetime.datetime] = None,
    not_after: Optional[datetime.datetime] = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now() - DAY)
        .not_valid_after(not_after or now() + 365 * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
    )
    if issuer != subject:
        builder = builder.add_extension(_authority_key_id(signer), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(
        signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


class Pki:
    """What an ordinary fleet has: a root with a device CA below it, a server certificate, an
    operators' CA. And strangers.
    """

    def __init__(self) -> None:
        self.root = Authority.root()
        self.device_ca = self.root.intermediate("Test Device CA")
        self.server_ca = Authority.root("Test Server CA")
        self.server = self.server_ca.server("localhost", "gateway.test")
        self.operator_ca = Authority.root("Test Operator CA")
        self.operator = self.operator_ca.device("operator", factory=None)
        self.stranger_ca = Authority.root("Stranger CA")
