"""A client's own record of what a server acknowledged, and what it must therefore still be.

The method is Jepsen's: the server may be killed at any moment, so a call that broke off may or may
not have been done, and only what was answered is held against it.
"""

import hashlib
import io
import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
from PIL import Image
from servers import APP, ENDPOINT, HEIGHT, MAX_FRAMES, WIDTH, data_uri, picture, request_of
from workers import BYTES, Script, file_of

from pipeline.spec import Pixels
from server.fal.endpoints import Limits, parse_request
from server.workers.messages import WorkOrder

REQUESTS = f"/queue/{APP}/requests"

Hooks = Mapping[str, list[dict[str, Any]]]
"""The bodies of the webhooks that were received, by the job that they tell of."""


class AskedToTryAgain(Exception):
    """The server is short of something for a while: nothing was done, as if it had not answered."""


def raise_if_asked_to_try_again(answer: httpx.Response) -> None:
    """A hook of clients, for answers by which the server says that it is short of something.

    Raises:
        AskedToTryAgain: the answer has all that fal's clients need to try again.
    """
    marks = [answer.headers.get(name) for name in ("x-fal-retryable", "x-fal-needs-retry")]
    is_marked = marks == ["true", "true"] and "retry-after" in answer.headers
    if answer.status_code in (503, 507) and is_marked:
        raise AskedToTryAgain


@dataclass(frozen=True)
class Wish:
    """One video that a client wants, under an idempotency key of its own."""

    key: str
    prompt: str = "a red car"
    number: int = 0
    webhook: str | None = None
    uploaded: bool = False
    """Whether the picture is sent as a file first."""

    @cached_property
    def picture(self) -> bytes:
        return picture(colour=self._colour)

    @cached_property
    def video(self) -> bytes:
        """What the worker makes of it."""
        body = json.dumps(self.body("x:")).encode()
        spec = parse_request(ENDPOINT, body, _LIMITS).spec
        rgb = Image.open(io.BytesIO(self.picture)).convert("RGB").tobytes()
        media = {"image": [Pixels(WIDTH, HEIGHT, rgb)]}
        order = WorkOrder(job_id="", attempt=1, spec=spec, media=media)
        return file_of(order, int(Script(order).number("bytes", BYTES)))

    def body(self, image_url: str | None = None) -> dict[str, Any]:
        url = image_url or data_uri(self.picture)
        return request_of(self.prompt, image_url=url, seed=self.number)

    @property
    def _colour(self) -> str:
        return f"#{hashlib.sha256(self.key.encode()).hexdigest()[:6]}"


_LIMITS = Limits(WIDTH, HEIGHT, MAX_FRAMES)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, as a client saw it."""

    http_status: int
    error_type: str | None
    video_sha256: str | None
    body: bytes


@dataclass
class Record:
    """What is known of one wish."""

    wish: Wish
    image_url: str | None = None
    job_id: str | None = None
    cancel_was_asked: bool = False
    cancel_was_acknowledged: bool = False
    ending: Ending | None = None
    is_unknown: bool = False
    """Whether the server said, when it was asked last, that there is no such job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What came of the acknowledged jobs; each list but the first two must be empty."""

    acknowledged: int
    given_up: list[str]
    """Failed because two workers died on them."""
    lost: list[str]
    doubled: list[str]
    wrongly_terminal: list[str]
    changed: list[str]
    uploads_lost: list[str]
    webhooks_wrong: list[str]

    @property
    def problems(self) -> list[str]:
        lists = ("lost", "doubled", "wrongly_terminal", "changed", "uploads_lost", "webhooks_wrong")
        return [f"{name}: {each}" for name in lists for each in getattr(self, name)]


class Ledger:
    """The wishes of all clients of one server; several threads may use it at once.

    What calls the server may raise `AskedToTryAgain`, too, if its client does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records: dict[str, Record] = {}
        self._changed: list[str] = []
        self._doubled: list[str] = []

    def submit(self, client: httpx.Client, wish: Wish) -> Record:
        """Ask for a video, or for the one that was asked for before.

        Raises:
            httpx.TransportError: there was no answer.
        """
        with self._lock:
            record = self.records.setdefault(wish.key, Record(wish))
        if wish.uploaded and record.image_url is None:
            record.image_url = _upload(client, wish)
        answer = client.post(
            f"/queue/{ENDPOINT}",
            json=wish.body(record.image_url),
            params={} if wish.webhook is None else {"fal_webhook": wish.webhook},
            headers={"idempotency-key": wish.key},
        )
        assert answer.status_code == 200, answer.text
        job_id = answer.json()["request_id"]
        if record.job_id not in (None, job_id):
            self._doubled.append(f"{wish.key} is {record.job_id} and {job_id}")
        record.job_id = job_id
        return record

    def cancel(self, client: httpx.Client, record: Record) -> None:
        """Ask for a job to be stopped.

        Raises:
            httpx.TransportError: there was no answer.
        """
        record.cancel_was_asked = True
        answer = client.put(f"{REQUESTS}/{record.job_id}/cancel")
        assert answer.status_code in (202, 400), answer.text
        if answer.status_code == 202:
            record.cancel_was_acknowledged = True

    def look(self, client: httpx.Client, record: Record) -> bool:
        """Look how a job stands; whether it is done.

        Raises:
            httpx.TransportError: there was no answer.
        """
        status = client.get(f"{REQUESTS}/{record.job_id}/status")
        assert status.status_code in (200, 202, 404), status.text
        record.is_unknown = status.status_code == 404
        if status.status_code == 202:
            if record.ending is not None:
                self._changed.append(f"{record.job_id} was done, and is {status.json()['status']}")
            return False
        if record.is_unknown:
            return False  # lost, if it stays so
        ending = _ending(client, record)
        if record.ending not in (None, ending):
            self._changed.append(f"{record.job_id}: {record.ending} became {ending}")
        record.ending = ending
        return True

    def unfinished(self) -> list[Record]:
        """The acknowledged jobs whose end nobody has seen, but for those that are unknown."""
        with self._lock:
            records = list(self.records.values())
        return [
            each
            for each in records
            if each.job_id is not None and each.ending is None and not each.is_unknown
        ]

    def check(
        self,
        client: httpx.Client,
        hooks: Hooks,
        deaths: Mapping[str, int],
    ) -> Findings:
        """Compare what a quiet server says with what was acknowledged.

        `hooks` are the webhooks received, and `deaths` the workers that died, by job.
        """
        lost, wrong, given_up, uploads = [], [], [], []
        for record in list(self.records.values()):
            if record.image_url is not None and not _has(client, record.image_url, record.wish):
                uploads.append(record.image_url)
            if record.job_id is None:
                continue
            # The answer to a submit that broke off, too, is the job's.
            self.submit(client, record.wish)
            if not self.look(client, record):
                lost.append(record.job_id)
            elif _is_given_up(record, deaths):
                given_up.append(record.job_id)
            elif problem := _wrong(record):
                wrong.append(f"{record.job_id}: {problem}")
        return Findings(
            acknowledged=sum(each.job_id is not None for each in self.records.values()),
            given_up=given_up,
            lost=lost,
            doubled=self._doubled,
            wrongly_terminal=wrong,
            changed=self._changed,
            uploads_lost=uploads,
            webhooks_wrong=list(self._wrong_webhooks(hooks)),
        )

    def _wrong_webhooks(self, hooks: Hooks) -> list[str]:
        wrong = []
        wanted = {each.job_id for each in self.records.values() if each.wish.webhook is not None}
        for record in self.records.values():
            if record.wish.webhook is None or record.job_id is None or record.ending is None:
                continue
            got = hooks.get(record.job_id, [])
            said = "OK" if record.ending.http_status == 200 else "ERROR"
            if not got:
                wrong.append(f"{record.job_id} was never told of")
            elif any(each != got[0] for each in got) or got[0]["status"] != said:
                wrong.append(f"{record.job_id} was told of as {got}")
        return wrong + [f"{job_id} is unknown" for job_id in hooks if job_id not in wanted]


def _upload(client: httpx.Client, wish: Wish) -> str:
    sent = {"content-type": "image/png", "x-fal-file-name": f"{wish.number}.png"}
    answer = client.post("/files/upload", content=wish.picture, headers=sent)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


def _has(client: httpx.Client, url: str, wish: Wish) -> bool:
    return client.get(url).content == wish.picture


def _ending(client: httpx.Client, record: Record) -> Ending:
    result = client.get(f"{REQUESTS}/{record.job_id}")
    if result.status_code != 200:
        return Ending(result.status_code, result.json().get("error_type"), None, result.content)
    video = client.get(result.json()["video"]["url"])
    sha256 = hashlib.sha256(video.content).hexdigest()
    return Ending(200, None, sha256 if video.status_code == 200 else None, result.content)


def _is_given_up(record: Record, deaths: Mapping[str, int]) -> bool:
    ending = record.ending
    assert ending is not None and record.job_id is not None
    return ending.error_type == "runner_server_error" and deaths.get(record.job_id, 0) >= 2


def _wrong(record: Record) -> str | None:
    """What is wrong with a job's end, if anything is."""
    ending = record.ending
    assert ending is not None
    is_cancelled = ending.error_type == "client_cancelled"
    if record.cancel_was_acknowledged and not is_cancelled:
        return f"its cancel was acknowledged, and it ended with {ending.body!r}"
    if is_cancelled and not record.cancel_was_asked:
        return "it ended as cancelled, and nobody asked for that"
    if is_cancelled:
        return None
    if ending.http_status != 200:
        return f"it failed with {ending.body!r}"
    wanted = hashlib.sha256(record.wish.video).hexdigest()
    return None if ending.video_sha256 == wanted else "its video is another one"


def by_job(hooks: list[dict[str, Any]]) -> Hooks:
    """The bodies of webhooks by the job that they tell of."""
    grouped: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for hook in hooks:
        grouped[hook["request_id"]].append(hook)
    return grouped
