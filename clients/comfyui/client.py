"""A cosmos-serve server, as a node needs it: upload, submit, follow, cancel, download."""

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

URL_VARIABLE, KEY_VARIABLE = "COSMOS_SERVE_URL", "COSMOS_SERVE_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
APP = "fal-ai/cosmos-predict-2.5"

LOOK_S = 0.5
"""How often a job is asked after, and whether ComfyUI wants to go on."""

_STEP = re.compile(r"Step (\d+) of (\d+)")


def server_and_key(url: str, key: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The server's URL and the key for it, by the environment, or else by a node's widgets.

    A workflow may come from anywhere: the key of the environment goes to no server that only a
    workflow names.
    """
    if environment.get(URL_VARIABLE) or not url:
        url = environment.get(URL_VARIABLE) or DEFAULT_URL
        key = environment.get(KEY_VARIABLE) or key
    return url.rstrip("/"), key


class CosmosServer:
    """A client of one server, to be used in one `async with`."""

    def __init__(self, url: str = "", key: str = "") -> None:
        self._url, key = server_and_key(url, key, os.environ)
        headers = {"authorization": f"Key {key}"} if key else {}
        # Only connections have a short time: a large video may take its own.
        timeout = httpx.Timeout(120, connect=10)
        self._http = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=timeout)

    async def __aenter__(self) -> "CosmosServer":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.__aexit__(*error)

    async def upload(self, data: bytes, name: str, content_type: str) -> str:
        """Bring a file to the server; its URL there."""
        headers = {"content-type": content_type, "x-fal-file-name": name}
        answer = await self._asked("POST", "/files/upload", content=data, headers=headers)
        return str(answer.json()["access_url"])

    async def video(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        on_step: Callable[[int, int], None],
        check: Callable[[], None],
    ) -> bytes:
        """Have a video made; the bytes of its file.

        `check` is called while the job waits and runs, and stops it by an exception. `on_step`
        is told of steps and of how many there are.
        """
        submitted = await self._asked("POST", f"/queue/{APP}/{endpoint}", json=body)
        request = f"/queue/{APP}/requests/{submitted.json()['request_id']}"
        try:
            while not await self._is_completed(request, on_step):
                check()
                await asyncio.sleep(LOOK_S)
        except BaseException:
            with suppress(httpx.HTTPError):
                await self._http.put(f"{request}/cancel")
            raise
        video = (await self._asked("GET", request)).json()["video"]
        return await self._download(video["url"])

    async def _is_completed(self, request: str, on_step: Callable[[int, int], None]) -> bool:
        status = (await self._asked("GET", f"{request}/status", params={"logs": "1"})).json()
        steps = [_STEP.match(line["message"]) for line in status["logs"]]
        if last := next(filter(None, reversed(steps)), None):
            on_step(int(last[1]), int(last[2]))
        return bool(status["status"] == "COMPLETED")

    async def _download(self, url: str) -> bytes:
        if url.startswith(f"{self._url}/"):
            return (await self._asked("GET", url)).content
        # Under its public name, or in a store of its own: the key is not for it.
        async with httpx.AsyncClient(timeout=self._http.timeout) as http:
            return _checked(await http.get(url)).content

    async def _asked(self, method: str, url: str, **parts: Any) -> httpx.Response:
        try:
            return _checked(await self._http.request(method, url, **parts))
        except httpx.TransportError as error:
            raise RuntimeError(f"{self._url} does not answer: {error!r}") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is none of an error: that is raised in the server's words."""
    if answer.is_success:
        return answer
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    if isinstance(detail, list):
        detail = "; ".join(
            f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail
        )
    raise RuntimeError(f"{answer.url.host} answered {answer.status_code}: {detail}")
