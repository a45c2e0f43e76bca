"""Every outbound request of the server: for a file, with news, or to the operator's guardrail.

A URL may be a stranger's. Its host is resolved once for each connection, all its addresses are
vetted, and the connection goes to one of those very addresses; TLS and HTTP above it still see the
name. Every redirect is vetted like the first URL; what is sent somewhere follows none. What is not
here: proxies, cookies, credentials, decompression, HTTP/2, and any look at what was fetched.

It speaks through httpcore, the transport below httpx: there the network can be replaced, and
nothing is read from the environment.
"""

import asyncio
import importlib.metadata
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import ip_address
from typing import IO, Self

import httpcore
import httpx

from server.config.settings import Settings
from server.disk import shortage_of
from server.outbound.addresses import Address, Network, is_allowed, is_named, is_own, names
from server.outbound.errors import (
    FetchFailed,
    FetchingIsOff,
    HostRefused,
    HostUnavailable,
)
from server.outbound.responses import save_file
from server.outbound.urls import checked_url, next_url
from server.tasks import FairSemaphore, backoff_s, time_limit

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) to the host's addresses as text; raises OSError if it has none."""

CONNECT_TIMEOUT_S = 10.0
"""For one address and for one TLS handshake; the next address is tried afterwards."""

LOOKUPS_AT_ONCE = 32

WEB_PORTS = frozenset({80, 443})
FETCH_TRIES = 3
"""How often a file is asked for whose host is not available for the moment."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FILE_WANTED = {
    "Accept": "*/*",
    # Compressed, a few bytes could become gigabytes.
    "Accept-Encoding": "identity",
}


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The addresses that the operating system finds for a name or a literal."""
    return await asyncio.get_running_loop().run_in_executor(_lookup_threads(), _look_up, host, port)


def _look_up(host: str, port: int, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [str(socket_address[0]) for *_, socket_address in found]


@cache
def _lookup_threads() -> ThreadPoolExecutor:
    """Threads of their own: a look-up cannot be stopped, and a stranger's name server that hangs
    must not hold up the event loop's threads, which read the database."""
    return ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="look-up")


@cache
def trusted_roots() -> ssl.SSLContext:
    """TLS that trusts the public roots, and those that the operating system was given."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Makes requests to public addresses, and to those that the operator allows.

    `allow_nets` are networks allowed besides. `allow_hosts` are exact names that may lead to
    private addresses (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7). Loopback, link-local and
    the clouds' metadata addresses are reached only if `allow_nets` names them.

    An address of this machine is reached only if it or the host is allowed so, and on `own_ports`,
    those that we listen on, only if `allow_nets` has that very address, as a /32 or /128. Of the
    addresses of `public_host` the ports of the web are reached, for a proxy may have other sites
    there; other ports only if they are allowed. One that is not `enabled` refuses every URL, and
    one for `any_address`, whose URLs are the operator's own, connects to whatever they name.

    `key_id` is whose request it is that asks: look-ups of names are shared out among keys.
    `contact` tells the owners of other servers whom to ask about our requests; `retry_s` is the
    pause before the second try of a file, where its host names none.
    """

    enabled: bool = True
    any_address: bool = False
    allow_nets: Sequence[Network] = ()
    allow_hosts: Sequence[str] = ()
    own_ports: Set[int] = frozenset()
    public_host: str | None = None
    contact: str | None = None
    retry_s: float = 1.0
    max_redirects: int = 5
    resolve: Resolver = resolve_by_system
    ssl_context: ssl.SSLContext = field(default_factory=trusted_roots, repr=False)
    lookups: FairSemaphore = field(
        default_factory=lambda: FairSemaphore(LOOKUPS_AT_ONCE), repr=False
    )

    @classmethod
    def from_settings(cls, settings: Settings, own_ports: Set[int]) -> Self:
        """The one of a server that listens on `own_ports`."""
        public = settings.public_url
        return cls(
            allow_nets=settings.fetch_allow_nets,
            allow_hosts=settings.fetch_allow_hosts,
            own_ports=own_ports,
            public_host=None if public is None else httpx.URL(public).raw_host.decode(),
            enabled=settings.fetch == "on",
            contact=settings.fetch_contact,
        )

    async def download(
        self,
        url: str,
        file: IO[bytes],
        *,
        max_bytes: int,
        deadline_s: float,
        key_id: str | None = None,
    ) -> None:
        """Write the bytes at one http or https URL to an empty file, redirects followed.

        The deadline covers everything. Pieces are written as they come; what an answer that broke
        off left is removed.

        A host that answers 429, 502, 503 or 504, or whose connection breaks, is asked again after
        the time that it names, if that is within the deadline.

        Raises:
            FetchRefused: the URL, or one it redirects to, is malformed or not allowed.
            FetchFailed: no answer in time, a status other than 200, a body that is compressed
                or breaks off, or too many redirects.
            FetchTooLarge: the body has more than `max_bytes` bytes.
            Shortage: this machine can open no connection for now; so do `post` and `check`.
        """
        ends_at = asyncio.get_running_loop().time() + deadline_s
        try:
            async with time_limit(deadline_s):
                await self._retried(self._checked(url), file, max_bytes, ends_at, key_id)
        except TimeoutError as error:
            raise FetchFailed(f"The file did not arrive within {deadline_s:g} seconds.") from error

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        deadline_s: float,
        key_id: str | None = None,
        answer: IO[bytes] | None = None,
        max_bytes: int = 0,
    ) -> int:
        """Send `body` to one http or https URL; the status of the answer, whatever it is.

        Redirects are not followed. The body of a 200 is written to `answer`, if that is given; no
        more of an answer is read.

        Raises:
            FetchRefused: the URL is malformed or not allowed.
            FetchFailed: no answer within `deadline_s` seconds, or its body cannot be used.
            FetchTooLarge: the body for `answer` has more than `max_bytes` bytes.
        """
        checked = self._checked(url)
        try:
            async with (
                time_limit(deadline_s),
                self._send("POST", checked, headers, key_id, body) as response,
            ):
                if answer is not None and response.status == 200:
                    await save_file(response, checked, answer, max_bytes)
                return response.status
        except TimeoutError as error:
            raise FetchFailed(f"There was no answer within {deadline_s:g} seconds.") from error

    def check(self, url: str) -> str:
        """The URL in its normal form. No name is looked up, so what is said tells nothing of one.

        Raises:
            FetchRefused: the URL is malformed, or can be seen not to be allowed: its host is an
                address, or `localhost`.
        """
        parsed = self._checked(url)
        port = parsed.port or {"http": 80, "https": 443}[parsed.scheme]
        host = parsed.raw_host.decode("ascii")
        literal = "127.0.0.1" if host.lower().removesuffix(".") == "localhost" else host
        try:
            addresses = _look_up(literal, port, socket.AI_NUMERICHOST)
        except UnicodeError as error:
            raise HostRefused(host) from error  # no name that DNS could have
        except OSError:
            return str(parsed)
        self._vet(host, port, addresses, public=[])
        return str(parsed)

    def allows(self, address: Address, host: str) -> bool:
        """Whether a connection to `address` is allowed when it is wanted for `host`."""
        return is_allowed(address, host, nets=self.allow_nets, hosts=self.allow_hosts)

    async def vetted(self, host: str, port: int, key_id: str | None = None) -> list[Address]:
        """The addresses of `host`; every one may be connected to.

        Raises:
            HostRefused: there is none, or one of them is not allowed, or leads to this machine.
        """
        await self.lookups.acquire(key_id)
        # A look-up that nobody waits for any more has its place, and its thread, until its end.
        look_up = asyncio.ensure_future(self.resolve(host, port))
        look_up.add_done_callback(partial(self._looked_up, key_id))
        try:
            found = await asyncio.shield(look_up)
            return self._vet(host, port, found, public=await self._public_addresses(port))
        # Not only OSError: a name that DNS cannot express is a UnicodeError.
        except (OSError, ValueError) as error:
            raise shortage_of(error) or HostRefused(host) from error

    def _looked_up(self, key_id: str | None, look_up: asyncio.Future[Sequence[str]]) -> None:
        self.lookups.release(key_id)
        if not look_up.cancelled():
            look_up.exception()  # if nobody waits for it, nothing else reads it

    def _vet(
        self, host: str, port: int, found: Sequence[str], *, public: Sequence[Address]
    ) -> list[Address]:
        addresses = [ip_address(each) for each in found]
        if addresses and self.any_address:
            return addresses
        if not addresses or not all(self.allows(address, host) for address in addresses):
            raise HostRefused(host)
        for address in addresses:
            if (address in public or is_own(address)) and not self._opens(address, host, port):
                raise HostRefused(host)
        return addresses

    def _checked(self, url: str) -> httpx.URL:
        if not self.enabled:
            raise FetchingIsOff
        return checked_url(url)

    async def _public_addresses(self, port: int) -> list[Address]:
        """The addresses by which others reach this machine, if nothing but it has that port."""
        if self.public_host is None or port in WEB_PORTS:
            return []
        try:
            found = await self.resolve(self.public_host, port)
        except (OSError, ValueError) as error:
            if (shortage := shortage_of(error)) is not None:
                raise shortage from error
            return []
        return [ip_address(address) for address in found]

    def _opens(self, address: Address, host: str, port: int) -> bool:
        """Whether the operator allows this port of this machine."""
        if port in self.own_ports:
            return any(names(network, address) for network in self.allow_nets)
        return is_named(address, host, nets=self.allow_nets, hosts=self.allow_hosts)

    async def _retried(
        self, url: httpx.URL, file: IO[bytes], max_bytes: int, ends_at: float, key_id: str | None
    ) -> None:
        clock = asyncio.get_running_loop().time
        tries = 0
        while True:
            tries += 1
            try:
                return await self._follow(url, file, max_bytes, key_id)
            except HostUnavailable as error:
                wait_s = error.retry_after_s
                if wait_s is None:
                    wait_s = backoff_s(tries, self.retry_s)
                if tries == FETCH_TRIES or clock() + wait_s >= ends_at:
                    raise
            await asyncio.sleep(wait_s)

    async def _follow(
        self, url: httpx.URL, file: IO[bytes], max_bytes: int, key_id: str | None
    ) -> None:
        for _ in range(self.max_redirects + 1):
            async with self._send("GET", url, _FILE_WANTED, key_id) as response:
                if response.status not in _REDIRECTS:
                    return await save_file(response, url, file, max_bytes)
                url = next_url(response, url)
        raise FetchFailed(f"The file is not there after {self.max_redirects} redirects.")

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        key_id: str | None,
        body: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        """Send the request and give its response, whose body is not yet read."""
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self.ssl_context, network_backend=_VettedNetwork(self, key_id)
        )
        timeout = {"connect": CONNECT_TIMEOUT_S}
        try:
            async with (
                pool,
                pool.stream(
                    method,
                    target,
                    headers=_headers(url, headers, self.contact),
                    content=body,
                    extensions={"timeout": timeout},
                ) as response,
            ):
                yield response
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            raise HostUnavailable(f"{url.host} cannot be reached, or it broke off.") from error
        except httpcore.ProtocolError as error:
            # A connection that is closed before the end of the answer, too.
            raise HostUnavailable(f"{url.host} does not answer in proper HTTP.") from error


class _VettedNetwork(httpcore.AsyncNetworkBackend):
    """The network as the connection pool sees it: it leads to vetted addresses alone."""

    def __init__(self, fetcher: Fetcher, key_id: str | None) -> None:
        self._fetcher = fetcher
        self._key_id = key_id
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._fetcher.vetted(host, port, self._key_id):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                # That this machine can open no connection says nothing of the address.
                failure = shortage_of(error) or error
        assert failure is not None  # `vetted` gives at least one address.
        raise failure


def _headers(
    url: httpx.URL, headers: Mapping[str, str], contact: str | None
) -> list[tuple[str, str]]:
    version = importlib.metadata.version("cosmos-serve")
    comment = "" if contact is None else f" ({contact})"
    return [
        ("Host", url.netloc.decode("ascii")),
        ("User-Agent", f"cosmos-serve/{version}{comment}"),
        *headers.items(),
        ("Connection", "close"),
    ]
