"""The tables of docs/settings.md, and the README's rows of it, made from the settings.

`make settings-page` writes them.
"""

from collections.abc import Mapping
from typing import Any

from paths import DOCS, ROOT
from pydantic.fields import FieldInfo

from server.config.errors import PREFIX
from server.config.hub import HubSettings
from server.config.settings import Settings

PAGE, README = DOCS / "settings.md", ROOT / "README.md"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "model": (
        *("weights", "pull", "guardrail", "guardrail_key_file", "guardrail_model", "attention"),
        *("memory", "nvidia_sampling", "preview"),
    ),
    "GPUs": (
        *("devices", "pool", "ray_address", "ray_max_slots", "ray_min_slots", "ray_idle_seconds"),
        *("cuda_visible_devices", "nvidia_driver_capabilities", "worker", "patience"),
    ),
    "address": (
        *("host", "port", "tls_cert", "tls_key", "tls_port", "public_url", "allowed_hosts"),
        *("cors_origins", "forwarded_allow_ips"),
    ),
    "callers": (
        *("auth", "key", "key_file", "files_auth", "files_url_seconds", "key_queue_limit"),
        *("key_running_limit", "key_submits_per_minute", "key_storage_limit_mib", "prices"),
        "currency",
    ),
    "data": (
        *("config", "data", "database", "role", "files", "files_serving", "any_filesystem"),
        *("quarantine_unknown", "keep_days"),
        *("min_free_disk_mib", "upload_limit_mib", "storage_limit_mib"),
    ),
    "queue": ("queue_limit", "disconnect_grace", "drain_seconds"),
    "observing": ("log_format", "traces_exporter"),
    "connections": ("connection_limit", "read_timeout", "write_timeout", "keep_alive"),
    "requests": (
        *("fetch", "fetch_allow_nets", "fetch_allow_hosts", "fetch_contact"),
        "webhook_jwks_padded",
    ),
}
"""Every setting, by the table that it is in."""


def page_text(page: str) -> str:
    """The page with its tables as the settings say."""
    tables = {
        name: [settings_row(field, Settings.model_fields) for field in fields]
        for name, fields in GROUPS.items()
    }
    hub = HubSettings.model_fields
    tables["hub"] = [settings_row(name, hub) for name in hub]
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        assert found and end in rest, f"{PAGE} has no place for the table {name}"
        table = "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])
        page = before + begin + table + "\n" + end + rest.partition(end)[2]
    return page


def settings_row(name: str, fields: Mapping[str, FieldInfo] = Settings.model_fields) -> str:
    """The row for one setting."""
    field = fields[name]
    variable = field.validation_alias or PREFIX + name.upper()
    default = "required" if field.is_required() else _shown(field.default)
    return f"| `{variable}` | {default} | {field.description} |"


def _shown(default: Any) -> str:
    if default in (None, "", ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def readme_text(readme: str) -> str:
    """The README with the rows that it has as the settings say."""
    rows = [settings_row(name) for name in Settings.model_fields]
    now = {_variable(row): row for row in rows}
    return "".join(
        now.get(_variable(line), line.rstrip("\n")) + "\n" for line in readme.splitlines()
    )


def _variable(row: str) -> str:
    """The row's beginning, which is what it is about."""
    return row[: row.find("` |") + 3] if row.startswith("| `") else ""


if __name__ == "__main__":
    PAGE.write_text(page_text(PAGE.read_text()))
    README.write_text(readme_text(README.read_text()))
