"""`cosmos-serve queue`: pause the queue of a data folder, resume it, and see which it is."""

import time

import typer

from server.cli.open_database import open_database
from server.cli.options import Data
from server.cli.printing import time_text

app = typer.Typer(
    help="Pause the queue, as before maintenance, and resume it. A pause outlives the server.",
    epilog="\b\nExample:\n  cosmos-serve queue pause --data data",
)


@app.command()
def status(data: Data) -> None:
    """Say whether the queue is paused, and how many jobs wait and run."""
    from server.jobs import pause as switch
    from server.jobs.reports import queue_size

    with open_database(data) as database:
        since, size = switch.paused_since(database), queue_size(database, time.time())
    print(
        "The queue goes on." if since is None else f"The queue is paused since {time_text(since)}."
    )
    print(f"{size.waiting} waiting, {size.running} running.")


@app.command()
def pause(data: Data) -> None:
    """Start no more jobs; those that run go on, and requests are still accepted."""
    from server.jobs import pause as switch

    with open_database(data) as database:
        switch.pause(database)
    print("The queue is paused: jobs that run go on, and no other is started until it is resumed.")


@app.command()
def resume(data: Data) -> None:
    """Start jobs again."""
    from server.jobs import pause as switch

    with open_database(data) as database:
        switch.resume(database)
    print("The queue goes on.")
