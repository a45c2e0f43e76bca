"""The playground and a run in a real browser, from a prompt to a video."""

import re
import signal
from base64 import b64encode
from pathlib import Path

import pytest
from browsers import Page, visiting
from client_programs import run_node, run_python, run_shell
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from servers import RunningServer, start_server
from workers import preview_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

REFUSED = "the server responded with a status of"
HOSTILE = """"><img src=x onerror="document.title='hit'"><script>document.title='hit'</script>'"""


def begin(page: Page, prompt: str) -> str:
    """Ask for a video of a prompt in the form; the request's id."""
    page.open()
    page.click("Text to video")
    page.write("prompt", prompt)
    page.click("Make a video")
    return page.one("[data-request]").get_attribute("data-request") or ""


def test_a_prompt_becomes_a_video_that_is_played(page: Page) -> None:
    begin(page, "a red car; playable; sleep 0.1")

    page.reads(" of 35")
    page.reads("left")
    page.plays()
    video = page.one(".run video")
    assert (video.get_attribute("loop"), video.get_attribute("controls")) == ("true", "true")
    page.reads("45 frames at 16 a second")
    page.reads("exact")
    page.reads("scripted cpu")
    page.click("Log")
    page.reads("The script begins.")
    page.click("Raw JSON")
    assert '"content_type": "video/mp4"' in page.words


def test_the_video_can_be_downloaded(page: Page, downloads: Path) -> None:
    begin(page, "a red car; bytes 1234")
    page.click("Download")

    page.until(lambda: [f for f in downloads.glob("video*.mp4") if f.stat().st_size == 1234])


def test_the_form_is_that_of_the_endpoint(page: Page) -> None:
    page.open()
    page.click("Additional settings")
    labels = [
        each.text.split("\n")[0].removesuffix(" required") for each in page.all(".field .label")
    ]
    assert labels == [
        *("Image", "Prompt", "Negative Prompt", "Number of Frames", "Number of Inference Steps"),
        *("Guidance Scale", "Seed", "Sync Mode", "Video Output Type", "Video Quality"),
    ]
    frames = page.one("#field-num_frames")
    assert [frames.get_attribute(name) for name in ("min", "max", "value")] == ["9", "45", "45"]

    page.click("Distilled text to video")
    page.until(lambda: page.one("#field-num_inference_steps").get_attribute("max") == "20")
    assert not page.all("#field-guidance_scale")


def test_what_is_missing_or_out_of_range_is_said_at_its_field(page: Page) -> None:
    page.open()
    page.click("Text to video")
    page.click("Make a video")
    page.reads("Prompt is missing.")
    assert page.driver.switch_to.active_element.get_attribute("id") == "field-prompt"

    page.write("prompt", "a red car")
    page.click("Additional settings")
    page.write("num_inference_steps", "99")
    page.click("Make a video")
    page.until(lambda: page.all("#field-num_inference_steps[aria-invalid]"))
    assert not page.all("[data-request]")


def test_what_the_server_refuses_is_said_at_its_field(page: Page) -> None:
    page.allowed = [REFUSED]
    page.open()
    page.click("Text to video")
    page.click("JSON")
    page.write_json('{"prompt": "a red car", "num_frames": 7}')
    page.click("Make a video")
    page.reads("Failed")

    page.click("Form")
    page.reads("Input should be greater than or equal to 9")


def test_a_seed_is_used_again(page: Page) -> None:
    begin(page, "a red car")
    page.click("Use again")

    page.click("Additional settings")
    seed = page.one("#field-seed").get_attribute("value") or ""
    assert re.fullmatch(r"\d+", seed)
    assert seed in page.one(".facts").text


def test_the_work_and_the_wait_are_told_before_a_request_is_sent(page: Page) -> None:
    page.allowed = [REFUSED]
    begin(page, "a red car")
    page.reads("Done")
    page.reads("of work · starts at once")

    page.write("prompt", "wait 1")
    page.click("Make a video")
    page.reads("Running")
    page.write("prompt", "a blue car")
    page.click("Make a video")
    page.reads("Next in line")
    page.reads("should start at")
    page.write("prompt", "a third car")
    page.reads("one request ahead")

    page.click("Running")
    page.click("Cancel")
    page.until(lambda: "Waiting" not in page.words, what="the second is not made")


def test_a_run_is_cancelled(page: Page) -> None:
    page.allowed = [REFUSED]
    begin(page, "a red car; wait")
    page.reads("Running")
    page.click("Cancel")
    page.reads("Cancelled")
    page.reads("Request cancelled by the client.")


def test_the_latest_preview_is_shown_while_a_run_is_denoised(page: Page) -> None:
    page.allowed = [REFUSED]
    begin(page, "a red car; previews 2; wait 2")
    latest = b64encode(preview_of(2)).decode()
    shown = "return document.querySelector('.run .stage img')?.src"
    page.until(lambda: page.run(shown) == f"data:image/webp;base64,{latest}")
    page.click("Cancel")
    page.reads("Cancelled")


def test_a_run_is_found_again_after_a_reload_and_in_another_tab(page: Page) -> None:
    page.allowed = [REFUSED]
    id_ = begin(page, "a red car; wait")
    page.reads("Running")

    page.open()
    assert page.one("[data-request]").get_attribute("data-request") == id_
    page.reads("Running")

    page.driver.switch_to.new_window("tab")
    page.open(f"/#/run/{id_}")
    page.click("Cancel")
    page.reads("Cancelled")
    page.driver.switch_to.window(page.driver.window_handles[0])
    page.reads("Cancelled")


def test_several_runs_go_on_at_once(page: Page) -> None:
    page.allowed = [REFUSED]
    begin(page, "the first; wait 1")
    page.reads("Running")
    page.write("prompt", "the second")
    page.click("Make a video")
    page.reads("Waiting")

    rows = page.all(".jobs li")
    assert ["the second" in row.text for row in rows] == [True, False]
    page.click("Running")
    page.click("Cancel")
    page.until(lambda: "Done" in page.all(".jobs li")[0].text, what="the second is not made")


def test_json_and_form_follow_each_other(page: Page) -> None:
    page.open()
    page.click("Text to video")
    page.write("prompt", "a red car")
    page.click("JSON")
    editor = page.one("#json-input")
    page.until(lambda: '"prompt": "a red car"' in (editor.get_attribute("value") or ""))

    page.write_json('{"prompt": "a blue car", "num_frames": 20')
    page.reads("This is not JSON")
    editor.send_keys(', "seed": 5}')
    page.click("Form")
    assert page.one("#field-prompt").get_attribute("value") == "a blue car"
    page.click("Additional settings")
    assert page.one("#field-num_frames").get_attribute("value") == "20"
    assert page.one("#field-seed").get_attribute("value") == "5"


@pytest.mark.parametrize("language", ["Python", "JavaScript", "curl"])
def test_the_code_makes_the_video(page: Page, language: str) -> None:
    """With a prompt that means something to each language."""
    page.open()
    page.click("Text to video")
    page.write("prompt", """it's a "$(car)" \\ `{x}`; bytes 99""")
    page.click("Code")
    page.click(language)
    code = str(page.run("return document.querySelector('.code pre').textContent"))

    environment = {"FAL_KEY": "any:key"}
    match language:
        case "Python":
            printed = run_python(code, environment)[-1]
        case "JavaScript":
            printed = run_node(code, environment)[-1]
        case _:
            printed = run_shell(code, environment)
    assert f"{page.url}/files/" in printed


def test_a_prompt_with_markup_is_a_text(page: Page) -> None:
    begin(page, HOSTILE)
    page.reads("Done")

    assert HOSTILE in page.words
    assert not page.all("img[src=x]")
    assert page.driver.title != "hit"


def test_the_form_works_with_the_keyboard_alone(page: Page) -> None:
    page.open()
    first = page.one("[role=tab]")
    first.send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: page.driver.switch_to.active_element.text == "Text to video")
    page.write("prompt", "a red car")
    page.one("#field-prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    page.reads("Done")


def test_a_run_goes_on_when_the_server_comes_back(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    server = start_server(tmp_path)
    port = server.http.rpartition(":")[2]
    with visiting(browser, server.http) as page:
        page.allowed = ["Failed to load resource", "ERR_"]
        begin(page, "a red car; wait once; playable")
        page.reads("Running")
        server.end(signal.SIGKILL)
        page.reads("The run goes on once it is back.")

        server = start_server(tmp_path, "--port", port)
        page.plays()
    assert server.end() == 0


def test_no_answer_is_said_and_tried_again(
    browser: webdriver.Chrome, page_server: RunningServer
) -> None:
    with visiting(browser, page_server.http) as page:
        page.allowed = ["ERR_"]
        page.open()
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd(
            "Network.setBlockedURLs", {"urls": ["*ready.json*", "*/queue/fal-ai/*"]}
        )
        page.click("Text to video")
        page.write("prompt", "a red car")
        page.click("Make a video")
        page.reads("The server does not answer.")
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        page.click("Make a video")
        page.reads("Done")
