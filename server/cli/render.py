"""One order through a worker of this machine, into a file.

The video comes from the worker as it does in the server: a work order goes out, chunks and their
Artifact come back. No HTTP and no tables.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType

from rich.console import Console

from pipeline.errors import ContentPolicyViolation
from pipeline.spec import Pixels, VideoSpec
from server.cli.errors import CommandFailed
from server.cli.progress_bar import Display, open_display
from server.config.settings import Settings
from server.log.stderr import unfailing
from server.outbound.moderation import Moderation
from server.part_file import PartFile, part_of
from server.workers.local_pool import LocalPool
from server.workers.messages import (
    Artifact,
    CancelledEvent,
    Chunk,
    Done,
    Failed,
    FrameToJudge,
    Preview,
    RunEvent,
    WorkOrder,
)
from server.workers.pool import Pool, SlotDown, SlotLoading, SlotUp
from server.workers.verdicts import NoVerdict, Verdict

ENDING_GRACE_S = 1.0
"""How long the worker may take to end: with a video made or given up, it has nothing to lose."""


def render(
    spec: VideoSpec, media: Mapping[str, Sequence[Pixels]], out: Path, settings: Settings
) -> tuple[Artifact, float]:
    """Make the video on the first device; its Artifact, and the seconds without loading the model.

    Whatever it raises, and on Ctrl-C too, neither file nor process is left behind.
    """
    order = WorkOrder(job_id="generate", attempt=1, spec=spec, media=media)
    pool = LocalPool.from_settings(settings, max_devices=1, ending_grace_s=ENDING_GRACE_S)
    moderation = Moderation.from_settings(settings)
    _on_stop_signals(signal.default_int_handler)
    # A video is not given up because nobody can be told how far it is.
    console = Console(file=unfailing(sys.stderr))
    with open_display(console) as display, PartFile(part_of(out)) as file:
        try:
            made = asyncio.run(_render(pool, order, file, display, moderation))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        file.move_to(out)
    return made


def _on_stop_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Have a service manager's SIGTERM and a closed terminal's SIGHUP mean what Ctrl-C means.

    Unless SIGHUP is ignored: so it is with `nohup`, for the command to outlive its terminal.
    """
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


async def _render(
    pool: LocalPool,
    order: WorkOrder,
    file: PartFile,
    display: Display,
    moderation: Moderation | None,
) -> tuple[Artifact, float]:
    # asyncio does the same for SIGINT, but only if that is not ignored, as it is in the background
    # of a shell without job control.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    _on_stop_signals(lambda *_: loop.call_soon_threadsafe(task.cancel))
    try:
        if moderation is not None:
            await _check_inputs(moderation, order)
        slot = await _load(pool, display)
        started = time.monotonic()
        async with pool.run(slot, order) as events:
            artifact = await _run(_judged(events, moderation, pool, slot, order), file, display)
        return artifact, time.monotonic() - started
    finally:
        await pool.close()
        _on_stop_signals(signal.default_int_handler)


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


async def _check_inputs(moderation: Moderation, order: WorkOrder) -> None:
    """Have the guardrail judge what is given, before the model is loaded."""
    await moderation.probe()
    if moderation.problem is not None:
        raise CommandFailed(moderation.problem)
    pictures = chain.from_iterable(order.media.values())
    passes = await moderation.inputs_pass(order.spec.prompt, pictures)
    if not passes:
        raise CommandFailed(str(NoVerdict() if passes is None else ContentPolicyViolation()))


async def _judged(
    events: AsyncIterator[RunEvent],
    moderation: Moderation | None,
    pool: Pool,
    slot: str,
    order: WorkOrder,
) -> AsyncIterator[RunEvent]:
    """The events of the run; the worker's questions about frames are answered and left out."""
    async for event in events:
        if not isinstance(event, FrameToJudge):
            yield event
        elif moderation is not None:
            passes = await moderation.passes(partial(moderation.check_picture, event.data))
            await pool.answer(slot, Verdict(order.job_id, order.attempt, event.index, passes))


async def _run(events: AsyncIterator[RunEvent], file: PartFile, display: Display) -> Artifact:
    artifact: Artifact | None = None
    async for event in events:
        match event:
            case Chunk() | Artifact() if artifact is not None:
                pass  # the thumbnail, which comes after the video
            case Chunk(data):
                file.write(data)
            case Artifact():
                _check(file, event)
                artifact = event
            case Failed():
                raise CommandFailed(event.message)
            case Done() | CancelledEvent() | FrameToJudge() | Preview():
                pass
            case _:
                display.tell(event)
    if artifact is None:
        raise CommandFailed("The worker ended without a video.")
    return artifact


def _check(file: PartFile, artifact: Artifact) -> None:
    if (file.size, file.sha256) != (artifact.size, artifact.sha256):
        raise CommandFailed(
            f"The worker sent {file.size:,} bytes that are not the {artifact.size:,} bytes "
            "of the video it made. Nothing was kept."
        )
