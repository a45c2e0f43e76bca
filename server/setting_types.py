"""The types of settings: how the text of a variable becomes a value, or is refused."""

import logging
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

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


def _check_key(value: SecretStr) -> SecretStr:
    if Credential.parse(value.get_secret_value()) is None:
        raise ValueError("expected a key of the form id:secret")
    return value


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
HostNames = Annotated[tuple[str, ...], NoDecode, _each(read_name)]
LowerNames = Annotated[tuple[str, ...], NoDecode, _each(str.lower)]
Origins = Annotated[tuple[str, ...], NoDecode, _each(read_origin)]
Networks = Annotated[tuple[Network, ...], NoDecode, _each(ip_network)]
Url = Annotated[str, AfterValidator(_check_url)]
Key = Annotated[SecretStr, AfterValidator(_check_key)]
WorkerPath = Annotated[str, AfterValidator(_current_worker)]
