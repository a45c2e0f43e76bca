"""The verdicts of the operator's guardrail on one run: its inputs if need be, and its frames."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain

from pipeline.guardrail import JUDGED_AT_ONCE, judged_frames
from pipeline.spec import Pixels
from server.models import Job
from server.outbound.moderation import Moderation
from server.workers.messages import FrameToJudge
from server.workers.pool import Pool
from server.workers.verdicts import Verdict


class RunJudge:
    """Asks the guardrail for one run, and tells its worker the answers.

    A run that is begun again has its frames judged again: `forget` the first ones then.
    """

    def __init__(self, moderation: Moderation, pool: Pool, slot: str, job: Job) -> None:
        self._moderation = moderation
        self._pool = pool
        self._slot = slot
        self._job = job
        self._places = asyncio.Semaphore(JUDGED_AT_ONCE)
        self._passed: set[int] = set()

    async def inputs_pass(self, media: Mapping[str, Sequence[Pixels]]) -> bool | None:
        """Whether prompt and pictures may be used; None if there is no verdict.

        They were judged when they came in, unless another server took them in: it may have had
        another guardrail.
        """
        if self._job.submitted_at >= self._moderation.began_at:
            return True
        prompt = self._job.input["spec"]["prompt"]
        return await self._moderation.inputs_pass(prompt, chain.from_iterable(media.values()))

    async def take(self, frame: FrameToJudge, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Begin to judge a frame, once fewer than four others are being judged."""
        await self._places.acquire()
        return tasks.create_task(self._answer(frame))

    def forget(self) -> None:
        """The video is made again."""
        self._passed.clear()

    def all_passed(self, num_frames: int) -> bool:
        """Whether every frame that is to be judged has passed."""
        return self._passed >= judged_frames(num_frames)

    async def _answer(self, frame: FrameToJudge) -> None:
        try:
            check = partial(self._moderation.check_picture, frame.data)
            passes = await self._moderation.passes(check)
        finally:
            self._places.release()
        if passes:
            self._passed.add(frame.index)
        verdict = Verdict(self._job.id, self._job.attempt, frame.index, passes)
        await self._pool.answer(self._slot, verdict)
