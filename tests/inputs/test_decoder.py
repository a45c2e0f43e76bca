"""Pictures are decoded in processes of their own, and what happens there stays there."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import psutil
import pytest
from decoder_processes import main
from killed_programs import child_of_killed
from process_signals import blocked_by
from servers import picture

from pipeline.child_process import STOP_SIGNALS
from pipeline.errors import FileTooLarge, ImageUnreadable, InputError
from pipeline.image import MAX_BYTES, prepare
from pipeline.spec import Pixels
from server.inputs.decoder import DecoderKilled, MediaDecoder
from server.inputs.media import DecodeLimits

FIELD = "image_url"
MISBEHAVING = main.__module__


async def prepared(decoder: MediaDecoder, data: bytes, **options: Any) -> Sequence[Pixels]:
    """What the decoder makes of a picture."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return await decoder.prepare("image", file, 96, 64, field=FIELD, **options)


def picture_processes() -> list[psutil.Process]:
    """Those of this process; servers that other tests share are none."""
    children = psutil.Process().children()
    return [child for child in children if "decoder_process" in " ".join(child.cmdline())]


async def refusal(decoder: MediaDecoder, data: bytes) -> InputError:
    """The error that the caller gets; no process is left by then."""
    with pytest.raises(InputError) as raised:
        await prepared(decoder, data)
    assert picture_processes() == []
    return raised.value


async def test_an_image_has_the_pixels_that_it_has_in_process() -> None:
    data = picture(333, 100, "red")

    assert await prepared(MediaDecoder(), data) == (prepare(data, 96, 64),)
    assert picture_processes() == []


async def test_what_is_told_of_an_image_is_what_is_told_in_process() -> None:
    in_process: list[str] = []
    told: list[str] = []
    data = picture(64, 300)

    prepare(data, 96, 64, tell=in_process.append)
    await prepared(MediaDecoder(), data, tell=told.append)

    assert told == in_process != []


@pytest.mark.parametrize("data", [b"", b"no picture", b"BM" + bytes(99), bytes(MAX_BYTES + 1)])
async def test_a_refusal_is_the_same_as_in_process(data: bytes) -> None:
    with pytest.raises(InputError) as expected:
        prepare(data, 96, 64, field=FIELD)

    refused = await refusal(MediaDecoder(), data)

    assert type(refused) is type(expected.value)
    assert str(refused) == str(expected.value)
    assert (refused.field, refused.context) == (FIELD, expected.value.context)
    assert type(refused) in (FileTooLarge, ImageUnreadable)


async def test_an_image_that_needs_too_much_memory_is_the_callers_error() -> None:
    decoder = MediaDecoder(DecodeLimits(memory_bytes=24 * 1024**2))

    refused = await refusal(decoder, picture(4000, 4000))

    assert refused.code == "image_load_error"
    assert "in the memory that this server has" in str(refused)


@pytest.mark.parametrize(
    "fault",
    [
        "segfault",
        "exit",
        "nothing",
        "flood",
        "hoard",
        "no json",
        "no object",
        "other",
        "no sentence",
        "told no list",
        "told no text",
    ],
)
async def test_a_process_that_misbehaves_is_the_callers_error(fault: str) -> None:
    decoder = MediaDecoder(DecodeLimits(memory_bytes=32 * 1024**2), program=MISBEHAVING)

    refused = await refusal(decoder, fault.encode() + b"\n" + bytes(1024))

    assert (type(refused), refused.field) == (ImageUnreadable, FIELD)
    assert "decoding it failed" in str(refused)


async def test_a_process_that_is_killed_from_outside_is_not_the_callers_error() -> None:
    with pytest.raises(DecoderKilled, match="out of memory"):
        await prepared(MediaDecoder(program=MISBEHAVING), b"killed\n")


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_a_signal_to_stop_does_not_end_a_process_that_starts(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As systemd sends it to all processes of a service: the server stops, the picture is good."""
    start = asyncio.create_subprocess_exec

    async def signalled(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **options)
        process.send_signal(number)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", signalled)
    several = [prepared(MediaDecoder(), picture()) for _ in range(3)]
    assert await asyncio.gather(*several) == 3 * [(prepare(picture(), 96, 64),)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOP_SIGNALS)


async def test_a_process_that_cannot_be_started_is_not_the_callers_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DecoderKilled, match="could not be started"):
        await prepared(MediaDecoder(), picture())


@pytest.mark.parametrize(
    ("fault", "limits"),
    [("spin", DecodeLimits(cpu_s=1)), ("sleep", DecodeLimits(deadline_s=0.3))],
)
async def test_an_image_without_end_is_given_up(fault: str, limits: DecodeLimits) -> None:
    # More than the pipe holds: the process reads a line of it and no more.
    data = fault.encode() + b"\n" + bytes(1024 * 1024)

    refused = await refusal(MediaDecoder(limits, program=MISBEHAVING), data)

    assert refused.code == "image_load_error"


async def test_an_image_process_has_no_secrets_and_gets_no_new_privileges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COSMOS_KEY", "id:secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib")

    told = json.loads(str(await refusal(MediaDecoder(program=MISBEHAVING), b"tell\n")))

    # Python itself sets LC_CTYPE where there is no locale.
    given = {"LD_LIBRARY_PATH", "MALLOC_ARENA_MAX"}
    assert told["environment"].keys() - {"LC_CTYPE"} == given
    assert told["no_new_privs"] == "1"


async def test_a_cancelled_image_leaves_no_process_though_that_hears_no_stop_signal() -> None:
    decoder = MediaDecoder(program=MISBEHAVING)
    decoding = asyncio.create_task(prepared(decoder, b"sleep\n"))
    while not (processes := picture_processes()):
        await asyncio.sleep(0.01)
    pid = processes[0].pid
    assert os.getsid(pid) == pid
    while not blocked_by(pid).issuperset(STOP_SIGNALS):
        await asyncio.sleep(0.01)

    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding

    assert picture_processes() == []


def test_an_image_process_dies_with_a_server_that_is_killed() -> None:
    server = """
        import asyncio, psutil, tempfile
        from server.inputs.decoder import MediaDecoder

        async def main():
            decoder = MediaDecoder(program="decoder_processes")
            file = tempfile.TemporaryFile()
            file.write(b"sleep\\n")
            file.flush()
            asyncio.create_task(decoder.prepare("image", file, 96, 64, field="image_url"))
            while not (children := psutil.Process().children()):
                await asyncio.sleep(0.01)
            while "sleeping" not in children[0].status():
                await asyncio.sleep(0.01)
            print(children[0].pid, flush=True)
            await asyncio.sleep(3600)

        asyncio.run(main())
    """
    child_of_killed(server).wait(timeout=30)


def test_an_image_process_imports_neither_torch_nor_the_server() -> None:
    program = (
        "import sys, server.inputs.decoder_process;"
        "print(sorted(name for name in sys.modules if name.startswith(('server.', 'torch'))),"
        "sorted({'structlog', 'pydantic', 'asyncio', 'sqlalchemy'} & sys.modules.keys()))"
    )
    listed = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert listed.strip() == "['server.inputs', 'server.inputs.decoder_process'] []"
