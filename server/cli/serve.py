"""`cosmos-serve serve`: the server."""

import typer

from server.cli.errors import EXIT_CODES
from server.cli.options import LISTENER_SETTINGS, WORKER_SETTINGS, takes_settings
from server.config.settings import Settings

app = typer.Typer()


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve serve --weights checkpoint --data data --port 8000\n\n"
    "Every option can be set as COSMOS_ and its name instead, such as COSMOS_PORT; there are "
    f"more settings than options.\n\n{EXIT_CODES}"
)
@takes_settings(*LISTENER_SETTINGS, *WORKER_SETTINGS)
def serve(settings: Settings) -> None:
    """Serve videos over HTTP until Ctrl-C."""
    from server.serve import serve

    serve(settings)
