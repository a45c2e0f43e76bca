"""A decoder of files for tests that are not about processes: it saves the start of one."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import IO, Any

from pipeline import clip, image
from pipeline.spec import Pixels
from server.inputs.decoder import MediaDecoder


class InProcessDecoder(MediaDecoder):
    async def prepare(
        self,
        name: str,
        file: IO[bytes],
        width: int,
        height: int,
        *,
        fps: int | None = None,
        **options: Any,
    ) -> Sequence[Pixels]:
        if name == "video":
            prepare = partial(clip.prepare, file, width, height, fps=fps, **options)
            return await asyncio.to_thread(prepare)
        file.seek(0)
        data = file.read()
        return [await asyncio.to_thread(partial(image.prepare, data, width, height, **options))]
