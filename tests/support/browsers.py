"""A real browser for tests of the page: Debian's Chromium, by its driver."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from client_programs import needed_program
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from servers import RunningServer, start_server, two_checkpoints

LONGEST_S = 30
DESKTOP, PHONE = (1360, 900), (390, 844)

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    # No name leads anywhere but here.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
_OWN = ("data", "blob", "about", "chrome")
"""Schemes of URLs that lead nowhere."""

_BUTTON = (
    "//*[self::button or self::a or self::summary or self::label]"
    "[starts-with(normalize-space(), {})]"
)
_DROP = """
  const [target, name, type, base64, kind] = arguments;
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  const options = { bubbles: true, cancelable: true };
  target.dispatchEvent(kind === "paste"
    ? new ClipboardEvent(kind, { ...options, clipboardData: data })
    : new DragEvent(kind, { ...options, dataTransfer: data }));
"""


class Page:
    """The page of one server in a tab; elements are found by what a person reads or by CSS."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.allowed: list[str] = []
        """Parts of messages on the console that this test is about."""

    def open(self, path: str = "/") -> None:
        """Open a path of the server, as a new visitor would."""
        self.driver.get(self.url + path)
        self.until(lambda: self.all("main > *"))

    def until(
        self, condition: Callable[[], Any], *, what: str = "", within: float = LONGEST_S
    ) -> Any:
        """What the condition gives once that is true, which has to be within so many seconds."""
        wait = WebDriverWait(self.driver, within, poll_frequency=0.1)
        return wait.until(lambda _: condition(), what or "it did not come to that")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def all(self, css: str) -> Sequence[WebElement]:
        """The elements of a selector, as they are now."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """The first element of a selector, once it is there."""
        found: Sequence[WebElement] = self.until(lambda: self.all(css), what=f"there is no {css}")
        return found[0]

    def button(self, words: str) -> WebElement:
        """The button or link whose text begins with these words, once it is there."""
        path = _BUTTON.format(json.dumps(words))

        def shown() -> WebElement | None:
            found = self.driver.find_elements(By.XPATH, path)
            return next((each for each in found if each.is_displayed()), None)

        button: WebElement = self.until(shown, what=f"there is no button {words!r}")
        return button

    def click(self, words: str) -> None:
        """Press the button that says this."""
        self.button(words).click()

    def write(self, name: str, words: str) -> None:
        """Put this into a field, in place of what is there."""
        field = self.one(f"#field-{name}")
        field.clear()
        field.send_keys(words)

    def write_json(self, words: str) -> None:
        """Put this into the editor of JSON, in place of what is there."""
        editor = self.one("#json-input")
        # Emptied first, it would be filled again if the page is drawn meanwhile.
        editor.send_keys(Keys.CONTROL, "a")
        editor.send_keys(words)

    def plays(self, *, within: float = LONGEST_S) -> None:
        """Wait until the video that was made is being played."""
        time = "return document.querySelector('.run video')?.currentTime > 0"
        self.until(lambda: self.run(time), what="no video is played", within=within)

    @property
    def words(self) -> str:
        """All that can be read."""
        return str(self.run("return document.body.innerText"))

    def reads(self, words: str) -> None:
        """Wait until this can be read."""
        self.until(lambda: words in self.words, what=f"{words!r} cannot be read")

    def give(self, kind: str, name: str, content_type: str, data: bytes) -> None:
        """Let a file be dropped on the field of files (`drop`), or pasted (`paste`)."""
        field = self.one(".drop")
        target = field if kind == "drop" else self.one("body")
        self.run(_DROP, target, name, content_type, base64.b64encode(data).decode(), kind)

    def choose(self, path: Path) -> None:
        """Choose a file as in the browser's own window."""
        self.one("input[type=file]").send_keys(str(path))

    def complaints(self) -> list[str]:
        """What the browser logged as errors since the last call, but for what is allowed."""
        logged = self._logged("browser")
        messages = [each["message"] for each in logged if each["level"] in ("SEVERE", "WARNING")]
        return [m for m in messages if not any(part in m for part in self.allowed)]

    def strangers(self) -> list[str]:
        """The URLs of other origins that were asked for since the last call."""
        events = [json.loads(each["message"])["message"] for each in self._logged("performance")]
        sent = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
        urls = [urlsplit(each["request"]["url"]) for each in sent]
        host = urlsplit(self.url).netloc
        return [url.geturl() for url in urls if url.scheme not in _OWN and url.netloc != host]

    def _logged(self, kind: str) -> list[dict[str, Any]]:
        logged: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return logged

    def emulate(self, *, dark: bool = False, still: bool = False) -> None:
        """What the system says that the person prefers."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def size(self, width: int, height: int) -> None:
        """The size of what is seen of the page, in pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )


@contextmanager
def chromium(downloads: Path) -> Iterator[webdriver.Chrome]:
    """A browser of its own, which has never been anywhere."""
    options = webdriver.ChromeOptions()
    options.binary_location = needed_program("chromium", "chromium-browser", "google-chrome")
    for option in (*_OPTIONS, f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(needed_program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def visiting(driver: webdriver.Chrome, url: str) -> Iterator[Page]:
    """The page of a server for a new visitor: it must not complain, nor ask another origin."""
    page = Page(driver, url)
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    what = {"origin": url, "storageTypes": "all"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", what)
    page.emulate()
    page.size(*DESKTOP)
    # What was logged before is not this visitor's.
    page.complaints()
    page.strangers()
    yield page
    first, *others = driver.window_handles
    for other in others:
        driver.switch_to.window(other)
        driver.close()
    driver.switch_to.window(first)
    assert page.complaints() == []
    assert page.strangers() == []


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts what it downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads: Path) -> Iterator[webdriver.Chrome]:
    with chromium(downloads) as driver:
        yield driver


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on loopback that asks for no key, with the checkpoints of all endpoints."""
    folder = tmp_path_factory.mktemp("server")
    running = start_server(folder, "--weights", str(two_checkpoints(folder)))
    yield running
    assert running.end() == 0


@pytest.fixture
def page(browser: webdriver.Chrome, page_server: RunningServer) -> Iterator[Page]:
    """The server's page for a new visitor: it must not complain, nor ask another origin."""
    with visiting(browser, page_server.http) as page:
        yield page
