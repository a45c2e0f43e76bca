"""`cosmos-serve node`: this machine's part of a Ray cluster."""

import signal
import subprocess
import sys
from typing import Annotated

import typer

from server.cli.errors import EXIT_CODES, CommandFailed, WrongUsage
from server.cli.options import takes_settings
from server.config.settings import Settings

app = typer.Typer()

SETTINGS = ("weights", "devices", "data", "any_filesystem")

HEAD_PORT = 6379


@app.command(
    epilog="\b\nExample, for the machine of the server, and for one with GPUs:\n"
    "  cosmos-serve node --head --weights checkpoint --data head\n"
    "  cosmos-serve node --address 10.0.0.1:6379 --weights checkpoint --data node\n\n"
    "The settings of workers that are not this machine's own are those of the server.\n\n"
    f"{EXIT_CODES}"
)
@takes_settings(*SETTINGS)
def node(
    settings: Settings,
    head: Annotated[bool, typer.Option("--head", help="Begin a cluster here.")] = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Join the cluster with this head.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the head, with --head.")] = HEAD_PORT,
    ip: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="This machine's own address on the cluster's network; found out, if not given.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What its slots are called; this machine's host name, if not given."),
    ] = None,
) -> None:
    """Make this machine's GPUs slots of a server with COSMOS_POOL=ray, until Ctrl-C."""
    if head == (address is not None):
        raise WrongUsage("give either --head or --address HOST:PORT.")
    from server.config.node import has_ray_token
    from server.data_folder import owned
    from server.workers.ray_node import node_environment, start_command
    from weights.checkpoints import open_checkpoints

    if not has_ray_token():
        raise CommandFailed(
            "There is no token of Ray, without which all who reach its ports could run programs "
            "here. Make one with `ray get-auth-token --generate` on the machine of the head, and "
            "copy ~/.ray/auth_token to each other one, or set RAY_AUTH_TOKEN."
        )
    open_checkpoints(str(settings.weights))
    # Ray refuses the option about its dashboard where there is no head.
    begun = ["--head", f"--port={port}", "--include-dashboard=false"]
    where = begun if head else [f"--address={address}"]
    command = start_command(settings, where, ip=ip, name=name)
    with owned(settings.data, any_filesystem=settings.any_filesystem):
        ray = subprocess.Popen(command, env=node_environment(settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ray.terminate())
        sys.exit(ray.wait())
