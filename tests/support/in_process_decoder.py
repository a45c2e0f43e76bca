"""A decoder of pictures for tests that are not about processes: it saves the start of one."""

import asyncio
from functools import partial
from typing import Any

from pipeline.image import prepare
from pipeline.spec import Pixels
from server.inputs.image_decoder import ImageDecoder


class InProcessDecoder(ImageDecoder):
    async def prepare(self, data: bytes, width: int, height: int, **options: Any) -> Pixels:
        return await asyncio.to_thread(partial(prepare, data, width, height, **options))
