"""Pictures of the views of the page, light and dark, with the stand-in: `make screenshots`."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from browsers import DESKTOP, PHONE, Page, chromium, visiting
from paths import ROOT, SAMPLE
from PIL import Image
from servers import COMMAND, RunningServer, start_server

from server.config.setting_types import DEFAULT_WORKER

STAND_IN = ROOT / ".cache" / "stand-in"
PROMPT = "The camera pans right."
MINUTES = 10 * 60


@contextmanager
def _serving(folder: Path, **environment: str) -> Iterator[RunningServer]:
    """A server with the stand-in that `make serve` has, and nothing in its data folder."""
    weights = ["--weights", str(STAND_IN)]
    environment |= {"COSMOS_WORKER": DEFAULT_WORKER}
    server = start_server(folder, *weights, program=[COMMAND], **environment)
    try:
        yield server
    finally:
        server.end()


class Album:
    """Where pictures go; each is taken light and dark."""

    def __init__(self, folder: Path, page: Page) -> None:
        self._folder = folder
        self._page = page

    def take(self, name: str, size: tuple[int, int] = DESKTOP) -> None:
        """Take a picture of the page from its top, as large as it is."""
        for suffix, is_dark in (("", False), ("-dark", True)):
            self._page.emulate(dark=is_dark, still=True)
            self._page.size(*size)
            height = self._page.run("return document.documentElement.scrollHeight")
            self._page.size(size[0], max(size[1], height))
            picture = Image.open(io.BytesIO(self._page.driver.get_screenshot_as_png()))
            path = self._folder / f"{name}{suffix}.jpg"
            picture.convert("RGB").save(path, quality=88, subsampling=0)
        self._page.emulate(still=True)
        self._page.size(*DESKTOP)


def main(folder: Path) -> None:
    """Make one video, and look at every view before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name, chromium(Path(name)) as browser:
        scratch = Path(name)
        with _serving(scratch / "open") as server, visiting(browser, server.http) as page:
            _take_all(page, Album(folder, page))
        keyed = _serving(scratch / "keyed", COSMOS_KEY="me:a-secret")
        with keyed as server, visiting(browser, server.http) as page:
            page.open()
            page.until(lambda: page.all(".sign-in"))
            Album(folder, page).take("sign-in")


def _take_all(page: Page, album: Album) -> None:
    page.open()
    page.until(lambda: "Ready" in page.words, within=MINUTES)
    album.take("empty")
    page.choose(SAMPLE)
    page.write("prompt", PROMPT)
    page.click("Additional settings")
    page.write("num_frames", "25")
    page.write("num_inference_steps", "12")
    album.take("form")
    page.click("Additional settings")
    page.click("Make a video")
    page.until(lambda: "Step 4 of" in page.words, within=MINUTES)
    page.click("Log")
    album.take("run")
    page.plays(within=MINUTES)
    page.click("Log")
    page.run("const video = document.querySelector('.run video'); video.pause();")
    album.take("playground")
    album.take("phone", PHONE)
    page.click("Code")
    page.until(lambda: page.all(".code pre"))
    album.take("code")
    page.click("JSON")
    page.until(lambda: page.all("#json-input"))
    album.take("json")
    page.open("/#/history")
    page.reads(PROMPT)
    album.take("history")
    page.open("/#/operator")
    page.until(lambda: page.all(".chart canvas"))
    album.take("operator")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
