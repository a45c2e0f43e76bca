"""Which settings go together, and which have no use without others."""

from typing import TYPE_CHECKING

from server.config.errors import PREFIX
from server.hosts import is_loopback

if TYPE_CHECKING:
    from server.config.settings import Settings

_OF_KEYS = (
    *("key_queue_limit", "key_running_limit", "key_submits_per_minute"),
    "key_storage_limit_mib",
)


def check_together(settings: "Settings") -> None:
    """See that settings which have been read fit together.

    Raises:
        ValueError: they do not; the message says which, and what to do.
    """
    tls = (settings.tls_cert, settings.tls_key, settings.tls_port)
    if any(part is not None for part in tls) and None in tls:
        raise ValueError(
            "HTTPS needs all of COSMOS_TLS_CERT, COSMOS_TLS_KEY and COSMOS_TLS_PORT, "
            "or none of them"
        )
    if settings.pull and "," in str(settings.weights):
        raise ValueError(
            "COSMOS_PULL fetches one checkpoint, and COSMOS_WEIGHTS names several: fetch them "
            "with `cosmos-serve weights pull`, or name one"
        )
    if settings.key is not None and settings.key_file is not None:
        raise ValueError("COSMOS_KEY and COSMOS_KEY_FILE are both set: choose one")
    if settings.fetch == "off" and (settings.fetch_allow_nets or settings.fetch_allow_hosts):
        raise ValueError(
            "COSMOS_FETCH=off leaves COSMOS_FETCH_ALLOW_NETS and COSMOS_FETCH_ALLOW_HOSTS "
            "without a use: unset them"
        )
    if settings.guardrail in ("required", "text", "off") and (
        settings.guardrail_key_file is not None or settings.guardrail_model is not None
    ):
        raise ValueError(
            "COSMOS_GUARDRAIL_KEY_FILE and COSMOS_GUARDRAIL_MODEL are for a guardrail's URL: "
            "let COSMOS_GUARDRAIL name one, or unset them"
        )
    if settings.auth == "off":
        _check_auth_off(settings)
    if settings.forwarded_allow_ips and not settings.needs_key:
        raise ValueError(
            "COSMOS_FORWARDED_ALLOW_IPS names a proxy, which lets other machines in, so "
            "callers need a key: set COSMOS_AUTH=on"
        )
    if not settings.needs_key:
        _check_no_key_limits(settings)
    _check_files(settings)
    _check_cluster(settings)


def _check_cluster(settings: "Settings") -> None:
    if settings.role != "all" and settings.database is None:
        raise ValueError(
            f"COSMOS_ROLE={settings.role} leaves the rest to servers on the same database: let "
            "COSMOS_DATABASE name a PostgreSQL, or leave it unset"
        )
    if settings.ray_address != "auto" and settings.pool != "ray":
        raise ValueError(
            "COSMOS_RAY_ADDRESS is for the pool of a Ray cluster: set COSMOS_POOL=ray, or leave it "
            "unset"
        )
    _check_scaling(settings)


def _check_scaling(settings: "Settings") -> None:
    most = settings.ray_max_slots
    if most is None:
        for name in ("ray_min_slots", "ray_idle_seconds"):
            if name in settings.model_fields_set:
                raise ValueError(
                    f"{PREFIX}{name.upper()} is for workers whose number follows the queue: set "
                    "COSMOS_RAY_MAX_SLOTS, or leave it unset"
                )
        return
    if settings.pool != "ray":
        raise ValueError(
            "COSMOS_RAY_MAX_SLOTS is for the pool of a Ray cluster: set COSMOS_POOL=ray, or leave "
            "it unset"
        )
    if settings.ray_min_slots > most:
        raise ValueError(
            f"COSMOS_RAY_MIN_SLOTS={settings.ray_min_slots} is more than COSMOS_RAY_MAX_SLOTS="
            f"{most}: no number of workers is both"
        )


def _check_files(settings: "Settings") -> None:
    if settings.files_auth == "key" and not settings.needs_key:
        raise ValueError(
            "COSMOS_FILES_AUTH=key gives a file to the key that it belongs to, and callers "
            "need none here: set COSMOS_AUTH=on, or leave it unset"
        )
    if settings.files_auth != "signed" and "files_url_seconds" in settings.model_fields_set:
        raise ValueError(
            "COSMOS_FILES_URL_SECONDS is for signed URLs: set COSMOS_FILES_AUTH=signed, or "
            "leave it unset"
        )
    if settings.files_serving == "redirect" and settings.files is None:
        raise ValueError(
            "COSMOS_FILES_SERVING=redirect is for files in S3: let COSMOS_FILES name a bucket, "
            "or leave it unset"
        )


def _check_auth_off(settings: "Settings") -> None:
    if not is_on_loopback(settings.host):
        raise ValueError(
            f"COSMOS_AUTH=off would let everybody in who can reach {settings.host}: listen on "
            "127.0.0.1, or leave COSMOS_AUTH unset and give callers a key"
        )
    if settings.key is not None or settings.key_file is not None:
        raise ValueError("COSMOS_AUTH=off leaves the key that is set without a use: unset one")


def _check_no_key_limits(settings: "Settings") -> None:
    """See that nothing limits each key, where callers need none."""
    for name in _OF_KEYS:
        if getattr(settings, name) is not None:
            raise ValueError(
                f"{PREFIX}{name.upper()} limits each key, and callers need none here: set "
                "COSMOS_AUTH=on, or leave it unset"
            )


def is_on_loopback(address: str) -> bool:
    """Whether only this machine reaches the address that a server listens on."""
    return is_loopback(f"[{address}]" if ":" in address else address)
