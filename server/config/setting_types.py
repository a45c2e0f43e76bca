"""The types of settings: how the text of a variable becomes a value, or is refused.

And which variables are settings at all.
"""

import difflib
import logging
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from server.config.errors import PREFIX, SettingsError
from server.hosts import read_name, read_origin
from server.keys import Credential

DEFAULT_WORKER = "server.workers.gpu:GpuWorker"
_FORMER_DEFAULT_WORKER = "server.worker:GpuWorker"


def _each(read: Callable[[str], Any]) -> BeforeValidator:
    """Read each item of a comma-separated text, or of a sequence."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        return tuple(read(item) for item in value)

    return BeforeValidator(read_all)


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as https://videos.example.com")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("expected a URL without credentials, query or fragment")
    return value.rstrip("/")


def _check_guardrail(value: str) -> str:
    if value in ("required", "text", "off"):
        return value
    try:
        return _check_url(value)
    except ValueError as error:
        raise ValueError(
            "expected required, text, off or a URL such as http://localhost:4000/v1/moderations"
        ) from error


def _check_key(value: SecretStr) -> SecretStr:
    if Credential.parse(value.get_secret_value()) is None:
        raise ValueError("expected a key of the form id:secret")
    return value


def _check_database(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme != "postgresql+psycopg" or len(parts.path) < 2:
        raise ValueError("expected a URL such as postgresql+psycopg://user:password@host/database")
    # Commands that need no database start without it.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(value.get_secret_value())
    except (ValueError, ArgumentError) as error:
        raise ValueError(
            "expected one host, and its port as a number; several hosts are given as "
            "postgresql+psycopg://user:password@/database?host=first:5432&host=second:5432"
        ) from error
    return value


def _check_files(value: str) -> str:
    # Bucket names are so everywhere; a prefix may be any path.
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*'()/-]*)?", value, re.ASCII):
        raise ValueError("expected s3://bucket or s3://bucket/prefix")
    return value.rstrip("/")


def _read_price(text: str) -> tuple[str, float]:
    endpoint, _, amount = text.partition("=")
    # Plain digits: neither infinity nor a sign.
    if not endpoint or not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", amount, re.ASCII):
        raise ValueError(f"{text!r} is no price: give each as endpoint=0.20")
    return endpoint, float(amount)


def _current_worker(value: str) -> str:
    if value != _FORMER_DEFAULT_WORKER:
        return value
    # structlog is not set up yet. The standard library writes to stderr without any setup.
    logging.getLogger(__name__).warning(
        "COSMOS_WORKER=%s is now called %s: set that, or leave it unset.", value, DEFAULT_WORKER
    )
    return DEFAULT_WORKER


Network = IPv4Network | IPv6Network
FilesAuth = Literal["public", "signed", "key"]
PreviewChoice = Literal["off", "rgb", "taehv"]
Role = Literal["all", "api", "dispatch"]
HostNames = Annotated[tuple[str, ...], NoDecode, _each(read_name)]
LowerNames = Annotated[tuple[str, ...], NoDecode, _each(str.lower)]
Origins = Annotated[tuple[str, ...], NoDecode, _each(read_origin)]
Networks = Annotated[tuple[Network, ...], NoDecode, _each(ip_network)]
Prices = Annotated[tuple[tuple[str, float], ...], NoDecode, _each(_read_price)]
Url = Annotated[str, AfterValidator(_check_url)]
Guardrail = Annotated[str, AfterValidator(_check_guardrail)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database)]
FilesUrl = Annotated[str, AfterValidator(_check_files)]
Key = Annotated[SecretStr, AfterValidator(_check_key)]
WorkerPath = Annotated[str, AfterValidator(_current_worker)]

_SERVICE_LINK = re.compile(
    r"COSMOS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)",
    re.IGNORECASE,
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets such names for each Service, and a PORT with such a URL: for one that is called
`cosmos` or `cosmos-db` they begin as ours do."""


def meant_for_us(environment: Mapping[str, str | None], prefix: str) -> dict[str, str]:
    """The variables that are set, without what Kubernetes says of services.

    CUDA_VISIBLE_DEVICES may be empty: it then shows no GPU.
    """
    return {
        name: value
        for name, value in environment.items()
        if value is not None
        if not name.upper().startswith(prefix) or value
        if not _SERVICE_LINK.fullmatch(name)
        if not (name.upper().endswith("_PORT") and _SERVICE_URL.match(value))
    }


def refuse_unknown_names(environment: Mapping[str, str], known: set[str]) -> None:
    """Raise SettingsError for a name that begins as ours do and is none of the known ones."""
    for name in sorted(environment):
        # pydantic reads names in any case.
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        closest = difflib.get_close_matches(upper, known, n=1, cutoff=0.0)[0]
        raise SettingsError(f"{name} is not a setting. Did you mean {closest}?")
