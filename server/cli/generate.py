"""`cosmos-serve generate`: one picture and prompt through a worker of this machine, into a file.

The video comes from the worker as it does in the server: a work order goes out, chunks and their
Artifact come back. No HTTP and no tables.
"""

import asyncio
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.guardrail import choose_guardrail
from pipeline.image import prepare
from pipeline.spec import FPS, MAX_SEED, Container, Quality, VideoSpec
from server.cli.errors import CommandFailed, WrongUsage
from server.cli.output_file import NewFile, new_file
from server.cli.progress_bar import Display, open_display
from server.settings import Settings
from server.workers.devices import devices_from
from server.workers.local_pool import LocalPool
from server.workers.loop import WorkerOptions
from server.workers.messages import Artifact, CancelledEvent, Chunk, Done, Failed, WorkOrder
from server.workers.pool import Pool, SlotDown, SlotLoading, SlotUp
from server.workers.progress_text import duration
from weights.checkpoint_profile import PROFILE_FILE, CheckpointProfile
from weights.store import WeightStore

ENDING_GRACE_S = 1.0
"""How long the worker may take to end: with a video made or given up, it has nothing to lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateArguments:
    """The command line of `generate`; None where the command is to choose."""

    image: Path
    prompt: str
    out: Path
    negative_prompt: str
    frames: int | None
    steps: int
    guidance: float
    seed: int | None
    output_type: str | None
    quality: Quality


def generate_video(wish: GenerateArguments, settings: Settings) -> str:
    """Make the video, write it, and return what to say about it.

    Raises:
        CommandFailed: the wish cannot be fulfilled, or the worker could not load or failed.
        PipelineError: the picture cannot be used.
        CheckpointError: the checkpoint cannot.
        WorkerDied: the worker died while it made the video.
        OSError: a file cannot be read or written.
        KeyboardInterrupt: Ctrl-C was pressed; neither file nor process is left behind.
    """
    _check_out(wish.out)
    store = WeightStore(settings.weights)
    profile = store.profile
    choose_guardrail(profile.guardrail, settings.guardrail, str(store.root / PROFILE_FILE))
    spec = _spec(wish, profile)
    pixels = prepare(wish.image.read_bytes(), profile.width, profile.height)
    order = WorkOrder(job_id="generate", attempt=1, spec=spec, media={"image": pixels})
    pool = LocalPool(
        settings.worker,
        WorkerOptions(
            weights=str(settings.weights),
            guardrail=settings.guardrail,
            attention=settings.attention,
            compiled=settings.compile,
            memory=settings.memory,
        ),
        devices_from(settings.devices, settings.cuda_visible_devices)[:1],
        ending_grace_s=ENDING_GRACE_S,
    )
    with open_display(Console(stderr=True)) as display, new_file(wish.out) as file:
        artifact, seconds = asyncio.run(_generate(pool, order, file, display))
    return (
        f"{wish.out}: {artifact.frames} frames, {FPS} a second, {artifact.size:,} bytes\n"
        f"seed {spec.seed}, made in {duration(seconds)}\n"
        f"{profile.licence}"
    )


def _spec(wish: GenerateArguments, profile: CheckpointProfile) -> VideoSpec:
    if wish.frames is not None and wish.frames > profile.max_frames:
        raise WrongUsage(
            f"--frames is {wish.frames}; this checkpoint makes at most {profile.max_frames}."
        )
    return VideoSpec(
        prompt=_text("the prompt", wish.prompt),
        negative_prompt=_text("--negative-prompt", wish.negative_prompt),
        num_frames=wish.frames or profile.max_frames,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        seed=secrets.randbelow(MAX_SEED + 1) if wish.seed is None else wish.seed,
        container=container_of(wish.out, wish.output_type),
        quality=wish.quality,
    )


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WrongUsage(f"{name} is not UTF-8 text.") from error
    return text


def container_of(out: Path, output_type: str | None) -> Container:
    """The container that the command line asks for; the file's ending must not deny it."""
    suffix = out.suffix.lower()
    by_suffix = {container.suffix: container for container in Container}
    known = ", ".join(by_suffix)
    if output_type is None:
        if suffix not in by_suffix:
            raise WrongUsage(f"{out} ends in none of {known}: name it so, or give --output-type.")
        return by_suffix[suffix]
    container = Container[output_type.upper()]
    if by_suffix.get(suffix, container) is not container:
        raise WrongUsage(
            f"{out} ends in {suffix}, but --output-type {output_type} makes {container.suffix}."
        )
    return container


def _check_out(out: Path) -> None:
    """Find out before the work, not after it, that the file cannot be put there."""
    if out.is_dir():
        raise WrongUsage(f"{out} is a folder; -o names a file.")
    if not out.parent.is_dir():
        raise WrongUsage(f"There is no folder {out.parent} to put {out.name} in.")


async def _generate(
    pool: LocalPool, order: WorkOrder, file: NewFile, display: Display
) -> tuple[Artifact, float]:
    """The video's Artifact, and the seconds that it took without loading the model."""
    # A terminal that closes and a service manager that stops us mean what Ctrl-C means.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.getsignal(signal.SIGINT))
    try:
        slot = await _load(pool, display)
        started = time.monotonic()
        artifact = await _run(pool, slot, order, file, display)
        return artifact, time.monotonic() - started
    finally:
        await pool.close()


async def _load(pool: Pool, display: Display) -> str:
    """Start the pool and wait for the name of a slot that is ready."""
    changes = pool.changes()
    await pool.start()
    async for change in changes:
        match change:
            case SlotLoading(_, loading):
                display.load(loading)
            case SlotUp(slot):
                return slot
            case SlotDown(_, reason):
                raise CommandFailed(reason)
    raise AssertionError("the pool was closed while it loaded")


async def _run(
    pool: Pool, slot: str, order: WorkOrder, file: NewFile, display: Display
) -> Artifact:
    artifact: Artifact | None = None
    async for event in pool.run(slot, order):
        match event:
            case Chunk(data):
                file.write(data)
            case Artifact():
                file.check(event)
                artifact = event
            case Failed():
                raise CommandFailed(event.message)
            case Done() | CancelledEvent():
                pass
            case _:
                display.tell(event)
    if artifact is None:
        raise CommandFailed("The worker ended without a video.")
    return artifact
