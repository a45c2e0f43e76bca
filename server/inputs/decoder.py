"""Decode pictures and videos in processes of their own, so that a hostile one takes nothing along.

A decoder is the one part of the server that works on bytes of strangers in C. Its process has
little memory and time, and ends with its file: if it crashes, the file is at fault, and the caller
is told so. See `server.inputs.decoder_process` for the process's own side.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Sequence
from typing import IO, Any

import structlog

from pipeline.child_process import WITHOUT_SITE, python_command, stop_signals_held
from pipeline.errors import (
    ClipTooShort,
    ClipUnreadable,
    EncodingFailed,
    FileTooLarge,
    ImageTooLarge,
    ImageUnreadable,
    InputError,
)
from pipeline.ffmpeg import find_ffmpeg
from pipeline.spec import Pixels, pictures_in
from server.disk import shortage_of
from server.inputs.decoder_process import REFUSED, UNUSABLE
from server.inputs.media import MEDIA, DecodeLimits, Medium
from server.tasks import time_limit

MAX_TEXT_BYTES = 16 * 1024
"""Of a refusal, or of what is told of a file."""
MAX_TOLD = 10
MAX_TOLD_LENGTH = 500
"""Sentences that are told of one file, and the characters of each."""

_INHERITED = {"LD_LIBRARY_PATH"}
"""The variables of the server that its process gets: what some Pythons need to start. The others
may be secrets, such as COSMOS_KEY."""

_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""Threads that happen to allocate at once would each take 64 MiB of the address space for an arena:
what a file needs would depend on how busy the machine is."""

_ERRORS = {
    error.code: error
    for error in (FileTooLarge, ImageTooLarge, ImageUnreadable, ClipTooShort, ClipUnreadable)
}
"""The errors that a process may name: what the `prepare` of a picture and of a clip raise."""

_log = structlog.get_logger("server")


class DecoderKilled(Exception):
    """The process of a file was killed from outside, or none could be started: the file is not at
    fault."""

    def __init__(self, medium: Medium) -> None:
        super().__init__(
            f"The process that decodes the {medium.noun} was killed or could not be started, "
            "probably because the machine is out of memory. Send the request again."
        )


class DecoderUnusable(Exception):
    """A program that decodes is missing or does not run, which its operator has to mend."""

    def __init__(self, medium: Medium) -> None:
        super().__init__(
            f"This server cannot decode a {medium.noun}: what is wrong is in its log, and "
            "`cosmos-serve doctor` says how to mend it."
        )


class MediaDecoder:
    """Prepares pictures and videos as the pipeline does, each in a process that it starts."""

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        program: str = "server.inputs.decoder_process",
    ) -> None:
        """`limits` take the place of each medium's own. `program` is the module whose `main` is the
        process."""
        self._limits = limits
        self._program = program

    async def prepare(
        self,
        name: str,
        file: IO[bytes],
        width: int,
        height: int,
        *,
        field: str,
        tell: Callable[[str], object] = _log.warning,
        fps: int | None = None,
    ) -> Sequence[Pixels]:
        """Decode a file into pictures of `width` x `height` pixels of sRGB.

        Args:
            name: of the medium, see `MEDIA`.
            file: is on the disk, and is read from its first byte.
            tell: called with what the file's sender may not expect.
            fps: the rate at which the frames of a video are taken; None is its own.

        Raises:
            InputError: as the pipeline says; it is the medium's `unreadable`, too, if the process
                crashed or took too long.
            DecoderKilled: the machine, and not the file, is at fault.
            DecoderUnusable: there is no ffmpeg, or it cannot decode.
        """
        medium = MEDIA[name]
        limits = self._limits or medium.limits
        size = medium.num_pictures * width * height * 3
        most = size + MAX_TEXT_BYTES
        values = {"name": name, "width": width, "height": height, "field": field, "fps": fps}
        try:
            process = await self._start(file, values, limits)
        except EncodingFailed as error:
            raise _unusable(medium, str(error)) from error
        except OSError as error:
            if shortage_of(error) is not None:
                raise
            _log.warning("No process could be started for a file", why=str(error))
            raise DecoderKilled(medium) from error
        try:
            async with time_limit(limits.deadline_s):
                output = await _output_of(process, most)
                code = await process.wait()
        except TimeoutError:
            _log.warning("A file took too long to decode", seconds=limits.deadline_s)
            raise _crashed(medium, field) from None
        finally:
            await _end(process)
        if code != 0 or (told := _told(output[size:])) is None:
            raise _error_of(code, output, medium, field, most)
        for sentence in told:
            tell(sentence)
        return pictures_in(output[:size], width, height)

    async def _start(
        self, file: IO[bytes], values: dict[str, Any], limits: DecodeLimits
    ) -> asyncio.subprocess.Process:
        inherited = {name: value for name, value in {**os.environ}.items() if name in _INHERITED}
        environment = _ENVIRONMENT | inherited
        if values["name"] == "video":
            environment["IMAGEIO_FFMPEG_EXE"] = await asyncio.to_thread(find_ffmpeg)
        file.seek(0)
        values = {**values, "memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s}
        with stop_signals_held():
            # The loop's thread is the one that starts it, and the one that it dies with.
            return await asyncio.create_subprocess_exec(
                *python_command(self._program, values, *WITHOUT_SITE),
                env=environment,
                stdin=file,
                stdout=asyncio.subprocess.PIPE,
                # A Ctrl-C is for the server, and not for what it started.
                start_new_session=True,
            )


async def _output_of(process: asyncio.subprocess.Process, most: int) -> bytes:
    """What the process writes: up to one byte more than `most`."""
    assert process.stdout is not None
    output = bytearray()
    while len(output) <= most and (part := await process.stdout.read(1024 * 1024)):
        output += part
    if len(output) > most:
        process.kill()
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have no process left."""
    if process.returncode is None:
        process.kill()
    await process.wait()


def _told(output: bytes) -> list[str] | None:
    """What a process wrote behind the pixels; None if it is not what it should be."""
    try:
        told = json.loads(output)
    except ValueError:
        return None
    if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
        return None
    return [each[:MAX_TOLD_LENGTH] for each in told[:MAX_TOLD]]


def _error_of(code: int, output: bytes, medium: Medium, field: str, most: int) -> Exception:
    """Why there are no pictures, by the exit code; `most` is what a process may write."""
    if code == REFUSED:
        return _refusal(output, field) or _crashed(medium, field)
    if code == UNUSABLE:
        return _unusable(medium, output[:MAX_TOLD_LENGTH].decode(errors="replace"))
    if code == -signal.SIGKILL and len(output) <= most:
        # Neither by us, for there was no more than it may write, nor by its own limits.
        _log.warning("A file's process was killed")
        return DecoderKilled(medium)
    _log.warning("A file's process crashed", exit_code=code, bytes_of_output=len(output))
    return _crashed(medium, field)


def _refusal(output: bytes, field: str) -> InputError | None:
    """The error that a process wrote, None if it is none.

    The process may have been taken over: nothing of it is trusted.
    """
    try:
        values: dict[str, Any] = json.loads(output)
        kind, message, context = values["code"], values["message"], values["context"]
        error = _ERRORS[kind]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(message, str) or not isinstance(context, dict):
        return None
    return error(field, message, context)


def _unusable(medium: Medium, why: str) -> DecoderUnusable:
    _log.error("A file could not be decoded", why=why)
    return DecoderUnusable(medium)


def _crashed(medium: Medium, field: str) -> InputError:
    return medium.unreadable(
        field,
        f"The {medium.noun} cannot be read: decoding it failed. Send it again as an ordinary "
        f"{medium.accepted} file.",
    )
