"""The CA and the certificates of `cosmos-serve certs`: for which names, and for no others."""

import os
import re
import shlex
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest
import trustme
from client_programs import needed_program
from paths import DOCS
from servers import RunningServer, start_server

from server.cli.certificate_files import HOSTS_LINES, make_certs, renew_certs
from server.cli.certificates import (
    AUTHORITY_LIFE,
    CERTIFICATE_LIFE,
    FAL_DOMAINS,
    UnusableAuthority,
    UnusableHost,
    hosts_of,
    issue,
    new_authority,
    parse_host,
)
from server.cli.errors import CommandFailed, WrongUsage

NOW = datetime.now(UTC)
FILES = ["ca.pem", "ca-key.pem", "cert.pem", "key.pem", "bundle.pem"]
HOSTS = ["gpu.example.com", "192.168.1.20", "2001:db8::7"]
NAMES = [
    *("fal.run", "queue.fal.run", "ws.fal.run", "falrun.com", "queue.falrun.com"),
    *("fal.ai", "rest.fal.ai", "rest.alpha.fal.ai", "api.fal.ai"),
    *("v3.fal.media", "v3b.fal.media"),
    *("localhost", "queue.localhost", "127.0.0.1", "::1"),
    *(*HOSTS, "queue.gpu.example.com"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cosmos-serve certs` made for `HOSTS`."""
    folder = tmp_path_factory.mktemp("tls") / "of the server"
    make_certs(folder, HOSTS)
    return folder


def shake_hands(folder: Path, name: str, trusted: Path) -> None:
    """A whole TLS handshake, in memory: a server with the folder's files, a client of `name`."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client_context = ssl.create_default_context(cafile=trusted)
    # What Python 3.13 and newer ask by default.
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


def put(leaf: trustme.LeafCert, folder: Path) -> None:
    """Give a server this certificate, and its key."""
    (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(folder / "key.pem")


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh environment, with this one's commands in its path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options["env"] = {"PATH": path, **options.get("env", {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture(scope="module")
def stolen(folder: Path) -> trustme.CA:
    """The CA in the hands of somebody who has its key."""
    files = [(folder / name).read_bytes() for name in ("ca.pem", "ca-key.pem")]
    return trustme.CA.from_pem(*files)


# For which names.


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_ca_reaches_every_name(folder: Path, name: str) -> None:
    shake_hands(folder, name, folder / "ca.pem")


@pytest.mark.parametrize("name", ["example.com", "a.gpu.example.com", "x.fal.ai", "192.168.1.21"])
def test_the_certificate_is_for_no_other_name(folder: Path, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(folder, name, folder / "ca.pem")


@pytest.mark.parametrize("name", ["example.com", "notfal.run", "run", "192.168.1.21", "::2"])
def test_the_ca_cannot_vouch_for_another_name_even_with_its_key(
    folder: Path, stolen: trustme.CA, tmp_path: Path, name: str
) -> None:
    put(stolen.issue_cert(name), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(tmp_path, name, folder / "ca.pem")


def test_the_ca_cannot_make_another_ca(folder: Path, stolen: trustme.CA, tmp_path: Path) -> None:
    put(stolen.create_child_ca().issue_cert("localhost"), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        shake_hands(tmp_path, "localhost", folder / "ca.pem")


def test_a_client_that_does_not_trust_the_ca_refuses_it(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(folder, "localhost", Path(certifi.where()))


def test_the_bundle_has_the_public_roots_too(folder: Path) -> None:
    shake_hands(folder, "queue.fal.run", folder / "bundle.pem")
    public = ssl.create_default_context(cafile=certifi.where())
    ours = ssl.create_default_context(cafile=folder / "bundle.pem")
    assert ours.cert_store_stats()["x509"] == public.cert_store_stats()["x509"] + 1


def test_apple_accepts_how_long_the_certificate_lives() -> None:
    leaf = issue(new_authority([], NOW), NOW).certificate
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=825)


def test_a_certificate_ends_with_its_ca() -> None:
    authority = new_authority([], NOW)
    end = authority.certificate.not_valid_after_utc
    assert issue(authority, end - CERTIFICATE_LIFE / 2).certificate.not_valid_after_utc == end
    with pytest.raises(UnusableAuthority, match="It expired on"):
        issue(authority, end)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("GPU.Example.com.", "gpu.example.com"),
        ("gpu", "gpu"),
        ("xn--bro-hoa.example", "xn--bro-hoa.example"),
        ("192.168.1.20", ip_address("192.168.1.20")),
        ("[2001:DB8::7]", ip_address("2001:db8::7")),
    ],
)
def test_a_host_is_read_as_people_type_it(text: str, host: object) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "*", "*.example.com", "-a.example", "a-.example", "a..b", "a_b", "büro.de"),
        *("https://gpu", "gpu:8443", "gpu/run", "1.2.3", "256.1.1.1", "192.168.0.0/16", "a" * 64),
        *("0.0.0.0", "::", "fe80::1%eth0", "a\nb", ".".join(["a"] * 128)),
    ],
)
def test_what_is_no_host_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableHost):
        parse_host(text)
    with pytest.raises(WrongUsage):
        make_certs(tmp_path / "new", [text])
    assert not (tmp_path / "new").exists()


# The files.


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_certs(tmp_path, [])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    secrets = {"ca-key.pem", "key.pem"}
    assert modes == {name: 0o600 if name in secrets else 0o644 for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_there_is_never_replaced_by_a_first_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's")

    with pytest.raises(CommandFailed, match=rf"has {name} already.*--renew"):
        make_certs(tmp_path, [])

    assert contents(tmp_path) == {name: b"somebody's"}


def test_renewing_keeps_the_ca_and_its_names(tmp_path: Path) -> None:
    make_certs(tmp_path, HOSTS)
    before = contents(tmp_path)

    said = renew_certs(tmp_path, [])

    after = contents(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert (changed, after.keys()) == ({"cert.pem", "key.pem"}, before.keys())
    for name in NAMES:
        shake_hands(tmp_path, name, tmp_path / "ca.pem")
    assert "until it is started again" in said


def test_renewing_mends_a_folder_that_lost_its_certificate(tmp_path: Path) -> None:
    make_certs(tmp_path, [])
    for name in ("cert.pem", "key.pem", "bundle.pem"):
        (tmp_path / name).unlink()

    renew_certs(tmp_path, [])

    shake_hands(tmp_path, "fal.run", tmp_path / "bundle.pem")


def test_renewing_does_not_take_hosts(folder: Path) -> None:
    with pytest.raises(WrongUsage, match="--renew goes without --host"):
        renew_certs(folder, ["other.example"])


def test_only_a_ca_made_by_the_command_is_renewed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        renew_certs(tmp_path, [])
    ours, ours_key = [(folder / name).read_bytes() for name in ("ca.pem", "ca-key.pem")]
    foreign = trustme.CA()
    rsa = trustme.CA(key_type=trustme.KeyType.RSA).private_key_pem.bytes()
    expired = new_authority([], NOW - AUTHORITY_LIFE - timedelta(days=1))
    pairs = [
        (b"no certificate", ours_key, "not PEM files"),
        (ours, b"no key", "not PEM files"),
        (ours, new_authority([], NOW).key_pem, "does not belong"),
        (foreign.cert_pem.bytes(), foreign.private_key_pem.bytes(), "which names it may vouch"),
        (ours, rsa, "not one that"),
        (expired.certificate_pem, expired.key_pem, "It expired on "),
    ]
    for certificate, key, message in pairs:
        (tmp_path / "ca.pem").write_bytes(certificate)
        (tmp_path / "ca-key.pem").write_bytes(key)
        before = contents(tmp_path)
        with pytest.raises(CommandFailed, match=message):
            renew_certs(tmp_path, [])
        assert contents(tmp_path) == before


def test_the_hosts_of_a_ca_are_those_that_it_was_made_for() -> None:
    hosts = [parse_host(host) for host in [*HOSTS, "fal.run", "localhost", "127.0.0.1", "gpu"]]
    authority = new_authority(hosts, NOW)
    assert [str(host) for host in hosts_of(authority)] == [*HOSTS, "gpu"]


# What is printed, done.


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command prints for a folder whose name needs quoting."""
    return make_certs(tmp_path_factory.mktemp("said") / "a folder", [])


@pytest.fixture(scope="module")
def server(said: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the options that the command prints, but for the port."""
    (line,) = re.findall(r"^  cosmos-serve serve --tls-port 8443 (.*)$", said, re.MULTILINE)
    running = start_server(tmp_path_factory.mktemp("server"), "--tls-port", "0", *shlex.split(line))
    yield running
    assert running.end() == 0


def exported(said: str, name: str) -> str:
    """The value that one of the printed lines gives to a variable."""
    (value,) = re.findall(rf"\b{name}=('.*?'|\S+)", said)
    return shlex.split(value)[0]


def test_python_trusts_the_server_by_the_printed_line(server: RunningServer, said: str) -> None:
    assert server.https is not None
    context = ssl.create_default_context(cafile=exported(said, "SSL_CERT_FILE"))
    url = server.https.replace("127.0.0.1", "localhost")
    with httpx.Client(verify=context) as client:
        assert client.get(f"{url}/health/live").json() == {"status": "live"}


def test_node_trusts_the_server_by_the_printed_line(server: RunningServer, said: str) -> None:
    node = needed_program("node")
    program = "fetch(process.argv[1]).then(a => a.text()).then(console.log)"
    trust = {"NODE_EXTRA_CA_CERTS": exported(said, "NODE_EXTRA_CA_CERTS")}
    for environment, code in ((trust, 0), ({}, 1)):
        ran = run([node, "-e", program, f"{server.https}/health/live"], env=environment)
        assert ran.returncode == code, ran.stderr
    assert "unable to verify" in ran.stderr or "self-signed" in ran.stderr


def test_the_printed_hosts_lines_name_all_that_the_clients_look_up(said: str) -> None:
    lines = re.findall(r"^  ADDRESS (.*)$", said, re.MULTILINE)
    names = set(" ".join(lines).split())
    assert {"fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"} <= names
    assert {"falrun.com", "queue.falrun.com"} <= names
    assert said.index("FAL_RUN_HOST=localhost:8443/run") < said.index("/etc/hosts")


def test_the_first_host_that_is_given_is_the_one_in_the_printed_lines(tmp_path: Path) -> None:
    said = make_certs(tmp_path, ["2001:db8::7", "gpu.example.com"])
    assert "FAL_QUEUE_RUN_HOST=[2001:db8::7]:8443/queue" in said
    assert "localhost, [2001:db8::7], gpu.example.com." in said


# docs/tls.md.


PAGE = (DOCS / "tls.md").read_text()


def lines_of_the_page(command: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for line in "".join(blocks).splitlines() if line.startswith(command)]


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    needed_program("openssl")
    make, renew = lines_of_the_page("cosmos-serve certs")
    look = lines_of_the_page("openssl")
    assert len(look) == 3
    for line in (make, *look, renew, *look):
        ran = run(["bash", "-ec", line], cwd=tmp_path)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
    assert ran.stdout == "certs/cert.pem: OK\n"


def test_the_page_has_the_lines_and_names_that_are_printed() -> None:
    for names in HOSTS_LINES:
        assert f"\nADDRESS {' '.join(names)}\n" in PAGE
    assert f"valid for {CERTIFICATE_LIFE.days} days" in PAGE
    for domain in FAL_DOMAINS:
        assert f"`{domain}`" in PAGE
