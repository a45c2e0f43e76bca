"""The operator's guardrail: an endpoint in the shape of OpenAI's moderations, which judges jobs.

What it is sent is never logged. Anything but a 200 with a boolean `flagged` in every result is no
verdict, and without a verdict there is no video.
"""

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from pipeline.errors import ContentPolicyViolation
from pipeline.guardrail import is_endpoint, jpeg_of
from pipeline.spec import Pixels
from server.config.settings import Settings
from server.errors import Shortage
from server.outbound.errors import FetchError
from server.outbound.fetch import Fetcher

ASK_S = 30.0
"""How long one answer may take."""

INSIST_S = 60.0
"""How long a run asks for a verdict again before it is put back."""
INSIST_AGAIN_S = 2.0

PROBE_AGAIN_S = 5.0
"""The pause between two looks at an endpoint that gives no verdicts."""

GIVE_UP_S = 15 * 60.0
"""How long a job waits for verdicts in all."""

_MAX_ANSWER_BYTES = 1024 * 1024
_FORGET_S = 86_400.0
_WRONG_SETTING: Mapping[int, str] = {
    401: "COSMOS_GUARDRAIL_KEY_FILE has to hold a key that it knows.",
    403: "Its key, by COSMOS_GUARDRAIL_KEY_FILE, may not use it.",
    404: "COSMOS_GUARDRAIL has to be the whole URL, such as http://localhost:4000/v1/moderations, "
    "and COSMOS_GUARDRAIL_MODEL, if it is set, a model that it has.",
}
_KEY = re.compile(r"[!-~]+")
_PROBE_TEXT = "A calm sea."
_PROBE_PICTURE = Pixels(64, 64, bytes([128]) * (64 * 64 * 3))

_log = structlog.get_logger("server")


class GuardrailUnavailable(Shortage):
    """The guardrail gives no verdict; the argument says why."""

    message = "The guardrail gives no verdict: {}"


class GuardrailMisconfigured(GuardrailUnavailable):
    """The guardrail refuses us: a setting is wrong, and asking again does not help."""


class Moderation:
    """Asks for verdicts. Used from one event loop.

    `now` is the clock of the rows of jobs.
    """

    def __init__(
        self,
        url: str,
        *,
        key_file: Path | None = None,
        model: str | None = None,
        contact: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._key_file = key_file
        self._model = model
        self._fetcher = Fetcher(any_address=True, contact=contact)
        self._now = now
        self._failed = asyncio.Event()
        self._waiting_since: dict[str, float] = {}
        self.began_at = now()
        """Jobs from before have been judged by another server, if at all."""
        self.problem: str | None = "The guardrail has not been asked yet."
        """Why there are no verdicts now, as a sentence; None if there are."""
        self.unavailable_since: float | None = None
        """Since when there are none, unless for a wrong setting."""

    @classmethod
    def from_settings(
        cls, settings: Settings, now: Callable[[], float] = time.time
    ) -> "Moderation | None":
        """The guardrail that the settings name; None where they name no URL."""
        if not is_endpoint(settings.guardrail):
            return None
        return cls(
            settings.guardrail,
            key_file=settings.guardrail_key_file,
            model=settings.guardrail_model,
            contact=settings.fetch_contact,
            now=now,
        )

    async def check_prompt(self, prompt: str) -> None:
        """Return if the prompt may be used.

        Raises:
            ContentPolicyViolation: it may not.
            Shortage: there is no verdict.
        """
        await self._ask({"type": "text", "text": prompt})

    async def check_picture(self, picture: Pixels | bytes) -> None:
        """As `check_prompt`, of a picture; bytes are a JPEG."""
        if isinstance(picture, Pixels):
            picture = await asyncio.to_thread(jpeg_of, picture)
        url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        await self._ask({"type": "image_url", "image_url": {"url": url}})

    async def passes(self, check: Callable[[], Awaitable[None]]) -> bool | None:
        """Whether `check` passes; None if there is no verdict, though it was asked for a minute."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + INSIST_S
        while True:
            try:
                await check()
                return True
            except ContentPolicyViolation:
                return False
            except Shortage:
                if clock() >= ends_at:
                    return None
            await asyncio.sleep(INSIST_AGAIN_S)

    async def inputs_pass(self, prompt: str, pictures: Iterable[Pixels]) -> bool | None:
        """Whether a prompt and its pictures pass; None as by `passes`."""
        checks = [partial(self.check_prompt, prompt)]
        checks += [partial(self.check_picture, picture) for picture in pictures]
        for check in checks:
            passes = await self.passes(check)
            if not passes:
                return passes
        return True

    @property
    def given_up_before(self) -> float | None:
        """Jobs that came before this time have waited for verdicts too long; None if none has."""
        now = self._now()
        if self.unavailable_since is None or now - self.unavailable_since < GIVE_UP_S:
            return None
        return now - GIVE_UP_S

    def gives_up(self, job_id: str) -> bool:
        """Note that this job got no verdict; whether it has waited for long enough."""
        now = self._now()
        known = self._waiting_since.items()
        self._waiting_since = {id_: since for id_, since in known if now - since < _FORGET_S}
        return now - self._waiting_since.setdefault(job_id, now) >= GIVE_UP_S

    def judged(self, job_id: str) -> None:
        """Note that this job got its verdicts, or ended."""
        self._waiting_since.pop(job_id, None)

    async def watch(self) -> None:
        """Find out whether there are verdicts, now and after each failure, until cancelled."""
        while True:
            self._failed.clear()
            await self.probe()
            if self.problem is None:
                await self._failed.wait()
            else:
                await asyncio.sleep(PROBE_AGAIN_S)

    async def probe(self) -> None:
        """Ask about a harmless text and a grey picture, and set `problem` by the answers."""
        shortage = await self._probe()
        problem = None if shortage is None else str(shortage)
        if problem is not None and problem != self.problem:
            _log.error(f"No videos are made. {problem}")
        elif problem is None and self.problem is not None:
            _log.info("The guardrail gives verdicts")
        self.problem = problem
        if shortage is None or isinstance(shortage, GuardrailMisconfigured):
            self.unavailable_since = None
        elif self.unavailable_since is None:
            self.unavailable_since = self._now()

    async def _probe(self) -> Shortage | None:
        try:
            # A harmless thing that is flagged is strange, and a verdict.
            with suppress(ContentPolicyViolation):
                await self.check_prompt(_PROBE_TEXT)
            with suppress(ContentPolicyViolation):
                await self.check_picture(_PROBE_PICTURE)
        except Shortage as shortage:
            return shortage
        return None

    async def _ask(self, part: Mapping[str, Any]) -> None:
        try:
            await self._judge(part)
        except Shortage:
            self._failed.set()
            raise

    async def _judge(self, part: Mapping[str, Any]) -> None:
        body: dict[str, Any] = {"input": [part]}
        if self._model is not None:
            body["model"] = self._model
        answer = io.BytesIO()
        try:
            status = await self._fetcher.post(
                self._url,
                json.dumps(body).encode(),
                self._headers(),
                deadline_s=ASK_S,
                answer=answer,
                max_bytes=_MAX_ANSWER_BYTES,
            )
        except FetchError as error:
            raise GuardrailUnavailable(error) from error
        if status in _WRONG_SETTING:
            reason = f"it answers with status {status}. {_WRONG_SETTING[status]}"
            raise GuardrailMisconfigured(reason)
        if status != 200:
            raise GuardrailUnavailable(f"it answers with status {status}.")
        if _is_flagged(answer.getvalue()):
            raise ContentPolicyViolation

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key_file is None:
            return headers
        # Read each time, so that a new key is used without a new start.
        try:
            key = self._key_file.read_text("ascii").strip()
        except (OSError, UnicodeError) as error:
            raise GuardrailMisconfigured(f"{self._key_file} cannot be read.") from error
        if not _KEY.fullmatch(key):
            raise GuardrailMisconfigured(f"{self._key_file} holds no key: one word is wanted.")
        return {**headers, "Authorization": f"Bearer {key}"}


def _is_flagged(answer: bytes) -> bool:
    """Whether one of the results is flagged; each has to say whether it is."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise GuardrailUnavailable("its answer is not JSON.") from error
    match parsed:
        case {"results": [_, *_] as results}:
            flags = [each.get("flagged") if isinstance(each, dict) else None for each in results]
            if all(isinstance(flag, bool) for flag in flags):
                return any(flags)
    raise GuardrailUnavailable("its answer has no results that all say whether they are flagged.")
