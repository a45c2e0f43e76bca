"""`cosmos-serve certs`: a CA and a TLS certificate, for clients whose hosts are fixed."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.errors import EXIT_CODES

app = typer.Typer()


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve certs certs --host gpu.example.com --host 192.168.1.20\n\n"
    f"{EXIT_CODES}"
)
def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for the five files.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name or an address that clients find the server at, besides fal's names and "
            "localhost; may be given several times.",
        ),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Issue a new certificate from the CA that is in DIR.")
    ] = False,
) -> None:
    """Make a CA and a TLS certificate for fal's names and this server's; say how to use them."""
    from server.cli.certificate_files import make_certs, renew_certs

    print((renew_certs if renew else make_certs)(folder, host or []))
