"""The server's verdicts on frames, on their way to the worker that waits for them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import Cancelled, ContentPolicyViolation, PipelineError
from pipeline.spec import Pixels
from server.workers.messages import FrameToJudge

if TYPE_CHECKING:
    from pipeline.guardrail import Frame

_LOOK_S = 0.1
"""How often one that waits looks for a cancel."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to the `FrameToJudge` of this number in this run.

    `passes` is whether the frame may be shown, None if the guardrail gave no verdict.
    """

    job_id: str
    attempt: int
    index: int
    passes: bool | None


class NoVerdict(PipelineError):
    """The guardrail gave no verdict on a frame."""

    code = "guardrail_unavailable"

    def __init__(self) -> None:
        super().__init__("The guardrail gave no verdict on a frame.")


Judge = Callable[[int, bytes], None]
"""Has the server judge a frame, by its number and as a JPEG; see `Verdicts.judge`."""


class Verdicts:
    """The verdicts that have come, for the threads of a worker that wait for them."""

    def __init__(self, send: Callable[[FrameToJudge], None], cancelled: Callable[[], bool]) -> None:
        self._send = send
        self._cancelled = cancelled
        self._verdicts: dict[int, bool | None] = {}
        self._come = threading.Condition()

    def forget(self) -> None:
        """Another run begins."""
        with self._come:
            self._verdicts.clear()

    def add(self, verdict: Verdict) -> None:
        """A verdict on a frame of the present run has come."""
        with self._come:
            self._verdicts[verdict.index] = verdict.passes
            self._come.notify_all()

    def judge(self, index: int, jpeg: bytes) -> None:
        """Have the server judge a frame, and wait for its verdict.

        Raises:
            ContentPolicyViolation: the frame may not be shown.
            NoVerdict: there is no verdict.
            Cancelled: the run was cancelled meanwhile.
        """
        self._send(FrameToJudge(jpeg, index))
        with self._come:
            while index not in self._verdicts:
                if self._cancelled():
                    raise Cancelled("The video was cancelled.")
                self._come.wait(_LOOK_S)
            passes = self._verdicts.pop(index)
        if passes is None:
            raise NoVerdict
        if not passes:
            raise ContentPolicyViolation


@dataclass(frozen=True, slots=True)
class ServerGuardrail:
    """The worker's side of a guardrail that the server asks: one for each run.

    Without a `judge`, outside of a run, no frame passes.
    """

    judge: Judge | None = None

    def check_prompt(self, prompt: str) -> None:
        """The server has judged it, before it gave the order."""

    def check_image(self, image: Pixels) -> None:
        """The server has judged it, before it gave the order."""

    def check_frame(self, index: int, frame: "Frame") -> None:
        """Have the server judge the frame."""
        if self.judge is None:
            raise RuntimeError("a run was begun without its judge")
        # Not above: a worker that is asked for no frame needs no Pillow.
        from pipeline.guardrail import jpeg_of

        height, width, _ = frame.shape
        self.judge(index, jpeg_of(Pixels(width, height, frame.tobytes())))
