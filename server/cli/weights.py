"""`cosmos-serve weights`: look at a checkpoint, or make a stand-in for one."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.errors import WrongUsage

app = typer.Typer(help="Look at a checkpoint, or make a stand-in for one.")


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
