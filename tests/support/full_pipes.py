"""Pipes that are full: a program that writes to one waits until somebody reads."""

import os
from typing import Self


class FullPipe:
    """A pipe whose sink takes no more, until the test reads what is in it."""

    def __init__(self) -> None:
        self._source, self.sink = os.pipe()
        os.set_blocking(self.sink, False)
        size = os.write(self.sink, bytes(1024 * 1024))
        os.set_blocking(self.sink, True)
        self._filling = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._source)
        self.close_sink()

    def close_sink(self) -> None:
        """Leave the sink to the programs that have it."""
        if self.sink >= 0:
            os.close(self.sink)
            self.sink = -1

    def read_until(self, words: str) -> str:
        """What was written so far, up to these words or a bit further."""
        text = ""
        while words not in text:
            text += self._read()
        return text

    def read_rest(self) -> str:
        """What is written until nobody has the sink any more."""
        text = ""
        while part := self._read():
            text += part
        return text

    def _read(self) -> str:
        while self._filling:
            self._filling -= len(os.read(self._source, self._filling))
        return os.read(self._source, 65536).decode()
