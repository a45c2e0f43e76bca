"""The server asks nothing of itself, under whatever address of this machine."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import psutil
import pytest
import trustme
from http_sites import LOOPBACK, NAME, NO_ROOTS, Site, answer, fetch, redirect, resolving, running
from paths import ROOT
from queue_calls import RUN, SUBMIT
from servers import RunningServer, request_of, serving, settings_in, start_server

from server.outbound.addresses import Address, can_bind, is_own, sends_to_itself
from server.outbound.errors import FetchRefused, HostRefused
from server.outbound.fetch import Fetcher

OWN: list[Address] = [
    ip_address(each.address)
    for card in psutil.net_if_addrs().values()
    for each in card
    if each.family in (socket.AF_INET, socket.AF_INET6)
]
NETWORKS = [
    ip_network(f"{str(own).partition('%')[0]}/{24 if own.version == 4 else 126}", strict=False)
    for own in OWN
]
OTHERS = ["8.8.8.8", "10.254.253.252", "169.254.169.254", "2606:4700::1111", "fd99::1"]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async for running_site in running(Site(answers={"/": answer()}), None):
        yield running_site


def test_the_machines_own_addresses_are_known() -> None:
    assert OWN
    assert [own for own in OWN if not is_own(own)] == []
    for other in ("127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::"):
        assert is_own(ip_address(other)), other


@pytest.mark.parametrize("address", OTHERS)
def test_other_machines_addresses_are_not_ours(address: str) -> None:
    assert not is_own(ip_address(address))


def test_an_address_that_the_system_says_nothing_of_counts_as_ours() -> None:
    assert can_bind(ip_address("fe80::1%nocard"))


def test_what_is_ours_sends_to_itself() -> None:
    first = next(own for own in OWN if not own.is_link_local)

    assert sends_to_itself(first)
    assert not sends_to_itself(ip_address("8.8.8.8"))
    assert not sends_to_itself(ip_address("2606:4700::1111"))


ANY_ADDRESS_CAN_BE_BOUND = """
ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind &&
exec "$0" -c '
from ipaddress import ip_address
from server.outbound.addresses import can_bind, is_own
public, own = ip_address("8.8.8.8"), ip_address("127.0.0.1")
print([can_bind(public), is_own(public), is_own(own)])
'
"""


MADE = "unshare -rn sh -c 'ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind'"
needs_a_network_of_its_own = pytest.mark.skipif(
    os.system(f"{MADE} 2>/dev/null") != 0, reason="a network of one's own cannot be made here"
)


def in_a_network_of_its_own(script: str) -> list[str]:
    """The lines that a shell script prints; its $0 is Python."""
    tried = subprocess.run(
        ["unshare", "-rn", "sh", "-c", script, sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tried.stdout.splitlines()


@needs_a_network_of_its_own
def test_where_any_address_can_be_bound_others_are_still_not_ours() -> None:
    assert in_a_network_of_its_own(ANY_ADDRESS_CAN_BE_BOUND) == ["[True, False, True]"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "2130706433", "0x7f.1"])
async def test_our_own_port_is_not_asked_though_loopback_is_allowed(site: Site, host: str) -> None:
    careful = Fetcher(allow_nets=LOOPBACK, own_ports={site.port}, ssl_context=NO_ROOTS)
    url = site.url("/", host)

    with pytest.raises(HostRefused):
        await fetch(careful, url, max_bytes=100)
    with pytest.raises(HostRefused):
        await careful.post(url, b"", {}, deadline_s=30)
    with pytest.raises(HostRefused):
        careful.check(url)
    assert site.requests == []


async def test_other_ports_of_this_machine_are_asked(site: Site) -> None:
    careful = Fetcher(allow_nets=LOOPBACK, own_ports={site.port + 1}, ssl_context=NO_ROOTS)

    assert await fetch(careful, site.url(), max_bytes=100) == b"picture"


async def test_our_own_port_is_asked_at_an_address_that_is_allowed_by_itself(site: Site) -> None:
    nets = (ip_network("127.0.0.0/8"), ip_network("127.0.0.1/32"))
    daring = Fetcher(allow_nets=nets, own_ports={site.port}, ssl_context=NO_ROOTS)

    assert await fetch(daring, site.url(), max_bytes=100) == b"picture"
    with pytest.raises(HostRefused):
        await fetch(daring, site.url("/", "127.0.0.2"), max_bytes=100)


async def test_a_redirect_does_not_lead_to_our_own_port(site: Site) -> None:
    async for ours in running(Site(answers={"/": answer()}), None):
        site.answers["/"] = redirect(ours.url())
        careful = Fetcher(allow_nets=LOOPBACK, own_ports={ours.port}, ssl_context=NO_ROOTS)

        with pytest.raises(FetchRefused):
            await fetch(careful, site.url(), max_bytes=100)
        assert (len(site.requests), len(ours.requests)) == (1, 0)


@pytest.mark.parametrize("own", OWN, ids=str)
async def test_no_network_and_no_name_leads_to_our_own_port(own: Address) -> None:
    careful = Fetcher(
        allow_nets=NETWORKS,
        allow_hosts=(NAME,),
        own_ports={8000, 443},
        resolve=resolving([str(own)]),
        ssl_context=NO_ROOTS,
    )

    with pytest.raises(HostRefused):
        await careful.vetted(NAME, 8000)
    with pytest.raises(HostRefused):
        await careful.vetted(NAME, 443)
    if not own.is_loopback and not own.is_link_local:
        await careful.vetted(NAME, 8001)


PUBLIC = "8.8.8.8"
HAS_A_PUBLIC_ADDRESS = f"""
ip link set lo up && ip address add {PUBLIC}/32 dev lo &&
exec "$0" -c '
import asyncio
from ipaddress import ip_network
from server.outbound.errors import HostRefused
from server.outbound.fetch import Fetcher

async def allowed(port, **options):
    try:
        await Fetcher(own_ports={{8000}}, **options).vetted("{PUBLIC}", port)
    except HostRefused:
        return False
    return True

async def main():
    nets = (ip_network("{PUBLIC}/32"),)
    print([await allowed(port) for port in (80, 443, 8000, 9000)])
    print([await allowed(9000, allow_nets=nets), await allowed(9000, allow_hosts=("{PUBLIC}",))])
    print([await allowed(8000, allow_nets=nets), await allowed(8000, allow_hosts=("{PUBLIC}",))])

asyncio.run(main())
'
"""


@needs_a_network_of_its_own
def test_no_port_of_this_machine_is_asked_by_its_public_address_unless_it_is_named() -> None:
    assert in_a_network_of_its_own(HAS_A_PUBLIC_ADDRESS) == [
        "[False, False, False, False]",
        "[True, True]",
        "[True, False]",
    ]


@pytest.mark.parametrize("port", [22, 80, 443, 8000, 9000])
async def test_behind_a_proxy_the_public_address_has_only_the_ports_of_the_web(port: int) -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        return [PUBLIC] if host in ("videos.example", "alias.example") else ["1.1.1.1"]

    careful = Fetcher(
        own_ports={8000}, public_host="videos.example", resolve=resolve, ssl_context=NO_ROOTS
    )
    named = replace(careful, allow_hosts=("alias.example",))

    await careful.vetted("other.example", port)
    if port in (80, 443):
        await careful.vetted("alias.example", port)
        return
    with pytest.raises(HostRefused):
        await careful.vetted("alias.example", port)
    if port != 8000:
        await named.vetted("alias.example", port)


async def test_a_public_name_without_an_address_is_no_hindrance() -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        if host == "videos.example":
            raise OSError("no such name")
        return [PUBLIC]

    await Fetcher(public_host="videos.example", resolve=resolve).vetted("a.example", 9000)


async def test_an_app_without_a_socket_has_the_ports_of_its_settings(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, port=9, fetch_allow_nets="127.0.0.0/8")
    async with serving(settings) as client:
        answered = {
            port: await client.post(
                SUBMIT, json=request_of(), params={"fal_webhook": f"http://127.0.0.1:{port}/"}
            )
            for port in (9, 10)
        }

    assert [answered[port].status_code for port in (9, 10)] == [422, 200]


def test_a_running_server_does_not_ask_itself(tmp_path: Path) -> None:
    """On neither of its ports, which it chose itself, for neither a picture nor a webhook."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = ["--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem"]
    server: RunningServer = start_server(tmp_path, "--tls-port", "0", *files)
    assert server.https is not None
    with httpx.Client(base_url=server.http, timeout=60) as client:
        for url in (f"{server.http}/openapi.json", f"{server.https}/openapi.json"):
            picture = client.post(RUN, json=request_of(image_url=url))
            hook = client.post(SUBMIT, json=request_of(), params={"fal_webhook": url})
            for answered in (picture, hook):
                assert answered.status_code == 422, answered.text
                [item] = answered.json()["detail"]
                assert "does not connect to 127.0.0.1" in item["msg"], json.dumps(item)
    assert server.end() == 0
