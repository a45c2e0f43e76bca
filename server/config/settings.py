"""Every setting of the server, read once into one frozen value.

Names in the environment begin with COSMOS_; CUDA_VISIBLE_DEVICES, NVIDIA_DRIVER_CAPABILITIES and
OTEL_TRACES_EXPORTER are the others. A variable that is empty is one that is not set. A `.env` file
is not read.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pipeline.memory_plan import MemoryChoice
from server.config.errors import PREFIX, SettingsError, sentence
from server.config.setting_types import (
    DEFAULT_WORKER,
    DatabaseUrl,
    FilesAuth,
    FilesUrl,
    Guardrail,
    HostNames,
    Key,
    LowerNames,
    Networks,
    Origins,
    PreviewChoice,
    Prices,
    Role,
    Url,
    WorkerPath,
    meant_for_us,
    refuse_unknown_names,
)
from server.config.settings_file import read_settings_file
from server.config.together import check_together, is_on_loopback

DAY_S = 86_400.0


class Settings(BaseSettings):
    """What the server is told at its start. A field `port` is read from `COSMOS_PORT`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    config: Path | None = Field(
        default=None,
        description="TOML file of settings under their names, such as `port = 8000`; the "
        "environment wins over it",
    )
    weights: Path = Field(
        description="folder of the checkpoint, or of several over one text model, comma-separated"
    )
    pull: bool = Field(
        default=False,
        description="fetch at the start what is missing of NVIDIA's checkpoint and of the "
        "guardrail's model for prompts",
    )
    data: Path = Field(default=Path("data"), description="folder for the database and the files")
    database: DatabaseUrl | None = Field(
        default=None,
        description="URL of a PostgreSQL that servers share, see docs/cluster.md; SQLite, if unset",
    )
    files: FilesUrl | None = Field(
        default=None,
        description="bucket of S3 for videos and uploads, as s3://bucket/prefix, see "
        "docs/cluster.md; the data folder, if unset",
    )
    files_serving: Literal["proxy", "redirect"] = Field(
        default="proxy",
        description="how files in S3 are read: proxy, through the server; redirect, from the "
        "bucket by a signed URL",
    )
    role: Role = Field(
        default="all",
        description="what this server does of a queue on PostgreSQL: api accepts and answers "
        "requests, dispatch runs jobs, all does both; see docs/cluster.md",
    )
    any_filesystem: bool = Field(default=False, description="use a file system not known to work")
    quarantine_unknown: bool = Field(
        default=False,
        description="start though the database does not know most files; they go to quarantine",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port for HTTP")
    tls_cert: Path | None = Field(default=None, description="PEM file of the TLS certificate")
    tls_key: Path | None = Field(default=None, description="PEM file of the TLS key")
    tls_port: int | None = Field(default=None, ge=0, le=65535, description="port for HTTPS")
    public_url: Url | None = Field(
        default=None,
        description="how callers reach the server, and how every URL handed out begins; as each "
        "caller did, if unset",
    )
    devices: str = Field(
        default="",
        description="devices to work on: all, cpu, or numbers such as 0,2; 0+1 has two work on "
        "one video; every GPU that CUDA_VISIBLE_DEVICES shows, or the CPU where there is none, if "
        "unset",
    )
    pool: Literal["local", "ray"] = Field(
        default="local",
        description="where jobs run: local, on this machine; ray, on those of a Ray cluster, see "
        "docs/cluster.md",
    )
    ray_address: str = Field(
        default="auto", description="head of the Ray cluster; auto, that of this machine's node"
    )
    ray_max_slots: int | None = Field(
        default=None,
        ge=1,
        description="workers that a Ray cluster has at most, where their number follows the jobs "
        "that wait, see docs/cluster.md; one for each slot of its nodes, if unset",
    )
    ray_min_slots: int = Field(
        default=1, ge=0, description="workers that it then has at least, with their models loaded"
    )
    ray_idle_seconds: float = Field(
        default=600.0,
        gt=0,
        description="seconds after which a worker that has no job is ended then",
    )
    worker: WorkerPath = Field(default=DEFAULT_WORKER, description="class of the workers")
    guardrail: Guardrail = Field(
        default="required",
        description="who judges prompts, pictures and frames: the URL of an endpoint in the shape "
        "of OpenAI's moderations; required, the models beside the weights, if the checkpoint "
        "requires a guardrail; text, only the one for prompts; off, nobody",
    )
    guardrail_key_file: Path | None = Field(
        default=None, description="file with the key for the guardrail's URL, sent as a bearer"
    )
    guardrail_model: str | None = Field(
        default=None, min_length=1, description="model that the guardrail's URL is asked for"
    )
    attention: str = Field(
        default="auto",
        description="attention backend: fa3, cudnn, native or flash; auto prefers them in order",
    )
    patience: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="times the usual silence after which a worker is taken to hang: 2 is patient",
    )
    connection_limit: int = Field(default=500, ge=1, description="connections open at once")
    read_timeout: float = Field(
        default=30.0, gt=0, description="seconds that a caller may pause within its request"
    )
    write_timeout: float = Field(
        default=60.0, gt=0, description="seconds that a caller may take nothing of an answer"
    )
    keep_alive: float = Field(
        default=75.0, gt=0, description="seconds that a connection is kept between two requests"
    )
    memory: MemoryChoice = Field(
        default="auto",
        description="where the model waits: resident on the GPU, offload has the text model in "
        "host memory, stream all of it; auto takes the first that fits",
    )
    nvidia_sampling: bool = Field(
        default=False,
        description="noise and times of NVIDIA's program, to compare seeds with it, "
        "see docs/performance.md",
    )
    preview: PreviewChoice = Field(
        default="rgb",
        description="what makes previews of a video while it is denoised: rgb, a pixel of each "
        "latent cell; taehv, a small network whose file is beside the weights; off, nothing",
    )
    queue_limit: int = Field(default=100, ge=1, description="jobs that may wait at once")
    disconnect_grace: float = Field(
        default=20.0, ge=0, description="seconds that a run goes on without its caller"
    )
    drain_seconds: float = Field(
        default=8.0, ge=0, description="seconds that runs may go on when the server is told to end"
    )
    min_free_disk_mib: int = Field(
        default=1024, ge=0, description="free disk under which nothing is accepted, in MiB"
    )
    upload_limit_mib: int = Field(
        default=1024, ge=1, description="size that an uploaded file may have, in MiB"
    )
    storage_limit_mib: int = Field(
        default=20480, ge=1, description="size of all uploaded files together, in MiB"
    )
    keep_days: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="days that jobs, videos and uploads are kept; until they are removed, if unset",
    )
    key_queue_limit: int | None = Field(
        default=None, ge=1, description="jobs of one key that may wait at once"
    )
    key_running_limit: int | None = Field(
        default=None, ge=1, description="jobs of one key that may run at once; others go first"
    )
    key_submits_per_minute: int | None = Field(
        default=None, ge=1, description="requests for videos of one key within any minute"
    )
    key_storage_limit_mib: int | None = Field(
        default=None, ge=1, description="size of the uploaded files of one key, in MiB"
    )
    auth: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether callers need a key; auto is off on loopback, if none is set here",
    )
    key: Key | None = Field(
        default=None, description="a key as id:secret, valid as long as it is set"
    )
    key_file: Path | None = Field(default=None, description="file that holds it instead")
    files_auth: FilesAuth = Field(
        default="public",
        description="who may read a file: public, all who have its URL; signed, the same until the "
        "URL expires; key, the key that it belongs to",
    )
    files_url_seconds: int = Field(
        default=7 * int(DAY_S),
        ge=60,
        description="seconds that a signed URL is good at most; half of them are left in an answer",
    )
    prices: Prices = Field(
        default=(),
        description="what a video costs, as endpoint=0.20, comma-separated; 0, if an endpoint is "
        "not named; it is shown and added up, and nothing is charged",
    )
    currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="currency of the prices, by ISO 4217"
    )
    allowed_hosts: HostNames = Field(
        default=(), description="further names that the server is reached by, comma-separated"
    )
    cors_origins: Origins = Field(
        default=(), description="origins whose pages may use the server, comma-separated"
    )
    forwarded_allow_ips: Networks = Field(
        default=(),
        description="addresses and networks of proxies whose X-Forwarded headers are believed, "
        "comma-separated",
    )
    fetch: Literal["on", "off"] = Field(
        default="on", description="off fetches no picture and sends no webhook, to nobody"
    )
    fetch_allow_nets: Networks = Field(
        default=(),
        description="private networks to fetch pictures from and send webhooks to, comma-separated",
    )
    fetch_allow_hosts: LowerNames = Field(
        default=(),
        description="private names to fetch pictures from and send webhooks to, comma-separated",
    )
    fetch_contact: str | None = Field(
        default=None,
        pattern=r"^[ -'*-~]{1,200}$",
        description="mail address or URL that the User-Agent of outbound requests names",
    )
    webhook_jwks_padded: bool = Field(
        default=False,
        description="end the x of the webhooks' public key with =, see docs/webhooks.md",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="form of the log's lines: text for people, json for programs"
    )
    traces_exporter: Literal["none", "otlp"] = Field(
        default="none",
        validation_alias="OTEL_TRACES_EXPORTER",
        description="otlp sends traces of requests, see docs/observability.md",
    )
    cuda_visible_devices: str | None = Field(
        default=None, validation_alias="CUDA_VISIBLE_DEVICES", description="the GPUs we may use"
    )
    nvidia_driver_capabilities: str | None = Field(
        default=None,
        validation_alias="NVIDIA_DRIVER_CAPABILITIES",
        description="what a container may use of the driver, for `cosmos-serve doctor`",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed, then the environment, as far as it is meant for us, then the file."""
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = meant_for_us(env_settings.env_vars, PREFIX)
        file_settings = InitSettingsSource(
            settings_cls, read_settings_file(settings_cls.model_fields)
        )
        return init_settings, env_settings, file_settings

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Read the environment; `overrides` that are neither None nor empty win over it.

        Raises:
            SettingsError: a COSMOS_ name is unknown, or a value cannot be used.
        """
        fields = cls.model_fields.items()
        known = {PREFIX + name.upper() for name, field in fields if not field.validation_alias}
        refuse_unknown_names(meant_for_us(os.environ, PREFIX), known)
        given = {name: value for name, value in overrides.items() if value not in (None, "")}
        try:
            return cls(**given)
        except ValidationError as error:
            lines = (sentence(each, cls.model_fields, given) for each in error.errors())
            raise SettingsError("\n".join(lines)) from error

    @property
    def keep_s(self) -> float | None:
        """Seconds that jobs, videos and uploads are kept; None is until they are removed."""
        return None if self.keep_days is None else self.keep_days * DAY_S

    @property
    def needs_key(self) -> bool:
        """Whether callers must prove who they are."""
        if self.auth != "auto":
            return self.auth == "on"
        has_key = self.key is not None or self.key_file is not None
        return has_key or not is_on_loopback(self.host)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        check_together(self)
        return self
