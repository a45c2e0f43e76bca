"""How commands remove things: what they would remove is shown, and they ask before they do it."""

import sys
from typing import Annotated

import typer

from server.cli.errors import CommandFailed, WrongUsage

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


def confirm(what: str, *, yes: bool) -> None:
    """Ask whether to remove it.

    Raises:
        CommandFailed: the answer is no.
        WrongUsage: there is nobody to answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(f"This would remove {what}: say --yes where nobody can be asked.")
    if not typer.confirm(f"Remove {what}?", err=True):
        raise CommandFailed("Nothing was removed.")
