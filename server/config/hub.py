"""The settings of the Hugging Face Hub, by the variables of its own library."""

import os

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.config.errors import SettingsError, sentence
from server.config.setting_types import Url

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class HubSettings(BaseSettings):
    """Where the hub is, and whether it may be asked at all."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True)

    endpoint: Url = Field(
        default="https://huggingface.co",
        validation_alias="HF_ENDPOINT",
        description="the hub, or a mirror of it, which is then sent the token",
    )
    offline: bool = Field(
        default=False,
        validation_alias="HF_HUB_OFFLINE",
        description="ask the hub for nothing; `weights pull` then copies with --from alone",
    )

    @classmethod
    def load(cls) -> "HubSettings":
        """Read the environment; raises SettingsError if a value cannot be used."""
        try:
            return cls()
        except ValidationError as error:
            lines = (sentence(each, cls.model_fields) for each in error.errors())
            raise SettingsError("\n".join(lines)) from error


def forget_token() -> None:
    """Take the hub's token out of the environment: what this process starts has no use for it."""
    for name in _TOKENS:
        os.environ.pop(name, None)
