"""Who may come in, before anybody asks for a key: by which name, from which page, and how."""

from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers

from server.api.forwarded import PublicOrigin, forwarded_header
from server.config.settings import Settings
from server.errors import Forbidden, MisdirectedRequest
from server.fal.invalid_input import truncated
from server.fal.urls import FAL_HOSTS
from server.hosts import HostRule, name_of, read_origin
from server.outbound.addresses import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Which requests are let in, before anybody asks for a key.

    A server that needs no key serves its own machine only: no name but a loopback one or fal's,
    no page of another origin, and nothing whose headers say that it came through a proxy.
    """

    hosts: HostRule
    origins: frozenset[str]
    """Those whose pages may read our answers."""

    own_origins: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    public_url: str | None
    needs_key: bool

    @classmethod
    def from_settings(cls, settings: Settings, machine_name: str) -> Self:
        """The rules that follow from the settings, on the machine of that name."""
        public = None if settings.public_url is None else PublicOrigin.from_url(settings.public_url)
        names = {*FAL_HOSTS, *settings.allowed_hosts}
        if public is not None:
            names.add(name_of(public.host))
        if settings.needs_key:
            names |= {machine_name.lower(), settings.host.lower()}
        hosts = HostRule(
            names=frozenset(names),
            addresses=settings.needs_key,
            # The URLs of an answer go back to somebody who proved a key.
            every_name=settings.needs_key and settings.public_url is None,
        )
        return cls(
            hosts=hosts,
            origins=frozenset(settings.cors_origins),
            own_origins=frozenset() if public is None else frozenset({public.origin}),
            trusted_proxies=settings.forwarded_allow_ips,
            public_url=settings.public_url,
            needs_key=settings.needs_key,
        )

    def check(self, arrival: PublicOrigin, headers: Headers) -> None:
        """Refuse who must not come in.

        Raises:
            MisdirectedRequest: the Host is not a name of this server.
            Forbidden: the request is not of this machine alone, and we ask for no key.
        """
        if not self.hosts.allows(arrival.host):
            raise MisdirectedRequest(
                f"This server is not known as {name_of(arrival.host)!r}. If it should be, add "
                "the name to COSMOS_ALLOWED_HOSTS."
            )
        if self.needs_key:
            return
        forwarded = forwarded_header(headers)
        if forwarded is not None:
            raise Forbidden(
                f"The header {forwarded!r} says that this request came through a proxy. This "
                "server asks for no key, so it serves its own machine only: set COSMOS_AUTH=on."
            )
        self.check_origin(arrival, headers)

    def check_origin(self, arrival: PublicOrigin, headers: Headers) -> None:
        """Refuse the pages of other sites.

        Raises:
            Forbidden: the page is not of this server, nor of an origin that may use it.
        """
        origin = headers.get("origin", arrival.origin)
        if origin not in {arrival.origin, *self.own_origins, *self.origins}:
            raise Forbidden(
                f"Pages of {truncated(origin)!r} may not use this server. {_advice(origin)}"
            )


def _advice(origin: str) -> str:
    """What to do about an origin that is refused."""
    try:
        can_be_listed = read_origin(origin) == origin
    except ValueError:
        # "null" is the origin of a file, of a frame in a sandbox, and of what was redirected.
        can_be_listed = False
    if can_be_listed:
        return "If they should, add the origin to COSMOS_CORS_ORIGINS."
    return "That is no site's origin, so no setting allows it: serve the page from a site."
