"""Small files with secrets, which nobody but the server's own user may read."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds; if there is none, it is made with mode 0600, whole or not at all."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        content = make()
    # mkstemp's files are 0600 from the start.
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(part).replace(path)
    return content
