"""The blocks of code on the pages, and what becomes of each: run, or not run for a reason."""

import re
from dataclasses import dataclass
from pathlib import Path

from paths import DOCS, ROOT

COMMANDS = ("bash", "python", "javascript")
"""The languages of blocks that people paste."""

PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))

_BLOCK = re.compile(
    r"^(?:<!-- (not run|run by):? (.+?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page. `reason` says why it is not run, `run_by` which other test runs it."""

    page: str
    language: str
    code: str
    reason: str | None = None
    run_by: str | None = None

    @property
    def is_command(self) -> bool:
        return self.language in COMMANDS

    @property
    def serves(self) -> bool:
        """Whether it starts a server, which goes on in its terminal."""
        last = self.code.strip().splitlines()[-1]
        return last == "make serve" or last.startswith("cosmos-serve serve ")

    @property
    def shell(self) -> str:
        """The lines that run it in a shell."""
        if self.language == "python":
            return f"python - <<'CODE'\n{self.code}CODE\n"
        if self.language == "javascript":
            return f"node --input-type=module - <<'CODE'\n{self.code}CODE\n"
        return self.code


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page, or of a part of it, in their order."""
    found = _BLOCK.findall(page.read_text() if text is None else text)
    return [
        Block(
            page.name,
            language,
            code,
            reason=why if mark == "not run" else None,
            run_by=why if mark == "run by" else None,
        )
        for mark, why, language, code in found
    ]
