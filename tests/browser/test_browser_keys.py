"""Signing in, and the keys of callers, on a server that asks for keys, in a real browser."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key, keys_of
from browsers import Page, visiting
from client_programs import needed_program
from selenium import webdriver
from selenium.webdriver.remote.webelement import WebElement
from servers import APP, picture, settings_in, start_server
from test_browser_views import serious
from test_clients_proxies import NGINX, free_port, serves

from server.keys import CALLER_SCOPES, Scope

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

LEAD = "This server asks for a key."
WRONG = "The server does not know this key."
ENDED = "The key has ended, or was revoked. Sign in again."
TEXT = f"{APP}/text-to-video"
REFUSED = "the server responded with a status of"
CUT_OFF = "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
"""What a browser says of a stream whose key has ended, if it is not leaving that stream by then."""
UNKNOWN_JOB = f"queue/{APP}/requests/00000000-0000-4000-8000-000000000000/status"
"""A key that is good is told that there is no such request."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A server that asks for keys, also where files are read."""

    url: str
    folder: Path
    operator: str

    def key(self, label: str, **fields: object) -> str:
        """A new key, once the server knows it: it looks for keys of others every second."""
        key = add_key(settings_in(self.folder, auth="on"), label, **fields)
        while self.answer(key) == 401:
            time.sleep(0.05)
        return key

    def revoke(self, key: str) -> None:
        with keys_of(settings_in(self.folder, auth="on")) as store:
            store.revoke(key.partition(":")[0])

    def answer(self, key: str) -> int:
        return httpx.get(f"{self.url}/{UNKNOWN_JOB}", headers=by_key(key)).status_code


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    settings = settings_in(folder, auth="on")
    operator = add_key(settings, "operator", scopes=CALLER_SCOPES | {Scope.ADMIN})
    prices = f"{TEXT}=0.25"
    running = start_server(folder, COSMOS_AUTH="on", COSMOS_FILES_AUTH="key", COSMOS_PRICES=prices)
    yield Keyed(running.http, folder, operator)
    assert running.end() == 0


@pytest.fixture
def page(browser: webdriver.Chrome, keyed: Keyed) -> Iterator[Page]:
    with visiting(browser, keyed.url) as page:
        yield page


def sign_in(page: Page, key: str) -> None:
    field = page.one("input[name=key]")
    field.clear()
    field.send_keys(key)
    page.one(".sign-in button").click()


def rows_of(page: Page, label: str) -> list[WebElement]:
    """The rows of a key in the tables of what was used and of keys."""
    return page.driver.find_elements("xpath", f"//tr[td[normalize-space()='{label}']]")


def labels(page: Page) -> list[str]:
    """The first cells of all rows."""
    cells = "[...document.querySelectorAll('td:first-child')].map((cell) => cell.innerText)"
    return list(page.run(f"return {cells};"))


def row_of(page: Page, label: str) -> WebElement:
    """The row of a key that has used nothing, once it is there."""
    rows: list[WebElement] = page.until(lambda: rows_of(page, label), what=f"no key {label!r}")
    (row,) = rows
    return row


def test_a_key_is_asked_for_once_and_its_files_are_shown(page: Page, keyed: Keyed) -> None:
    """Nobody but the owner of the key reads the picture, the video and the thumbnail."""
    page.open()
    page.reads(LEAD)
    assert not page.all(".playground") and serious(page) == []
    assert page.complaints() == []

    sign_in(page, keyed.key("laptop"))
    page.one(".playground")
    page.give("drop", "a.png", "image/png", picture())
    page.write("prompt", "a red car; playable")
    page.click("Make a video")
    page.plays()
    page.open("/#/history")
    shown = "return document.querySelector('.made img')?.naturalWidth"
    page.until(lambda: page.run(shown) == 48, what="there is no thumbnail")
    page.driver.refresh()
    page.reads("a red car")

    page.click("Sign out")
    page.reads(LEAD)
    page.driver.refresh()
    page.reads(LEAD)


def test_a_wrong_key_is_told_so(page: Page, keyed: Keyed) -> None:
    page.allowed = [REFUSED]
    page.open()
    for wrong in ("me:wrong", "not even a key"):
        sign_in(page, wrong)
        page.reads(WRONG)
        assert page.one("input[name=key]").get_attribute("aria-invalid") == "true"
    assert not page.all(".playground")
    sign_in(page, keyed.key("right"))
    page.one(".playground")


def test_a_key_that_is_revoked_is_asked_for_again(page: Page, keyed: Keyed) -> None:
    page.allowed = [REFUSED, CUT_OFF]
    key = keyed.key("borrowed")
    page.open()
    sign_in(page, key)
    page.click("Text to video")
    page.write("prompt", "a red car; wait")
    page.click("Make a video")
    page.reads("Running")

    keyed.revoke(key)
    page.reads(ENDED)
    assert not page.all(".playground")
    sign_in(page, key)
    page.reads(WRONG)
    # What was written is there for the next key, and the run of the other one is not.
    sign_in(page, keyed.operator)
    assert page.one("#field-prompt").get_attribute("value") == "a red car; wait"
    page.reads("The server no longer has this request.")
    page.open("/#/operator")
    page.click("Cancel")
    page.click("Really cancel?")
    page.reads("Nothing runs, and nothing waits.")


def test_operators_make_and_revoke_keys(page: Page, keyed: Keyed) -> None:
    page.allowed = [REFUSED]
    keyed.key("limited", running_limit=2, submits_per_minute=7)
    page.open()
    sign_in(page, keyed.operator)
    page.open("/#/operator")
    assert "2 running, 7 a minute" in row_of(page, "limited").text
    # Operators' own keys are for the command line.
    assert "operator" not in labels(page)

    page.one("input[name=alias]").send_keys("phone")
    page.click("Make a key")
    key = page.one(".notice code").text
    assert "those of all keys" in row_of(page, "phone").text
    assert keyed.answer(key) == 404
    page.one("input[name=alias]").send_keys("phone")
    page.click("Make a key")
    page.until(lambda: "alias: " in page.words, what="the second key of that name is not refused")

    for words in ("Revoke", "Really revoke?"):
        button = row_of(page, "phone").find_element("tag name", "button")
        assert button.text == words
        button.click()
    page.until(lambda: "phone" not in labels(page), what="the key is listed still")
    page.until(lambda: keyed.answer(key) == 401, what="the key is good still")


def test_operators_see_what_each_key_costs(page: Page, keyed: Keyed) -> None:
    spender = keyed.key("spender")
    for _ in range(2):
        body = {"prompt": "a car", "num_inference_steps": 1}
        made = httpx.post(f"{keyed.url}/run/{TEXT}", json=body, headers=by_key(spender))
        assert made.status_code == 200
    page.open()
    sign_in(page, keyed.operator)
    page.one("nav a[href='#/operator']").click()
    page.until(lambda: any("$0.50" in row.text for row in rows_of(page, "spender")))


def test_who_is_no_operator_is_told_so(page: Page, keyed: Keyed) -> None:
    page.allowed = [REFUSED]
    page.open()
    sign_in(page, keyed.key("caller"))
    page.one(".playground")
    assert [link.text for link in page.all("nav a")] == ["Playground", "History"]
    page.open("/#/operator")
    page.reads("This key may not operate the server: that takes the scope admin.")
    assert not page.all("table")


SITE = """
server {
    listen 127.0.0.1:PORT;
    location /cosmos/ {
        proxy_pass SERVER/;
        proxy_set_header Host $http_host;
        proxy_buffering off;
    }
}
"""


@pytest.fixture
def behind_a_prefix(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with a key, behind nginx, which has nothing but that under `/cosmos`."""
    port, program = free_port(), needed_program("nginx")
    url = f"http://127.0.0.1:{port}/cosmos"
    running = start_server(tmp_path, COSMOS_KEY="me:s3cret", COSMOS_PUBLIC_URL=url)
    (tmp_path / "nginx.conf").write_text(NGINX.replace("FOLDER", str(tmp_path)))
    site = SITE.replace("PORT", str(port)).replace("SERVER", running.http)
    (tmp_path / "site.conf").write_text(site)
    with subprocess.Popen([program, "-p", tmp_path, "-c", tmp_path / "nginx.conf"]) as nginx:
        try:
            with httpx.Client(base_url=url) as client:
                while not serves(client):
                    assert nginx.poll() is None, "nginx ended"
                    time.sleep(0.02)
            yield url
        finally:
            nginx.terminate()
    assert running.end() == 0


def test_behind_a_prefix_all_is_asked_for_under_it(
    browser: webdriver.Chrome, behind_a_prefix: str
) -> None:
    with visiting(browser, behind_a_prefix) as page:
        page.open()
        sign_in(page, "me:s3cret")
        page.give("drop", "a.png", "image/png", picture())
        page.write("prompt", "a red car; playable")
        page.click("Make a video")
        page.plays()
        page.click("History")
        page.reads("a red car")
