"""The operator's guardrail is asked as OpenAI's endpoint is, and only a verdict is a verdict."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_sites import answer, redirect
from moderation_site import (
    PATH,
    PROBE_TEXT,
    Moderations,
    flagged,
    grey_of,
    moderations,
    stall,
    status,
)
from structlog.testing import capture_logs

from pipeline.errors import ContentPolicyViolation
from pipeline.spec import Pixels
from server.config.settings import Settings
from server.outbound import moderation as module
from server.outbound.moderation import (
    GIVE_UP_S,
    GuardrailMisconfigured,
    GuardrailUnavailable,
    Moderation,
)

WHITE = Pixels(2000, 1000, bytes([255]) * (2000 * 1000 * 3))


@pytest.fixture
async def endpoint() -> AsyncIterator[Moderations]:
    async with moderations() as endpoint:
        yield endpoint


async def test_a_text_and_a_picture_are_asked_about_one_a_request(endpoint: Moderations) -> None:
    asking = Moderation(endpoint.url, model="omni")

    await asking.check_prompt("a red car")
    await asking.check_picture(WHITE)

    text, picture = endpoint.bodies
    assert text == {"model": "omni", "input": [{"type": "text", "text": "a red car"}]}
    assert picture.keys() == {"model", "input"}
    assert [grey_of(part) for part in picture["input"]] == [255]
    first, *headers = endpoint.site.requests[0].strip().split("\r\n")
    assert first == f"POST {PATH} HTTP/1.1"
    assert "Content-Type: application/json" in headers
    assert not any(header.startswith("Authorization") for header in headers)


async def test_the_key_comes_from_its_file_each_time(endpoint: Moderations, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    asking = Moderation(endpoint.url, key_file=key_file)
    for key in ("sk-first\n", "sk-second"):
        key_file.write_text(key)
        await asking.check_prompt("a red car")
        assert f"Authorization: Bearer {key.strip()}\r\n" in endpoint.site.requests[-1]
    for wrong in ("", "two words", "sk-\u00e9"):
        key_file.write_text(wrong)
        with pytest.raises(GuardrailMisconfigured):
            await asking.check_prompt("a red car")
    key_file.unlink()
    with pytest.raises(GuardrailMisconfigured, match="cannot be read"):
        await asking.check_prompt("a red car")
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize("said", [flagged(True), flagged(False, True)])
async def test_what_is_flagged_is_refused(endpoint: Moderations, said: bytes) -> None:
    endpoint.judge = lambda _: said
    asking = Moderation(endpoint.url)

    with pytest.raises(ContentPolicyViolation):
        await asking.check_prompt("a red car")
    assert await asking.passes(lambda: asking.check_picture(WHITE)) is False


NO_VERDICTS = {
    "no results": answer(b'{"results": []}'),
    "no list": answer(b'{"results": {"flagged": false}}'),
    "no flag": answer(b'{"results": [{"flagged": false}, {"categories": {}}]}'),
    "a flag that is text": flagged("false"),
    "a flag that is a number": flagged(0),
    "one result that says nothing": flagged(True, None),
    "a result that is no object": answer(b'{"results": [false]}'),
    "another shape": answer(b'{"flagged": false}'),
    "text": answer(b"Safety: Safe"),
    "deep JSON": answer(b"[" * 100_000),
    "nothing": answer(b""),
    "too much": answer(b'{"results": [{"flagged": false}], "x": "' + b" " * 2**20 + b'"}'),
    "compressed": answer(b'{"results": [{"flagged": false}]}', "Content-Encoding: gzip"),
    "201": answer(b'{"results": [{"flagged": false}]}', status="201 Created"),
    "400": status("400 Bad Request"),
    "429": status("429 Too Many Requests"),
    "500": answer(b'{"results": [{"flagged": false}]}', status="500 x"),
    "not HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{",
}


@pytest.mark.parametrize("name", NO_VERDICTS)
async def test_anything_but_a_verdict_is_none(endpoint: Moderations, name: str) -> None:
    endpoint.judge = lambda _: NO_VERDICTS[name]

    with pytest.raises(GuardrailUnavailable) as none:
        await Moderation(endpoint.url).check_prompt("a red car")
    assert not isinstance(none.value, GuardrailMisconfigured)


async def test_a_redirect_is_not_followed(endpoint: Moderations) -> None:
    endpoint.judge = lambda _: redirect(endpoint.site.url("/other"), "307 x")
    endpoint.site.answers["/other"] = flagged(False)

    with pytest.raises(GuardrailUnavailable, match="status 307"):
        await Moderation(endpoint.url).check_prompt("a red car")
    assert len(endpoint.site.requests) == 1


async def test_one_that_is_silent_or_not_there_gives_no_verdict(
    endpoint: Moderations, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.judge = lambda _: stall
    monkeypatch.setattr(module, "ASK_S", 0.05)
    with pytest.raises(GuardrailUnavailable, match=r"within 0\.05 seconds"):
        await Moderation(endpoint.url).check_prompt("a red car")
    with pytest.raises(GuardrailUnavailable, match="cannot be reached"):
        await Moderation("http://127.0.0.99:9/v1/moderations").check_prompt("a red car")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("401 x", "COSMOS_GUARDRAIL_KEY_FILE"),
        ("403 x", "may not use it"),
        ("404 x", "COSMOS_GUARDRAIL has to be the whole URL"),
    ],
)
async def test_a_wrong_setting_is_told_from_a_shortage(
    endpoint: Moderations, line: str, hint: str
) -> None:
    endpoint.judge = lambda _: status(line)
    asking = Moderation(endpoint.url)
    assert asking.problem is not None  # nothing is known yet

    await asking.probe()

    assert hint in (asking.problem or "")
    assert asking.unavailable_since is None


async def test_the_probe_asks_about_a_text_and_a_picture(endpoint: Moderations) -> None:
    now = 1000.0
    asking = Moderation(endpoint.url, now=lambda: now)
    endpoint.judge = lambda part: (
        flagged(False) if part["type"] == "text" else status("400 Bad Request")
    )
    with capture_logs() as logs:
        await asking.probe()
        await asking.probe()
        assert asking.problem == "The guardrail gives no verdict: it answers with status 400."
        assert (asking.unavailable_since, asking.given_up_before) == (1000.0, None)
        now += GIVE_UP_S
        assert asking.given_up_before == 1000.0
        # A flag is a verdict, however strange.
        endpoint.judge = lambda _: flagged(True)
        await asking.probe()
    assert [asking.problem, asking.unavailable_since] == [None, None]
    assert [log["log_level"] for log in logs] == ["error", "info"]
    assert endpoint.bodies[0]["input"] == [{"type": "text", "text": PROBE_TEXT}]


async def test_it_is_asked_again_for_a_minute(
    endpoint: Moderations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INSIST_AGAIN_S", 0.01)
    answers = [status("500 x"), status("503 x"), flagged(False)]
    endpoint.judge = lambda _: answers.pop(0)
    asking = Moderation(endpoint.url)

    assert await asking.passes(lambda: asking.check_prompt("a red car")) is True
    monkeypatch.setattr(module, "INSIST_S", 0.05)
    endpoint.judge = lambda _: status("500 x")
    assert await asking.inputs_pass("a red car", []) is None
    assert len(endpoint.asked) > 4


def test_a_job_waits_for_fifteen_minutes_in_all() -> None:
    now = 0.0
    asking = Moderation("http://127.0.0.1:9/", now=lambda: now)
    assert not asking.gives_up("a")
    now = GIVE_UP_S - 1
    assert not asking.gives_up("a")
    now = GIVE_UP_S
    assert asking.gives_up("a")
    assert not asking.gives_up("b")
    asking.judged("a")
    assert not asking.gives_up("a")


def test_only_a_url_is_an_endpoint() -> None:
    for choice in ("required", "off"):
        settings = Settings(weights=Path("w"), guardrail=choice)
        assert Moderation.from_settings(settings) is None
    settings = Settings(weights=Path("w"), guardrail="http://10.0.0.1/v1/moderations", fetch="off")
    assert Moderation.from_settings(settings) is not None
