"""`cosmos-serve queue`: pause the queue of a data folder, and resume it."""

from pathlib import Path

from server.cli.database import open_database
from server.jobs.pause import QueueSwitch


def pause_queue(data: Path) -> str:
    """Start no more jobs."""
    with open_database(data) as database:
        QueueSwitch(database).pause()
    return "The queue is paused: jobs that run go on, and no other is started until it is resumed."


def resume_queue(data: Path) -> str:
    """Start jobs again."""
    with open_database(data) as database:
        QueueSwitch(database).resume()
    return "The queue goes on."
