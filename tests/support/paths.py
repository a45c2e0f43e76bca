"""Where the repository's folders are, so that a test may be moved without counting parents."""

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
DOCS = ROOT / "docs"
SAMPLE = DOCS / "sample" / "launch.jpg"
CLIENTS = TESTS / "clients"
