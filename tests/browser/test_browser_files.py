"""The field of files in a real browser: dropped, pasted, chosen, cropped, wrong, and hostile."""

import io
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from browsers import Page
from clips import clip
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from servers import picture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" onload="document.title='hit'"/>"""
HTML = b"<!doctype html><script>document.title='hit'</script>"
SCRIPT = b"document.title = 'hit';"
HOSTILE = "<img src=x onerror=\"document.title='hit'\">.png"


def two_halves() -> bytes:
    """A picture twice as wide as the video: red on the left, blue on the right."""
    file = io.BytesIO()
    image = Image.new("RGB", (384, 128), "red")
    image.paste("blue", (192, 0, 384, 128))
    image.save(file, "PNG")
    return file.getvalue()


def sent_url(page: Page) -> str:
    """The URL of the file in the request, once it was uploaded."""
    page.click("JSON")

    def found() -> re.Match[str] | None:
        written = page.one("#json-input").get_attribute("value") or ""
        return re.search(r'"(?:image|video)_url": "([^"]+)"', written)

    match: re.Match[str] = page.until(found, what="no file was uploaded")
    return match[1]


def uploaded(page: Page, name: str, content_type: str, data: bytes) -> str:
    """The URL of a file that another client has uploaded."""
    started = httpx.post(
        f"{page.url}/rest/storage/upload/initiate",
        json={"file_name": name, "content_type": content_type},
    ).json()
    httpx.put(started["upload_url"], content=data, headers={"content-type": content_type})
    return str(started["file_url"])


def shown(page: Page) -> bool:
    """Whether the browser has decoded the picture of the field."""
    return bool(page.run("return document.querySelector('.drop img')?.naturalWidth > 0"))


def has_size(page: Page, css: str, width: int, height: int) -> bool:
    """Whether the browser has decoded a picture of that size there."""
    size = "const { naturalWidth, naturalHeight } = document.querySelector(arguments[0]) ?? {};"
    found = page.run(f"{size} return [naturalWidth, naturalHeight];", css)
    return bool(found == [width, height])


@pytest.mark.parametrize("how", ["drop", "paste", "choose"])
def test_a_picture_is_sent_as_it_is(page: Page, how: str, tmp_path: Path) -> None:
    data = picture(300, 200)
    page.open()
    if how == "choose":
        path = tmp_path / "a picture.png"
        path.write_bytes(data)
        page.choose(path)
    else:
        page.give(how, "a picture.png", "image/png", data)
    page.reads("a picture.png")
    page.until(lambda: shown(page), what="the picture is not shown")

    url = sent_url(page)

    assert url.endswith("/a%20picture.png")
    assert httpx.get(url).content == data


def test_a_picture_becomes_a_video(page: Page) -> None:
    page.open()
    page.give("drop", "a.png", "image/png", picture())
    page.write("prompt", "a red car")
    page.click("Make a video")
    page.reads("Done")


@pytest.mark.parametrize(
    ("keys", "colour"), [(Keys.ARROW_LEFT, (255, 0, 0)), (Keys.ARROW_RIGHT, (0, 0, 255))]
)
def test_the_part_that_is_kept_is_chosen_by_keys(
    page: Page, keys: str, colour: tuple[int, int, int]
) -> None:
    page.open()
    page.give("drop", "halves.png", "image/png", two_halves())
    slider = page.one("[role=slider]")
    assert slider.get_attribute("aria-valuenow") == "50"
    slider.send_keys(keys * 30)
    page.reads("Cropped to 96×64")  # noqa: RUF001 - as it is on the page

    image = Image.open(io.BytesIO(httpx.get(sent_url(page)).content))

    assert image.size == (192, 128)
    assert [image.convert("RGB").getpixel((x, 64)) for x in (2, 189)] == [colour, colour]


def test_the_part_that_is_kept_is_chosen_by_a_drag(page: Page) -> None:
    page.open()
    page.give("drop", "halves.png", "image/png", two_halves())
    slider = page.one("[role=slider]")
    ActionChains(page.driver).click_and_hold(slider).move_by_offset(150, 0).release().perform()

    moved = int(page.one("[role=slider]").get_attribute("aria-valuenow") or "")
    assert 0 < moved < 40


def test_a_clip_is_shown_and_sent(page: Page) -> None:
    page.open()
    page.click("Video to video")
    page.give("drop", "clip.mp4", "video/mp4", clip())
    page.until(lambda: page.run("return document.querySelector('.drop video')?.readyState >= 2"))
    assert httpx.get(sent_url(page)).content == clip()


def test_where_a_picture_or_a_clip_will_do_each_goes_to_its_field(page: Page) -> None:
    page.open()
    page.click("Extend video")
    page.until(lambda: len(page.all(".drop")) == 2)
    page.give("paste", "clip.mp4", "video/mp4", clip())
    page.reads("clip.mp4")
    assert page.all(".drop.chosen video") and not page.all(".problem")
    page.write("prompt", "a red car")
    page.click("Additional settings")
    page.one("#field-overlap option:first-child").click()
    page.click("Make a video")
    page.reads("Done")


@pytest.mark.parametrize(
    ("name", "content_type", "data", "answer"),
    [
        ("notes.txt", "text/plain", b"hello", "notes.txt is not a picture."),
        ("page.html", "text/html", HTML, "page.html is not a picture."),
        ("drawing.svg", "image/svg+xml", SVG, "drawing.svg is not a picture."),
        ("nothing.png", "image/png", b"", "nothing.png is empty."),
    ],
)
def test_a_wrong_file_is_refused_in_words(
    page: Page, name: str, content_type: str, data: bytes, answer: str
) -> None:
    page.open()
    page.give("drop", name, content_type, data)
    page.reads(answer)
    assert page.driver.title != "hit"


def test_what_only_says_that_it_is_a_picture_is_refused_by_the_server(page: Page) -> None:
    page.allowed = ["the server responded with a status of"]
    page.open()
    page.give("drop", "page.png", "image/png", HTML)
    page.reads("This browser cannot show it.")
    page.write("prompt", "a red car")
    page.click("Make a video")
    page.reads("Failed")
    assert page.driver.title != "hit"


def test_a_name_with_markup_is_a_text(page: Page) -> None:
    page.open()
    page.give("drop", HOSTILE, "image/png", picture())
    page.reads(HOSTILE)
    page.write("prompt", "a red car")
    page.click("Make a video")
    page.reads("Done")
    assert page.driver.title != "hit" and not page.all("img[src=x]")


@pytest.mark.parametrize(
    "name",
    ["<script src=x onerror=document.title='hit'>.mp4", "javascript:document.title='hit'.mp4"],
)
def test_a_clip_that_is_named_like_a_script_is_a_clip(page: Page, name: str) -> None:
    page.open()
    page.click("Video to video")
    page.give("drop", name, "video/mp4", clip())
    page.reads(name)
    page.until(lambda: page.run("return document.querySelector('.drop video')?.readyState >= 2"))
    page.write("prompt", "a red car")
    page.click("Make a video")
    page.reads("Done")
    page.open("/#/history")
    page.reads("a red car")
    assert page.driver.title != "hit" and not page.all("script[src=x]")


def test_a_url_that_is_a_script_is_a_text(page: Page) -> None:
    page.allowed = ["the server responded with a status of"]
    page.open()
    page.click("Video to video")
    page.click("JSON")
    editor = page.one("#json-input")
    editor.clear()
    editor.send_keys(
        json.dumps({"prompt": "a car", "video_url": "javascript:document.title='hit'"})
    )
    page.click("Form")
    page.reads("javascript:document.title='hit'")
    assert not page.all("[src^=javascript], [href^=javascript]")
    page.click("Make a video")
    page.reads("Failed")
    assert page.driver.title != "hit"


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("clip.mp4", "video/mp4"), ("clip.js", "video/mp4"), ("clip.mp4.js", "text/javascript")],
)
def test_an_upload_is_no_script_of_this_page(page: Page, name: str, content_type: str) -> None:
    """Its origin is the page's own, whose scripts may run."""
    page.allowed = ["Failed to load module script", "MIME type"]
    url = uploaded(page, name, content_type, SCRIPT)
    page.open()

    loading = """
      const [url, done] = arguments;
      import(url).then(() => done("it ran"), () => done("refused"));
    """
    assert page.driver.execute_async_script(loading, url) == "refused"
    assert page.driver.title != "hit"
    assert page.complaints() == []


class _Elsewhere(BaseHTTPRequestHandler):
    """Another server, which has a picture."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(two_halves())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/picture"
        server.shutdown()
        thread.join()


def test_a_picture_that_is_named_by_its_url_is_shown_once_it_is_prepared(
    page: Page, elsewhere: str
) -> None:
    page.allowed = ["the server responded with a status of"]
    page.open()
    page.one("input[type=url]").send_keys(elsewhere, Keys.TAB)
    page.reads("The server fetches it; this page does not open it.")
    page.write("prompt", "a red car; wait")
    page.click("Make a video")

    page.reads("As the server has cropped it for 96×64")  # noqa: RUF001 - as it is on the page
    for place in (".drop .stage img", ".run .stage img"):
        page.until(partial(has_size, page, place, 96, 64), what=f"nothing is shown in {place}")
    page.click("Cancel")
    page.reads("Cancelled")


def test_a_url_is_named_and_never_opened(page: Page) -> None:
    """That no other origin is asked is looked at after every test."""
    page.open()
    page.one("input[type=url]").send_keys("https://example.com/a.png", Keys.TAB)
    page.reads("The server fetches it; this page does not open it.")
    assert sent_url(page) == "https://example.com/a.png"
    page.click("Form")
    page.click("Remove")
    page.reads("Drop a picture here")


def test_an_upload_of_html_is_not_a_page_of_this_server(page: Page) -> None:
    url = uploaded(page, "video.mp4.html", "text/html", HTML)
    page.open()

    page.run("location.href = arguments[0]", url)

    # It is a download, so the page stays.
    assert page.one("main") and page.driver.title != "hit"
    assert json.dumps(page.driver.current_url).startswith(f'"{page.url}/')
