"""Decode pictures in processes of their own, so that a hostile one takes nothing along.

A decoder is the one part of the server that works on bytes of strangers in C. Its process has
little memory and time, and ends with its picture: if it crashes, the picture is at fault, and the
caller is told so. See `server.inputs.image_process` for the process's own side.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from pipeline.child_process import STOP_SIGNALS, WITHOUT_SITE, python_command
from pipeline.errors import FileTooLarge, ImageTooLarge, ImageUnreadable, InputError
from pipeline.image_kind import ACCEPTED
from pipeline.spec import Pixels
from server.disk import shortage_of
from server.inputs.image_process import REFUSED
from server.tasks import time_limit

MAX_TEXT_BYTES = 16 * 1024
"""Of a refusal, or of what is told of a picture."""
MAX_TOLD = 10
MAX_TOLD_LENGTH = 500
"""Sentences that are told of one picture, and the characters of each."""

_INHERITED = {"LD_LIBRARY_PATH"}
"""The variables of the server that its process gets: what some Pythons need to start. The others
may be secrets, such as COSMOS_KEY."""

_ERRORS = {error.code: error for error in (FileTooLarge, ImageTooLarge, ImageUnreadable)}
"""The errors that a picture process may name: what `pipeline.image.prepare` raises."""

_CRASHED = (
    f"The image cannot be read: decoding it failed. Send it again as an ordinary {ACCEPTED} file."
)

_FROM_OUTSIDE = (signal.SIGKILL, *STOP_SIGNALS)
"""What others end a process with; the stop signals only while it is not blocking them yet."""

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one picture may cost.

    The hungriest picture that we accept, a WebP of 50 megapixels, was measured to take 700 to 800
    MiB and a second. `deadline_s` counts from the start of the process, on a machine that may be
    busy with other things.
    """

    memory_bytes: int = 1024**3
    cpu_s: int = 30
    deadline_s: float = 90.0


class ImageProcessKilled(Exception):
    """The process of a picture was killed from outside, or none could be started: the picture is
    not at fault."""

    def __init__(self) -> None:
        super().__init__(
            "The process that decodes the picture was killed or could not be started, probably "
            "because the machine is out of memory. Send the request again."
        )


class ImageDecoder:
    """Prepares pictures as `pipeline.image.prepare` does, each in a process that it starts."""

    def __init__(
        self, limits: DecodeLimits | None = None, *, program: str = "server.inputs.image_process"
    ) -> None:
        """`program` is the module whose `main` is the process."""
        self._limits = limits or DecodeLimits()
        self._program = program

    async def prepare(
        self,
        data: bytes,
        width: int,
        height: int,
        *,
        field: str,
        tell: Callable[[str], object] = _log.warning,
    ) -> Pixels:
        """Decode a picture into `width` x `height` pixels of sRGB.

        Args:
            tell: called with what the picture's sender may not expect.

        Raises:
            FileTooLarge, ImageTooLarge, ImageUnreadable: as the pipeline says, and the last also
                if the process crashed or took too long.
            ImageProcessKilled: the machine, and not the image, is at fault.
        """
        size = width * height * 3
        most = size + MAX_TEXT_BYTES
        try:
            process = await self._start(width, height, field)
        except OSError as error:
            if shortage_of(error) is not None:
                raise
            _log.warning("No process could be started for a picture", why=str(error))
            raise ImageProcessKilled from error
        try:
            async with time_limit(self._limits.deadline_s):
                output = await _exchange(process, data, most)
                code = await process.wait()
        except TimeoutError:
            _log.warning("A picture took too long to decode", seconds=self._limits.deadline_s)
            raise ImageUnreadable(field, _CRASHED) from None
        finally:
            await _end(process)
        if code == 0 and (told := _told(output[size:])) is not None:
            for sentence in told:
                tell(sentence)
            return Pixels(width, height, output[:size])
        if code == REFUSED:
            raise _refusal(output, field)
        if -code in _FROM_OUTSIDE and len(output) <= most:
            # Neither by us, for there was no more than it may write, nor by its own limits.
            _log.warning("A picture's process was killed")
            raise ImageProcessKilled
        _log.warning("A picture's process crashed", exit_code=code, bytes_of_output=len(output))
        raise ImageUnreadable(field, _CRASHED)

    async def _start(self, width: int, height: int, field: str) -> asyncio.subprocess.Process:
        values = {
            "width": width,
            "height": height,
            "field": field,
            "memory_bytes": self._limits.memory_bytes,
            "cpu_s": self._limits.cpu_s,
        }
        # The loop's thread is the one that starts it, and the one that it dies with.
        return await asyncio.create_subprocess_exec(
            *python_command(self._program, values, *WITHOUT_SITE),
            env={name: value for name, value in {**os.environ}.items() if name in _INHERITED},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C is for the server, and not for what it started.
            start_new_session=True,
        )


async def _exchange(process: asyncio.subprocess.Process, data: bytes, most: int) -> bytes:
    """Give the process its picture, and take what it writes: up to one byte more than `most`."""
    assert process.stdin is not None
    assert process.stdout is not None
    feeding = asyncio.create_task(_feed(process.stdin, data))
    try:
        output = bytearray()
        while len(output) <= most and (part := await process.stdout.read(1024 * 1024)):
            output += part
        if len(output) > most:
            process.kill()
        return bytes(output)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    stdin.write(data)
    try:
        await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it ended without reading to the end, and its exit code says why
    stdin.close()


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


def _refusal(output: bytes, field: str) -> InputError:
    """The error that a process wrote. It may have been taken over: nothing of it is trusted."""
    try:
        values: dict[str, Any] = json.loads(output)
        kind, message, context = values["code"], values["message"], values["context"]
        error = _ERRORS[kind]
    except (ValueError, KeyError, TypeError):
        return ImageUnreadable(field, _CRASHED)
    if not isinstance(message, str) or not isinstance(context, dict):
        return ImageUnreadable(field, _CRASHED)
    return error(field, message, context)
