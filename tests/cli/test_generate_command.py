"""The command line, as a user meets it: a process, its output and its exit code."""

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from clips import clip
from fork_server import ForkedProcess, fork_server
from moderation_site import flagged, is_frame, moderations, status
from paths import SUPPORT
from process_signals import ignored_by
from servers import MAX_FRAMES, ignoring, picture, write_small_checkpoint
from workers import file_of

from pipeline.clip import prepare as prepare_clip
from pipeline.image import prepare
from pipeline.spec import Clip, Container, Quality, Sampler, VideoSpec
from server.cli.generate import container_of, read_output_type
from server.workers.messages import WorkOrder

COMMAND = str(Path(sys.executable).with_name("cosmos-serve"))
LICENCE = "Random numbers; nothing was learned."


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a picture and a checkpoint, where commands are run."""

    folder: Path

    @property
    def files(self) -> set[str]:
        """What the commands left behind."""
        given = {"photo.png", "clip.mp4", "weights"}
        return {path.name for path in self.folder.iterdir()} - given

    def generate(self, *arguments: str) -> list[str]:
        return self.without_picture("photo.png", *arguments)

    def without_picture(self, *arguments: str) -> list[str]:
        return [COMMAND, "generate", *arguments, "--weights", "weights"]

    def start(
        self, command: Sequence[str], worker: str = "ScriptedWorker", stderr: int = subprocess.PIPE
    ) -> ForkedProcess:
        """Start the command without the imports, which take longest."""
        assert command[0] == COMMAND
        environment = self.environment(worker)
        return fork_server().start(command[1:], environment, folder=self.folder, stderr=stderr)

    def execute(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start the command as a user does, or another program."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, worker: str = "ScriptedWorker") -> dict[str, str]:
        scripted = {"COSMOS_WORKER": f"workers:{worker}", "PYTHONPATH": str(SUPPORT)}
        return {**os.environ, **scripted, "COSMOS_DEVICES": "cpu", "TERM": "xterm"}

    def run(self, *arguments: str, worker: str = "ScriptedWorker") -> tuple[int, str, list[str]]:
        """Run generate; its exit code, what it printed and its lines on stderr."""
        with self.start(self.generate(*arguments), worker) as process:
            out, err = process.communicate()
        return process.wait(), out, err.splitlines()

    def file(self, spec: VideoSpec) -> bytes:
        """What the scripted worker makes of this spec and the picture."""
        pixels = prepare((self.folder / "photo.png").read_bytes(), 96, 64)
        return file_of(WorkOrder(job_id="", attempt=1, spec=spec, media={"image": [pixels]}))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "photo.png").write_bytes(picture())
    write_small_checkpoint(tmp_path / "weights", licence=LICENCE)
    return Place(tmp_path)


# Making a video.


def test_generate_writes_the_video_and_says_what_it_is(place: Place) -> None:
    command = place.generate("A calm sea", "-o", "sea.mp4", "--seed", "7", "--steps", "2")
    with place.execute(command) as process:
        out, said = process.communicate(timeout=60)
    err = said.splitlines()
    assert process.returncode == 0
    assert place.files == {"sea.mp4"}
    spec = VideoSpec(prompt="A calm sea", seed=7, num_inference_steps=2, num_frames=MAX_FRAMES)
    assert (place.folder / "sea.mp4").read_bytes() == place.file(spec)
    first, second, third = out.splitlines()
    assert first == f"sea.mp4: {MAX_FRAMES} frames, 16 a second, 65,536 bytes"
    assert second.startswith("seed 7, made in ")
    assert third == LICENCE
    assert "Reading the script (50%)" in err
    assert "Step 2 of 2, 0.00 s a step, about 0.0 s left" in err


def test_a_video_that_is_begun_again_says_so_and_is_written_once(place: Place) -> None:
    code, _, err = place.run("offload", "-o", "sea.mp4", "--steps", "2")
    assert (code, place.files) == (0, {"sea.mp4"})
    assert sum("it is begun again" in line for line in err) == 1
    # A worker that is offloaded from its start has enough.
    code, _, err = place.run("offload", "-o", "sea.mp4", "--memory", "offload")
    assert code == 0
    assert not any("it is begun again" in line for line in err)


def test_every_option_reaches_the_worker(place: Place) -> None:
    options = ["--negative-prompt", "rain", "--frames", "13", "--steps", "3", "--guidance", "1.5"]
    options += ["--seed", "0", "--output-type", "VP9", "--quality", "low", "--devices", "cpu"]
    code, _, _ = place.run("A calm sea", "-o", "sea", *options)
    assert code == 0
    spec = VideoSpec(
        prompt="A calm sea",
        negative_prompt="rain",
        num_frames=13,
        num_inference_steps=3,
        guidance_scale=1.5,
        seed=0,
        container=Container.VP9,
        quality=Quality.LOW,
    )
    assert (place.folder / "sea").read_bytes() == place.file(spec)


def test_the_seed_that_is_drawn_is_printed_and_gives_the_same_video_again(place: Place) -> None:
    _, first, _ = place.run("A calm sea", "-o", "first.mp4")
    seed = re.findall(r"^seed (\d+)", first, re.MULTILINE)[0]
    _, second, _ = place.run("A calm sea", "-o", "second.mp4")
    assert f"seed {seed}" not in second
    place.run("A calm sea", "-o", "again.mp4", "--seed", seed)
    again = (place.folder / "again.mp4").read_bytes()
    assert again == (place.folder / "first.mp4").read_bytes()
    assert again != (place.folder / "second.mp4").read_bytes()


def test_without_a_picture_the_video_is_made_of_the_prompt_alone(place: Place) -> None:
    with place.start(place.without_picture("A calm sea", "-o", "sea.mp4", "--seed", "7")) as run:
        run.communicate(timeout=60)
    spec = VideoSpec(prompt="A calm sea", seed=7, num_frames=MAX_FRAMES, conditioning=None)
    order = WorkOrder(job_id="", attempt=1, spec=spec, media={})
    assert (run.returncode, place.files) == (0, {"sea.mp4"})
    assert (place.folder / "sea.mp4").read_bytes() == file_of(order)


# Clips, and long videos.


def continued(place: Place, *options: str) -> tuple[int, bytes, str]:
    """Go on from clip.mp4: the exit code, what was made, and the last line on stderr."""
    (place.folder / "clip.mp4").write_bytes(clip(source="testsrc2=s=96x64:r=48:d=1"))
    out = place.folder / "sea.mp4"
    command = place.without_picture("--video", "clip.mp4", "A sea", "-o", "sea.mp4", *options)
    with place.start([*command, "--seed", "7"]) as run:
        _, err = run.communicate(timeout=60)
    return run.wait(), out.read_bytes() if out.exists() else b"", err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "frames", "overlap", "fps"),
    [
        ([], MAX_FRAMES, None, None),
        (["--resample-fps", "--frames", "9"], 9, None, 16),
        (["--frames", str(MAX_FRAMES + 1)], MAX_FRAMES + 1, 5, None),
        (["--frames", "177", "--overlap", "1"], 177, 1, None),
    ],
)
def test_a_video_goes_on_from_a_clip_in_as_many_chunks_as_it_takes(
    place: Place, options: list[str], frames: int, overlap: int | None, fps: int | None
) -> None:
    code, made, _ = continued(place, *options)
    spec = VideoSpec(
        prompt="A sea", seed=7, num_frames=frames, overlap=overlap, conditioning=Clip()
    )
    with (place.folder / "clip.mp4").open("rb") as file:
        media = {"video": prepare_clip(file, 96, 64, fps=fps)}

    assert code == 0
    assert made == file_of(WorkOrder(job_id="", attempt=1, spec=spec, media=media))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--frames", "166"], 2, "makes at most 165 with an overlap of 5."),
        (["--overlap", "1"], 2, "--overlap is for more than 45 frames"),
        (["--frames", "99", "--overlap", "2"], 2, "'2' is not 1 or 5."),
        (["--video", "photo.png"], 1, "The file is a PNG file, and no video that is read."),
        (["--video", "none.mp4"], 2, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_clip_or_a_length_is_a_sentence(
    place: Place, options: list[str], code: int, message: str
) -> None:
    ended, made, said = continued(place, *options)
    assert (ended, made) == (code, b"")
    assert message in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.png", "A", "--video", "clip.mp4"], "from a picture or from --video, and not"),
        (["clip.mp4", "A"], "clip.mp4 is a video; put --video before it."),
        (["A", "--resample-fps"], "about the frames of --video, which is not given."),
    ],
)
def test_a_clip_is_told_from_a_picture(place: Place, words: list[str], message: str) -> None:
    (place.folder / "clip.mp4").write_bytes(clip())
    with place.start(place.without_picture(*words, "-o", "sea.mp4")) as run:
        _, err = run.communicate(timeout=60)
    assert (run.returncode, place.files) == (2, set())
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.png"], "photo.png is a file; the prompt is missing."),
        (["photo.png", "photo.png", "A", "sea"], "starts from one picture; put the prompt into"),
    ],
)
def test_words_that_are_no_picture_and_prompt_are_refused(
    place: Place, words: list[str], message: str
) -> None:
    with place.start(place.without_picture(*words, "-o", "sea.mp4")) as run:
        _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert message in err or "does not exist" in err


def test_a_distilled_checkpoint_has_its_own_defaults(place: Place) -> None:
    write_small_checkpoint(place.folder / "weights", licence=LICENCE, sampler="trigflow")
    assert place.run("A calm sea", "-o", "sea.mp4", "--seed", "7")[0] == 0
    values: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 1.0}
    spec = VideoSpec(
        prompt="A calm sea",
        seed=7,
        num_frames=MAX_FRAMES,
        sampler=Sampler.TRIGFLOW,
        **values,
    )
    assert (place.folder / "sea.mp4").read_bytes() == place.file(spec)
    code, _, err = place.run("A calm sea", "-o", "sea.mp4", "--guidance", "7")
    assert (code, err[-1]) == (
        1,
        "cosmos-serve: guidance_scale is 7.0; a distilled model has no guidance, which is 1.",
    )


def test_only_a_finished_video_replaces_a_file_of_its_name(
    place: Place,
) -> None:
    old = place.folder / "sea.mp4"
    old.write_bytes(b"old")
    assert place.run("A calm sea; raise", "-o", "sea.mp4")[0] == 1
    assert old.read_bytes() == b"old"
    assert place.run("A calm sea", "-o", "sea.mp4")[0] == 0
    assert old.stat().st_size == 65536
    assert place.files == {"sea.mp4"}


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard link", "symbolic link"])
@pytest.mark.parametrize(
    ("name", "out"), [("photo.gif", "photo.gif"), ("photo.gif.part", "photo.gif")]
)
def test_the_picture_itself_is_never_replaced(
    place: Place, link: Callable[[str, Path], None], name: str, out: str
) -> None:
    picture = (place.folder / "photo.png").read_bytes()
    link(str(place.folder / "photo.png"), place.folder / name)

    code, _, err = place.run("A calm sea", "-o", out)

    assert code == 2
    assert f"{name} is the picture itself" in err[-1]
    assert (place.folder / name).read_bytes() == picture
    assert (place.folder / "photo.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("prompt", "worker", "message"),
    [
        ("refuse", "ScriptedWorker", "The picture is too large."),
        ("killed", "ScriptedWorker", "The worker was killed, probably because"),
        ("liesize", "ScriptedWorker", "65,536 bytes that are not the 65,537 bytes of the video"),
        ("liehash", "ScriptedWorker", "that are not the"),
        ("noartifact", "ScriptedWorker", "The worker ended without a video."),
        ("", "LoadFails", "The transformer lacks the tensor 'proj_out.weight'."),
        ("", "NoSuchWorker", "There is no worker 'workers:NoSuchWorker'"),
    ],
)
def test_what_goes_wrong_is_said_in_the_last_line_and_nothing_is_left(
    place: Place, prompt: str, worker: str, message: str
) -> None:
    code, out, err = place.run(prompt, "-o", "sea.mp4", worker=worker)
    assert code == 1
    assert out == ""
    assert err[-1].startswith("cosmos-serve: ")
    assert message in err[-1]
    assert place.files == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("prompt", ["flood", "hang"])
def test_an_interrupted_run_leaves_no_file_and_no_process(
    place: Place, prompt: str, number: signal.Signals
) -> None:
    with place.start(place.generate(prompt, "-o", "sea.mp4", "--steps", "1")) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Step 1"):
                break
        (worker,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "cosmos-serve: interrupted."
    assert "Traceback" not in err
    assert not worker.is_running()
    assert place.files == set()


@pytest.mark.parametrize("ignored", [["INT"], ["INT", "HUP"]])
def test_a_run_in_the_background_of_a_shell_ends_by_sigterm(
    place: Place, ignored: list[str]
) -> None:
    """A shell without job control has SIGINT ignored there, and `nohup` has SIGHUP."""
    command = [*ignoring(*ignored), *place.generate("flood", "-o", "sea.mp4", "--steps", "1")[1:]]
    with place.execute(command) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Step 1"):
                break
        still = ignored_by(process.pid) & {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
        assert still == {signal.Signals[f"SIG{name}"] for name in ignored}
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (130, "cosmos-serve: interrupted.")
    assert place.files == set()


def test_a_video_is_made_though_nobody_can_be_told_how_far_it_is(place: Place) -> None:
    command = place.generate("stderr 100000", "-o", "sea.mp4")
    with (
        Path("/dev/full").open("w") as full,
        place.start(command, stderr=full.fileno()) as process,
    ):
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, place.files) == (0, {"sea.mp4"})
    assert out.startswith("sea.mp4: ")


def test_a_terminal_shows_a_bar_with_step_rate_and_time_left(place: Place) -> None:
    ours, theirs = pty.openpty()
    command = place.generate("sleep 0.05", "-o", "sea.mp4", "--steps", "8")
    with place.start(command, stderr=theirs) as process:
        os.close(theirs)
        shown = read_all(ours)
        process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert re.search(r"Denoising.*step \d/8, 0\.05 s a step, 0\.\d s left", shown)
    assert "The script begins." in shown


def read_all(terminal: int) -> str:
    """What is written to a terminal until its last process has ended."""
    data = b""
    try:
        while chunk := os.read(terminal, 65536):
            data += chunk
    except OSError:
        pass  # how Linux says that nobody has the other side open
    return data.decode()


async def test_a_guardrail_s_endpoint_judges_what_is_given_and_the_frames(place: Place) -> None:
    def run(name: str) -> tuple[int, str, list[str]]:
        options = ("--guardrail", endpoint.url, "--frames", "9", "--steps", "2")
        return place.run("A red car", "-o", name, *options)

    async with moderations() as endpoint:
        assert (await asyncio.to_thread(run, "sea.mp4"))[0] == 0
        assert [part["type"] for part in endpoint.asked] == ["text", *["image_url"] * 3]
        endpoint.judge = lambda part: flagged(is_frame(part, 8))
        code, _, err = await asyncio.to_thread(run, "blocked.mp4")
        assert (code, "flagged by a content checker" in err[-1]) == (1, True)
        endpoint.judge = lambda _: status("401 x")
        code, _, err = await asyncio.to_thread(run, "unasked.mp4")
        assert (code, "status 401" in err[-1]) == (1, True)
        assert "Reading the script (50%)" not in err
    assert place.files == {"sea.mp4"}


def test_guardrail_off_uses_a_checkpoint_that_requires_one(place: Place) -> None:
    write_small_checkpoint(place.folder / "weights", guardrail="required")
    assert place.run("A calm sea", "-o", "sea.mp4", "--guardrail", "off")[0] == 0


def test_the_ending_of_the_file_or_the_output_type_chooses_the_container() -> None:
    for container in Container:
        assert container_of(Path("sea.part1"), container) is container
        for suffix in (container.suffix, container.suffix.upper()):
            assert container_of(Path(f"sea{suffix}"), None) is container


@pytest.mark.parametrize("container", Container)
def test_an_output_type_is_typed_as_a_codec_an_ending_or_as_fal_writes_it(
    container: Container,
) -> None:
    for text in (container.name, container.suffix[1:], container.value):
        assert read_output_type(text) is read_output_type(text.lower()) is container


def test_an_output_type_that_is_none_is_told_all_that_there_are(place: Place) -> None:
    code, out, err = place.run("A calm sea", "-o", "sea", "--output-type", "avi")
    assert (code, out) == (2, "")
    assert "'avi' is none of x264 (mp4), vp9 (webm), prores4444 (mov), gif (gif)" in err[0]
    assert all(f'"{container.value}"' in err[0] for container in Container)
