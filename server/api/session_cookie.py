"""The cookie of a session: what it is called, and the requests that it speaks for.

A browser adds it by itself, also to requests that a page of another port, or of a sister domain,
makes: to SameSite those are the same site. So a request that may change something has to come from
the server's own origin.
"""

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from server.api.forwarded import PublicOrigin
from server.errors import Forbidden
from server.fal.invalid_input import truncated
from server.fal.urls import FAL_HOSTS, Service
from server.hosts import name_of

_OF_THE_PAGE = frozenset(
    {
        *{Service.RUN, Service.QUEUE, Service.REST, Service.FILES, Service.V1},
        *{Service.ADMIN, Service.DISCOVERY},
    }
)
"""The services that the page uses. Elsewhere, and under fal's names, callers have keys."""


def session_of(scope: Scope, host: str, service: Service) -> str | None:
    """The value of the request's cookie; None where there is none, or where it does not count."""
    headers, own = Headers(scope=scope), _own(scope)
    if service not in _OF_THE_PAGE or name_of(host) in FAL_HOSTS:
        return None
    if scope["method"] not in ("GET", "HEAD") and headers.get("origin") != own.origin:
        return None
    return cookie_parser("; ".join(headers.getlist("cookie"))).get(_name(own))


def check_own_page(request: Request) -> None:
    """Refuse what does not come from a page of this server.

    Raises:
        Forbidden: it does not.
    """
    own, origin = _own(request.scope), request.headers.get("origin")
    if origin != own.origin:
        sent_by = "no page" if origin is None else f"a page of {truncated(origin)!r}"
        raise Forbidden(
            f"Sessions are for the page at {own.base_url}/, and this request is from {sent_by}. "
            "If a proxy stands between, set COSMOS_PUBLIC_URL or COSMOS_FORWARDED_ALLOW_IPS."
        )


def set_cookie(request: Request, response: Response, value: str, max_age_s: float) -> None:
    """Have the browser keep the value for so many seconds; none ends the cookie."""
    own = _own(request.scope)
    response.set_cookie(
        _name(own),
        value,
        max_age=int(max_age_s),
        path=own.prefix or "/",
        secure=own.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def _own(scope: Scope) -> PublicOrigin:
    """Where this request's page is."""
    return PublicOrigin.from_url(scope["state"]["base_url"])


def _name(own: PublicOrigin) -> str:
    # With this prefix browsers take it from this very host only, and not from a sister domain.
    is_host_only = own.scheme == "https" and not own.prefix
    return "__Host-cosmos_session" if is_host_only else "cosmos_session"
