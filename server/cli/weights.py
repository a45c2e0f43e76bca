"""`cosmos-serve weights`: fetch a checkpoint, look at one, or make a stand-in for one."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli.byte_progress import byte_progress
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.printing import counted, size_text
from server.config.hub import HubSettings
from server.config.settings import weights_folder

if TYPE_CHECKING:
    from weights.listing import Listing

app = typer.Typer(help="Fetch a checkpoint, look at one, or make a stand-in for one.")

CheckpointFolder = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="The checkpoint's folder; COSMOS_WEIGHTS, if left out."),
]


@app.command()
def pull(
    folder: CheckpointFolder = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Copy a checkpoint that is at hand."),
    ] = None,
) -> None:
    """Fetch NVIDIA's checkpoint, at a pinned commit; only what is missing, and every byte checked.

    The same command goes on where an earlier one ended. Accept the licence on the page of
    nvidia/Cosmos-Predict2.5-2B first, and set HF_TOKEN or run `hf auth login`. HF_ENDPOINT names a
    mirror. --from checks against the checksums.json of that folder, or, if it has none, against
    what the hub lists.
    """
    root = _folder(folder)
    from weights.store import WeightStore

    console = Console(stderr=True)
    listing = _pull(root, source, console)
    print(
        f"{root}: {listing.repository} at {listing.commit}, {counted(len(listing.files), 'file')}, "
        f"{size_text(listing.size)}"
    )
    print(WeightStore(root).profile.licence)


def _pull(root: Path, source: Path | None, console: Console) -> "Listing":
    from weights.download import Hub
    from weights.listing import RECORD, read_listing
    from weights.manifest import load_manifest
    from weights.pull import Folder, pull

    if source is not None and (source / RECORD).is_file():
        listing = read_listing(source / RECORD)
        with byte_progress("Copying", listing.size, console) as display:
            pull(Folder(source), listing, root, display)
        return listing
    settings, manifest = HubSettings.load(), load_manifest()
    if settings.offline:
        raise CommandFailed(
            f"HF_HUB_OFFLINE is set, so that the hub is not asked. Unset it, or copy a checkpoint "
            f"that has its {RECORD} with --from."
        )
    with Hub(settings.endpoint, manifest) as hub:
        listing = hub.listing(console.print, time.sleep).needed(manifest)
        word = "Fetching" if source is None else "Copying"
        with byte_progress(word, listing.size, console) as display:
            pull(hub if source is None else Folder(source), listing, root, display)
    return listing


@app.command()
def verify(
    folder: CheckpointFolder = None,
    listing_file: Annotated[
        Path | None,
        typer.Option(
            "--listing",
            metavar="FILE",
            help="The checksums.json to hold it against; the folder's own, if left out.",
        ),
    ] = None,
) -> None:
    """Read every byte of a checkpoint, and name all files that are missing or not as pulled."""
    from weights.listing import RECORD, find_faults, read_listing

    root = _folder(folder)
    listing = read_listing(listing_file or root / RECORD)
    with byte_progress("Reading", listing.size, Console(stderr=True)) as display:
        faults = find_faults(root, listing, display.advance)
    for fault in faults:
        print(fault)
    if faults:
        raise CommandFailed(
            f"{len(faults)} of {counted(len(listing.files), 'file')} in {root} are not as listed. "
            f"To fetch them again: {shlex.join(['cosmos-serve', 'weights', 'pull', str(root)])}"
        )
    print(
        f"{root}: {counted(len(listing.files), 'file')} of {listing.repository} at "
        f"{listing.commit}, {size_text(listing.size)}: every byte is right."
    )


def _folder(given: Path | None) -> Path:
    folder = given or weights_folder()
    if folder is None:
        raise WrongUsage("Give the checkpoint's folder, or set COSMOS_WEIGHTS.")
    return folder


@app.command()
def stand_in(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    size: Annotated[
        str,
        typer.Option(
            metavar="WxH", help="Size of its videos in pixels, both sides multiples of 16."
        ),
    ] = "320x176",
    random: Annotated[
        bool, typer.Option("--random", help="Random weights instead, which make coloured noise.")
    ] = False,
) -> None:
    """Make a small checkpoint that was not trained, to try everything without the real one.

    Its videos move the picture as the prompt says of the camera: "The camera pans slowly left."
    docs/stand-in.md says what it understands, and how.
    """
    width, _, height = size.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise WrongUsage(f"--size is {size!r}; give width and height such as 320x176.")

    from weights.stand_in.checkpoint import Weights, write_stand_in
    from weights.store import WeightStore

    numbers: Weights = "lively" if random else "moving"
    write_stand_in(folder, width=int(width), height=int(height), weights=numbers)
    print(f"{folder}: a stand-in checkpoint for videos of {size}")
    print(WeightStore(folder).profile.licence)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The checkpoint's folder.")],
) -> None:
    """Say what a checkpoint is, or all that is missing or wrong."""
    from weights.store import WeightStore

    store = WeightStore(folder)
    profile = store.profile
    print(f"{folder} is complete.")
    print(f"videos     {profile.width}x{profile.height}, up to {profile.max_frames} frames")
    print(f"guardrail  {profile.guardrail}")
    print(f"licence    {profile.licence}")
    print(f"digest     {store.digest}")
