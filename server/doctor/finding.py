"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and not as well as it could."""

    PROBLEM = "problem"
    """A server does not start, or makes no video."""

    SKIPPED = "skipped"
    """It does not matter here, or what it needs is not known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and how to mend what it says, where the sentence does not tell."""

    level: Level
    text: str
    mend: str | None = None


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def skipped(text: str) -> Finding:
    """It was not looked at."""
    return Finding(Level.SKIPPED, text)


def warning(text: str, mend: str | None = None) -> Finding:
    """It works, and could be better."""
    return Finding(Level.WARNING, text, mend)


def problem(text: str, mend: str | None = None) -> Finding:
    """It does not work."""
    return Finding(Level.PROBLEM, text, mend)
