"""Options that stand for settings: they are called so, and their help is the settings' own."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from server.config.folders import data_folder
from server.config.settings import Settings

WORKER_SETTINGS = (
    "weights",
    "devices",
    *("guardrail", "guardrail_key_file", "guardrail_model"),
    "attention",
    "memory",
    "nvidia_sampling",
)
"""The options of every command that starts workers."""

LISTENER_SETTINGS = (
    *("pull", "data", "any_filesystem", "quarantine_unknown", "host", "port"),
    *("tls_cert", "tls_key", "tls_port", "public_url", "forwarded_allow_ips", "preview"),
)
"""The options of a command that listens, besides."""

_TYPES = get_type_hints(Settings)


def help_of(name: str) -> str:
    """The description of a setting as a sentence."""
    description = Settings.model_fields[name].description or ""
    return f"{description[:1].upper()}{description[1:]}."


Data = Annotated[
    Path,
    typer.Option(
        default_factory=data_folder,
        # Of an empty text, as of a variable that is not set, Typer would make the working folder.
        parser=lambda text: Path(text) if text else data_folder(),
        metavar="PATH",
        show_default="data",
        help=help_of("data"),
    ),
]
"""The data folder, for commands that need no other setting."""

KeyName = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Its label, or its id: the part before the colon.",
    ),
]
"""A key that a command is about."""

OfKey = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="Only what is of this key, by its label or id."),
]


def takes_settings(
    *names: str, load: Callable[..., object] = Settings.load
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings.

    Its parameter `settings`, the first, becomes these options: on the command line they win over
    the environment. `load` makes its value of them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            settings = load(**{name: given.pop(name) for name in names})
            command(settings, **given)

        signature = inspect.signature(command)
        _, *own = signature.parameters.values()
        parameters = [*own, *map(_parameter, names)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    """The parameter from which Typer makes the option of a setting; None where it is not given."""
    field, kind, metavar = Settings.model_fields[name], _TYPES[name], None
    if get_origin(kind) is tuple:
        kind = str  # comma-separated, as in the environment
    elif kind in (Path, Path | None):
        # Of an empty text, which is no setting, Typer would make the working folder.
        kind, metavar = str, "PATH"
    default = "" if field.is_required() else str(field.default or "")
    option = typer.Option(
        # Without its name, Typer adds --no-pull.
        *([f"--{name.replace('_', '-')}"] if kind is bool else []),
        metavar=metavar,
        help=help_of(name),
        show_default=default or False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
