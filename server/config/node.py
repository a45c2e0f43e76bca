"""What a machine of a Ray cluster is told of itself, and Ray of how it is to be run."""

import os
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from server.config.errors import PREFIX

RAY_ENVIRONMENT = {
    # Without a token, all who reach Ray's ports could run code.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Weights that are loaded fill the page cache, for which its memory monitor would kill workers.
    "RAY_memory_monitor_refresh_ms": "0",
}


class NodeSettings(BaseSettings):
    """The settings that are the machine's own where workers run; the others are the server's."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    weights: str | None = None
    data: Path | None = None


def set_ray_environment() -> None:
    """Have Ray, which is to be imported after this, run in this process as it is to be run."""
    os.environ.update(RAY_ENVIRONMENT)


def has_ray_token() -> bool:
    """Whether Ray will find a token where it looks for one: two variables, and a file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path(named) if named else Path.home() / ".ray" / "auth_token").is_file()
