"""`cosmos-serve generate`: one video from a prompt, and a picture or clip if given, into a file."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.image_kind import ACCEPTED
from pipeline.spec import (
    DEFAULT_NEGATIVE_PROMPT,
    FPS,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_STEPS,
    MIN_FRAMES,
    MIN_GUIDANCE,
    MIN_STEPS,
    OVERLAPS,
    RANDOM_SEED,
    Clip,
    Container,
    FirstFrame,
    Pixels,
    Quality,
    Sampler,
    VideoSpec,
    max_frames,
    seed_of,
)
from server.cli.errors import EXIT_CODES, WrongUsage
from server.cli.options import WORKER_SETTINGS, takes_settings
from server.config.settings import Settings
from server.part_file import part_of

OUTPUT_TYPES = {
    spelling.lower(): container
    for container in Container
    for spelling in (container.name, container.suffix[1:], container.value)
}
"""What --output-type can be: a codec, the ending of its files, or fal's name for both."""


def read_output_type(text: str) -> Container:
    """The container that was typed, in letters of either case."""
    container = OUTPUT_TYPES.get(text.strip().lower())
    if container is None:
        codecs = ", ".join(f"{each.name.lower()} ({each.suffix[1:]})" for each in Container)
        names = ", ".join(f'"{each.value}"' for each in Container)
        raise typer.BadParameter(f"{text!r} is none of {codecs}, or fal's names: {names}.")
    return container


def read_overlap(text: str) -> int:
    """How many frames of a chunk the next one begins with, as it was typed."""
    if text not in map(str, OVERLAPS):
        raise typer.BadParameter(f"{text!r} is not {' or '.join(map(str, OVERLAPS))}.")
    return int(text)


Image = Annotated[
    list[Path],
    typer.Argument(
        default_factory=list,
        metavar="[IMAGE]",
        help=f"The first frame: a {ACCEPTED} file, scaled and cropped to fit. "
        "Without it, and without --video, the video is made of the prompt alone.",
        exists=True,
        dir_okay=False,
        readable=True,
        show_default=False,
    ),
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What happens in the video.")]
Video = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The clip to go on from: an MP4, MOV, WebM, MKV, AVI, MPEG-TS or GIF file. The video "
        "begins with its last five frames.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
ResampleFps = Annotated[
    bool,
    typer.Option(
        "--resample-fps",
        help="Take the frames of the clip at 16 a second, as the video has them, and not at its "
        "own rate.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The video. It appears when it is complete, and replaces a file of that name.",
    ),
]
NegativePrompt = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="What the video should not be like.", show_default="as fal's"
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=MIN_FRAMES,
        max=max_frames(min(OVERLAPS)),
        help="Length; 16 frames make a second. By default as many as the checkpoint makes at "
        "once. More are made in up to four chunks.",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=read_overlap,
        help="Frames of a chunk that the next one begins with: 1, or 5, which carry the motion "
        "over.",
        show_default="5",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=MIN_STEPS,
        max=MAX_STEPS,
        help="Denoising steps: more is finer, slower. A distilled checkpoint takes up to 20.",
        show_default="35, or 10 of a distilled checkpoint",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        min=MIN_GUIDANCE,
        max=MAX_GUIDANCE,
        help="How closely to follow the prompt; 1 is no guidance, and twice as fast. A distilled "
        "checkpoint has none.",
        show_default="7, or 1 of a distilled checkpoint",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=RANDOM_SEED,
        max=MAX_SEED,
        help="The same seed and inputs give the same video. By default, and for -1, drawn and "
        "printed.",
    ),
]
VideoOutputType = Annotated[
    Container | None,
    typer.Option(
        "--output-type",
        metavar="TYPE",
        help="Codec and container: x264, vp9, prores4444 or gif, or fal's names, such as "
        '"VP9 (.webm)". By default what the ending of FILE says.',
        parser=read_output_type,
    ),
]
VideoQuality = Annotated[
    Quality, typer.Option(help="How much of the picture the encoder keeps.", case_sensitive=False)
]

app = typer.Typer()


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve generate photo.jpg 'Waves roll in.' -o sea.mp4 --frames 25\n\n"
    "The options from --weights on can be set as COSMOS_ and their name instead, such as "
    "COSMOS_WEIGHTS.\n\n"
    f"{EXIT_CODES}"
)
@takes_settings(*WORKER_SETTINGS)
def generate(
    settings: Settings,
    images: Image,
    prompt: Prompt,
    out: Out,
    video: Video = None,
    resample_fps: ResampleFps = False,
    negative_prompt: NegativePrompt = DEFAULT_NEGATIVE_PROMPT,
    frames: Frames = None,
    overlap: Overlap = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    output_type: VideoOutputType = None,
    quality: VideoQuality = Quality.HIGH,
) -> None:
    """Make one video on this machine, on the first of the devices, with the first checkpoint."""
    from pipeline.guardrail import guardrail_kind
    from server.cli.render import render
    from server.workers.progress_text import duration
    from weights.checkpoints import open_checkpoints

    image = _one_image(images, prompt)
    if image is not None and video is not None:
        raise WrongUsage("A video starts from a picture or from --video, and not from both.")
    if resample_fps and video is None:
        raise WrongUsage("--resample-fps is about the frames of --video, which is not given.")
    _check_out(out, image or video, "picture" if video is None else "clip")
    store = open_checkpoints(str(settings.weights))[0]
    profile, sampler = store.profile, Sampler(store.profile.sampler)
    guardrail_kind({store.root: profile}, settings.guardrail)
    frames = frames or profile.max_frames
    spec = VideoSpec(
        prompt=_text("the prompt", prompt),
        negative_prompt=_text("--negative-prompt", negative_prompt),
        num_frames=frames,
        num_inference_steps=sampler.default_steps if steps is None else steps,
        guidance_scale=sampler.default_guidance if guidance is None else guidance,
        seed=seed_of(seed),
        container=container_of(out, output_type),
        quality=quality,
        conditioning=Clip() if video else FirstFrame() if image else None,
        sampler=sampler,
        overlap=_overlap(frames, overlap, profile.max_frames),
    )
    media = _media(image, video, profile.width, profile.height, FPS if resample_fps else None)
    # Nobody would see a preview.
    one_checkpoint = settings.model_copy(update={"weights": store.root, "preview": "off"})
    made, seconds = render(spec, media, out, one_checkpoint)
    print(f"{out}: {made.frames} frames, {FPS} a second, {made.size:,} bytes")
    print(f"seed {spec.seed}, made in {duration(seconds)}")
    print(profile.licence)


def _one_image(images: list[Path], prompt: str) -> Path | None:
    """The picture that was given, if there is one."""
    if not images:
        # A prompt may be longer than a name can be.
        with suppress(OSError):
            if Path(prompt).is_file():
                raise WrongUsage(f"{prompt} is a file; the prompt is missing.")
        return None
    if len(images) > 1:
        raise WrongUsage("A video starts from one picture; put the prompt into quotes.")
    return images[0]


def _overlap(frames: int, overlap: int | None, at_once: int) -> int | None:
    """How chunks overlap; None, if the video is of one."""
    if frames <= at_once:
        if overlap is not None:
            raise WrongUsage(f"--overlap is for more than {at_once} frames, which take chunks.")
        return None
    overlap = overlap or max(OVERLAPS)
    longest = max_frames(overlap, at_once)
    if frames > longest:
        raise WrongUsage(
            f"--frames is {frames}; this checkpoint makes at most {longest} with an overlap of "
            f"{overlap}."
        )
    return overlap


def _media(
    image: Path | None, video: Path | None, width: int, height: int, fps: int | None
) -> Mapping[str, Sequence[Pixels]]:
    """What the video starts from, prepared."""
    from pipeline import clip
    from pipeline import image as picture
    from pipeline.image_kind import kind_of

    tell = partial(print, file=sys.stderr)
    if video is not None:
        with video.open("rb") as file:
            return {"video": clip.prepare(file, width, height, field="--video", tell=tell, fps=fps)}
    if image is None:
        return {}
    data = image.read_bytes()
    if kind_of(data) == "a video":
        raise WrongUsage(f"{image} is a video; put --video before it.")
    return {"image": [picture.prepare(data, width, height, tell=tell)]}


def _check_out(out: Path, given: Path | None, noun: str) -> None:
    """Find out before the work, not after it, that the file cannot be put there."""
    for written in (out, part_of(out)):
        if given is not None and written.exists() and written.samefile(given):
            raise WrongUsage(f"{written} is the {noun} itself, and would be lost; name another.")
    if out.is_dir():
        raise WrongUsage(f"{out} is a folder; -o names a file.")
    if not out.parent.is_dir():
        raise WrongUsage(f"There is no folder {out.parent} to put {out.name} in.")


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WrongUsage(f"{name} is not UTF-8 text.") from error
    return text


def container_of(out: Path, output_type: Container | None) -> Container:
    """The container that the command line asks for; the file's ending must not deny it."""
    suffix = out.suffix.lower()
    by_suffix = {container.suffix: container for container in Container}
    known = ", ".join(by_suffix)
    if output_type is None:
        if suffix not in by_suffix:
            raise WrongUsage(f"{out} ends in none of {known}: name it so, or give --output-type.")
        return by_suffix[suffix]
    if by_suffix.get(suffix, output_type) is not output_type:
        raise WrongUsage(
            f"{out} ends in {suffix}, but --output-type {output_type.name.lower()} makes "
            f"{output_type.suffix}."
        )
    return output_type
