"""Certificates for the names that fal's clients insist on: a CA of one's own, and what it signs.

The CA, here called authority, can vouch for TLS servers of fal's names and of the hosts that it was
made for, and for nothing else. No file is read or written here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Host = str | IPv4Address | IPv6Address

FAL_DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")
LOOPBACK = ("localhost", IPv4Address("127.0.0.1"), IPv6Address("::1"))
SERVED_NAMES: tuple[Host, ...] = (
    "fal.run",
    "*.fal.run",
    "ws.fal.run",
    "fal.ai",
    "rest.fal.ai",
    "rest.alpha.fal.ai",
    "api.fal.ai",
    "v3.fal.media",
    "*.fal.media",
    "falrun.com",
    "*.falrun.com",
    "localhost",
    "queue.localhost",
    *LOOPBACK[1:],
)
"""What every certificate is for, besides the hosts that are given."""

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=820)
"""Apple's systems refuse a server's certificate that is valid for more than 825 days."""

CLOCK_SKEW = timedelta(hours=1)
"""Certificates begin so long ago, for clients whose clock is slow."""

_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class UnusableHost(ValueError):
    """Not a host that a certificate can be for; the message is a sentence."""


class UnusableAuthority(ValueError):
    """The files are not those of an authority that this program made; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and the private key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_host(text: str) -> Host:
    """A host's name or address, as a person types it.

    Raises:
        UnusableHost: it is neither.
    """
    name = text.strip().lower().removesuffix(".")
    try:
        address = ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        last_label = name.rpartition(".")[2]
        if _NAME.fullmatch(name) and len(name) <= 253 and not last_label.isdigit():
            return name
        raise UnusableHost(
            f"{text!r} is neither a host's name nor an address: give it without scheme, port or "
            "path, such as gpu.example.com or 192.168.1.20, and a name with umlauts in its xn-- "
            "form."
        ) from None
    if address.is_unspecified:
        raise UnusableHost(
            f"{text} is where a server listens, not where clients find it: "
            "give the name or the address that they use."
        )
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise UnusableHost(f"{text} holds the name of a network card: give the address alone.")
    return address


def new_authority(hosts: Iterable[Host], now: datetime) -> KeyPair:
    """An authority for fal's names, this machine's own, and the hosts given with all below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Several may be trusted by one client, and a name is what its person sees of each.
    name = _name(f"cosmos-serve authority {x509.random_serial_number():x}"[:40])
    permitted = dict.fromkeys([*FAL_DOMAINS, *LOOPBACK, *hosts])
    constraints = x509.NameConstraints([_subtree(host) for host in permitted], None)
    builder = _builder(key.public_key(), now, AUTHORITY_LIFE, is_authority=True)
    builder = builder.issuer_name(name).subject_name(name).add_extension(constraints, critical=True)
    return KeyPair(builder.sign(key, SHA256()), key)


def issue(authority: KeyPair, now: datetime) -> KeyPair:
    """A server's certificate for every name that the authority was made for.

    Raises:
        UnusableAuthority: it has expired.
    """
    left = authority.certificate.not_valid_after_utc - now
    if left <= timedelta():
        raise UnusableAuthority(
            f"It expired on {authority.certificate.not_valid_after_utc:%Y-%m-%d}: make a new one "
            "in another folder, and give it to the clients."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    names = x509.SubjectAlternativeName([_general_name(name) for name in _names(authority)])
    builder = (
        _builder(key.public_key(), now, min(left, CERTIFICATE_LIFE), is_authority=False)
        .issuer_name(authority.certificate.subject)
        .subject_name(_name("cosmos-serve"))
        .add_extension(issuer, critical=False)
        .add_extension(names, critical=False)
    )
    return KeyPair(builder.sign(authority.key, SHA256()), key)


def read_authority(certificate_pem: bytes, key_pem: bytes) -> KeyPair:
    """An authority from its two files.

    Raises:
        UnusableAuthority: they are not PEM, not ours, or do not belong together.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise UnusableAuthority("These are not PEM files of a certificate and its key.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UnusableAuthority("The key is not one that cosmos-serve makes.")
    if certificate.public_key() != key.public_key():
        raise UnusableAuthority("The key does not belong to the certificate.")
    authority = KeyPair(certificate, key)
    if not _permitted(authority):
        raise UnusableAuthority("The certificate does not say which names it may vouch for.")
    return authority


def hosts_of(authority: KeyPair) -> list[Host]:
    """The hosts that the authority was made for, besides fal's and this machine's own."""
    return [host for host in _permitted(authority) if host not in (*FAL_DOMAINS, *LOOPBACK)]


def _names(authority: KeyPair) -> Sequence[Host]:
    names = list(SERVED_NAMES)
    for host in hosts_of(authority):
        names.append(host)
        if isinstance(host, str):
            # Where fal-client 0.10 and older look for the queue of FAL_RUN_HOST.
            names.append(f"queue.{host}")
    return list(dict.fromkeys(names))


def _permitted(authority: KeyPair) -> list[Host]:
    try:
        found = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        return []
    return [_host(subtree) for subtree in found.value.permitted_subtrees or []]


def _subtree(host: Host) -> x509.GeneralName:
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(ip_network(host))


def _host(subtree: x509.GeneralName) -> Host:
    if isinstance(subtree, x509.DNSName):
        return subtree.value
    return ip_address(str(subtree.value).partition("/")[0])


def _general_name(host: Host) -> x509.GeneralName:
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta, *, is_authority: bool
) -> x509.CertificateBuilder:
    """What the certificates of authorities and of servers have in common."""
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(is_authority, path_length=0 if is_authority else None)
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
