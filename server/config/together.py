"""Settings that have no use without others."""

from typing import TYPE_CHECKING

from server.config.errors import PREFIX

if TYPE_CHECKING:
    from server.config.settings import Settings

_OF_KEYS = (
    *("key_queue_limit", "key_running_limit", "key_submits_per_minute"),
    "key_storage_limit_mib",
)


def check_no_key_limits(settings: "Settings") -> None:
    """See that nothing limits each key, where callers need none.

    Raises:
        ValueError: something does.
    """
    for name in _OF_KEYS:
        if getattr(settings, name) is not None:
            raise ValueError(
                f"{PREFIX}{name.upper()} limits each key, and callers need none here: set "
                "COSMOS_AUTH=on, or leave it unset"
            )
