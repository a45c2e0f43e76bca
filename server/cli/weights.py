"""`cosmos-serve weights`: fetch a checkpoint, look at one, or make a stand-in for one."""

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from server.cli.byte_progress import byte_progress
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.printing import counted, size_text
from server.config.folders import weights_folder
from server.config.hub import HubSettings

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
    distilled: Annotated[
        bool,
        typer.Option(
            "--distilled",
            help="The distilled transformer, which makes videos of text in few steps.",
        ),
    ] = False,
    guardrail: Annotated[
        bool,
        typer.Option(
            "--guardrail",
            help="Fetch the guardrail's text model instead, Qwen3Guard-Gen-0.6B, into its folder "
            "beside the checkpoint's.",
        ),
    ] = False,
) -> None:
    """Fetch NVIDIA's checkpoint, at a pinned commit; only what is missing, and every byte checked.

    The same command goes on where an earlier one ended. Accept the licence on the page of
    nvidia/Cosmos-Predict2.5-2B first, and set HF_TOKEN or run `hf auth login`. HF_ENDPOINT names a
    mirror. --from checks against the checksums.json of that folder, or, if it has none, against
    what the hub lists. --distilled wants a folder of its own: NVIDIA's file of that transformer is
    fetched, converted and removed; with --from, only the rest is copied from a checkpoint that is
    not distilled.
    """
    root = _folder(folder)
    if source is not None and not source.is_dir():
        raise CommandFailed(f"There is no folder {source} to copy from.")
    console = Console(stderr=True)
    if guardrail:
        _pull_guardrail(root, source, console)
    else:
        _say_what_is_there(root, _pull(root, source, distilled, console))


def _pull_guardrail(root: Path, source: Path | None, console: Console) -> None:
    from weights.download import Hub
    from weights.guardrail import FOLDER, GUARDRAIL, LICENCE, needed_files
    from weights.listing import RECORD, read_listing
    from weights.pull import Folder, pull

    folder = root / FOLDER
    if source is not None:
        listing = read_listing(source / FOLDER / RECORD)
        with byte_progress("Copying", listing.size, console) as display:
            pull(Folder(source / FOLDER), listing, folder, display)
    else:
        with Hub(_hub_to_ask().endpoint, GUARDRAIL) as hub:
            listing = needed_files(hub.listing(_lines(console), time.sleep))
            with byte_progress("Fetching", listing.size, console) as display:
                pull(hub, listing, folder, display)
    _say_what_came(folder, listing)
    print(LICENCE)


def _lines(console: Console) -> Callable[[str], None]:
    """What prints a line as it is, as long as it may be: a log has no width to wrap it to."""
    return partial(console.print, markup=False, highlight=False, soft_wrap=True)


def _hub_to_ask() -> HubSettings:
    from weights.listing import RECORD

    settings = HubSettings.load()
    if settings.offline:
        raise CommandFailed(
            f"HF_HUB_OFFLINE is set, so that the hub is not asked. Unset it, or copy a checkpoint "
            f"that has its {RECORD} with --from."
        )
    return settings


def _pull(root: Path, source: Path | None, distilled: bool, console: Console) -> "Listing":
    from weights.assemble import is_distilled, pull_distilled
    from weights.download import Hub
    from weights.listing import RECORD, read_listing
    from weights.manifest import load_manifest
    from weights.pull import Folder, pull

    recorded = None
    if source is not None and (source / RECORD).is_file():
        recorded = read_listing(source / RECORD)
        if is_distilled(recorded) or not distilled:
            with byte_progress("Copying", recorded.size, console) as display:
                pull(Folder(source), recorded, root, display)
            return recorded
    settings, manifest = _hub_to_ask(), load_manifest()
    with Hub(settings.endpoint, manifest) as hub:
        listing = recorded or hub.listing(_lines(console), time.sleep).needed(manifest)
        files = hub if source is None else Folder(source)
        word = "Fetching" if source is None or distilled else "Copying"
        if not distilled:
            with byte_progress(word, listing.size, console) as display:
                pull(files, listing, root, display)
            return listing
        wanted = manifest.distilled
        with Hub(settings.endpoint, replace(manifest, commit=wanted.commit)) as originals:
            beside = originals.listing(_lines(console), time.sleep, wanted.folder)
            return pull_distilled(
                files,
                listing,
                originals,
                beside.file(wanted.path),
                str(wanted),
                root,
                lambda total: byte_progress(word, total, console),
            )


def _say_what_came(folder: Path, listing: "Listing") -> None:
    print(
        f"{folder}: {listing.repository} at {listing.commit}, "
        f"{counted(len(listing.files), 'file')}, {size_text(listing.size)}"
    )


def _say_what_is_there(root: Path, listing: "Listing") -> None:
    from weights.store import WeightStore

    _say_what_came(root, listing)
    if listing.converted_from is not None:
        print(f"The transformer was converted from {listing.converted_from}")
    print(WeightStore(root).profile.licence)


@app.command()
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="NVIDIA's .pt: base post-trained, pre-trained or distilled."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for the checkpoint.")],
    base: Annotated[
        Path,
        typer.Option("--from", metavar="DIR", help="A checkpoint that was pulled, for the rest."),
    ],
    distilled: Annotated[
        bool, typer.Option("--distilled", help="FILE is the distilled transformer.")
    ] = False,
) -> None:
    """Make a checkpoint of a transformer in NVIDIA's own layout and the rest of another checkpoint.

    No code that FILE may hold is run. It is checked that FILE has the tensors that the other
    checkpoint's transformer has. The rest is copied and checked against its checksums.json.
    """
    from weights.assemble import BASE_PROFILE, DISTILLED_PROFILE, convert_beside

    console = Console(stderr=True)
    profile = DISTILLED_PROFILE if distilled else BASE_PROFILE
    listing = convert_beside(
        file, base, profile, folder, lambda total: byte_progress("Copying", total, console)
    )
    _say_what_is_there(folder, listing)


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
        faults = find_faults(root, listing.files, display.advance)
    for fault in faults:
        print(fault)
    if faults:
        raise CommandFailed(
            f"{len(faults)} of {counted(len(listing.files), 'file')} in {root} are not as listed. "
            f"{_how_to_mend(root, listing)}"
        )
    print(
        f"{root}: {counted(len(listing.files), 'file')} of {listing.repository} at "
        f"{listing.commit}, {size_text(listing.size)}: every byte is right."
    )


def _how_to_mend(root: Path, listing: "Listing") -> str:
    from weights.manifest import load_manifest

    command = ["cosmos-serve", "weights", "pull", str(root)]
    if listing.converted_from == str(load_manifest().distilled):
        command.append("--distilled")
    elif listing.converted_from is not None:
        return f"Remove {root}, and convert {listing.converted_from} again."
    return f"To fetch them again: {shlex.join(command)}"


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
    distilled: Annotated[
        bool,
        typer.Option(
            "--distilled", help="The sibling that stands in for NVIDIA's distilled checkpoint."
        ),
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
    write_stand_in(
        folder,
        width=int(width),
        height=int(height),
        weights=numbers,
        sampler="trigflow" if distilled else "unipc",
    )
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
