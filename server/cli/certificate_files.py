"""`cosmos-serve certs`: a CA and a certificate in a folder, and what to do with them.

A CA that clients trust is never replaced: a second run issues a new certificate from it,
or does nothing.
"""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path

import certifi

from server.cli.certificates import (
    KeyPair,
    UnusableAuthority,
    UnusableHost,
    hosts_of,
    issue,
    new_authority,
    parse_host,
    read_authority,
)
from server.cli.errors import CommandFailed, WrongUsage
from server.part_file import write_file

AUTHORITY = "ca.pem"
AUTHORITY_KEY = "ca-key.pem"
CERTIFICATE = "cert.pem"
KEY = "key.pem"
BUNDLE = "bundle.pem"
_FILES = (AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, BUNDLE)
_PUBLIC = 0o644
_PRIVATE = 0o600

HOSTS_LINES = (
    ("fal.run", "queue.fal.run", "ws.fal.run"),
    ("fal.ai", "rest.fal.ai", "rest.alpha.fal.ai", "api.fal.ai"),
    ("v3.fal.media", "v3b.fal.media"),
    ("falrun.com", "queue.falrun.com"),
)
"""The names that clients with fixed hosts look up."""

_ACCOUNT = """\
In {folder}:
  ca.pem      the CA, for clients to trust; no secret
  ca-key.pem  its key, for --renew; its holder can pose as fal to those clients
  cert.pem    the server's certificate, valid until {until}
  key.pem     its key
  bundle.pem  the CA and the public ones, for clients that take one file for all
The certificate is for fal's names, localhost{hosts}.

The server:
  cosmos-serve serve --tls-port 8443 --tls-cert {cert} --tls-key {key}

fal-client 0.11 and newer:
  export FAL_RUN_HOST={example}/run FAL_QUEUE_RUN_HOST={example}/queue
  export SSL_CERT_FILE={bundle}

Node, set before it starts:
  export NODE_EXTRA_CA_CERTS={ca}

Clients whose hosts are fixed (fal-client's uploads and its older versions, huggingface_hub) need
--tls-port 443 and, with the server's address for ADDRESS, all of these lines in /etc/hosts:
{hosts_lines}
Leave out none: what fal-client cannot connect to at fal.run and queue.fal.run it sends to the
names of the last line. Without that line they are fal's own, and fal gets the key and the prompt.
"""


def make_certs(folder: Path, hosts: Sequence[str]) -> str:
    """Make an authority and a certificate, and return what to say about them.

    Raises:
        WrongUsage: a host is none.
        CommandFailed: the folder holds one of the files already.
    """
    try:
        wanted = [parse_host(host) for host in hosts]
    except UnusableHost as error:
        raise WrongUsage(str(error)) from error
    present = [name for name in _FILES if (folder / name).exists()]
    if present:
        raise CommandFailed(
            f"{folder} has {', '.join(present)} already. To issue a new certificate from its CA, "
            "which clients may trust, give --renew; for another CA, name another folder."
        )
    now = datetime.now(UTC)
    authority = new_authority(wanted, now)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / AUTHORITY_KEY, authority.key_pem, mode=_PRIVATE)
    write_file(folder / AUTHORITY, authority.certificate_pem, mode=_PUBLIC)
    certificate = _issue_into(folder, authority, now)
    return _account(folder, authority, certificate)


def renew_certs(folder: Path, hosts: Sequence[str]) -> str:
    """Issue a new certificate from the folder's authority, and return what to say about it.

    Raises:
        WrongUsage: hosts are given.
        CommandFailed: the folder holds no authority that this program made, or an expired one.
    """
    if hosts:
        raise WrongUsage(
            "--renew goes without --host: a CA vouches for the hosts that it was made for. For "
            "others, make another CA in another folder."
        )
    certificate_file = folder / AUTHORITY
    now = datetime.now(UTC)
    try:
        authority = read_authority(
            certificate_file.read_bytes(), (folder / AUTHORITY_KEY).read_bytes()
        )
        certificate = _issue_into(folder, authority, now)
    except UnusableAuthority as error:
        raise CommandFailed(f"{certificate_file} cannot sign. {error}") from error
    return (
        f"{_account(folder, authority, certificate)}\n"
        "A running server keeps its old certificate until it is started again."
    )


def _issue_into(folder: Path, authority: KeyPair, now: datetime) -> KeyPair:
    issued = issue(authority, now)
    write_file(folder / KEY, issued.key_pem, mode=_PRIVATE)
    write_file(folder / CERTIFICATE, issued.certificate_pem, mode=_PUBLIC)
    bundle = authority.certificate_pem + Path(certifi.where()).read_bytes()
    write_file(folder / BUNDLE, bundle, mode=_PUBLIC)
    return issued


def _account(folder: Path, authority: KeyPair, issued: KeyPair) -> str:
    """What was made, and what server and clients need to use it."""
    # Hosts as they stand in URLs.
    hosts = [f"[{host}]" if isinstance(host, IPv6Address) else host for host in hosts_of(authority)]
    paths = {name: shlex.quote(str(folder.resolve() / name)) for name in _FILES}
    return _ACCOUNT.format(
        folder=folder,
        until=f"{issued.certificate.not_valid_after_utc:%Y-%m-%d}",
        hosts="".join(f", {host}" for host in hosts),
        example=f"{hosts[0] if hosts else 'localhost'}:8443",
        ca=paths[AUTHORITY],
        cert=paths[CERTIFICATE],
        key=paths[KEY],
        bundle=paths[BUNDLE],
        hosts_lines="\n".join(f"  ADDRESS {' '.join(names)}" for names in HOSTS_LINES),
    )
