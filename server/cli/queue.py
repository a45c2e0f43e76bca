"""`cosmos-serve queue`: pause the queue of a data folder, and resume it."""

import typer

from server.cli.database import open_database
from server.cli.options import Data

app = typer.Typer(
    help="Pause the queue, as before maintenance, and resume it. A pause outlives the server.",
    epilog="\b\nExample:\n  cosmos-serve queue pause --data data",
)


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
