"""What was made before, and what operators see and do, in a real browser."""

from functools import partial

import httpx
import pytest
from browsers import Page
from servers import APP

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ENDPOINT = f"{APP}/text-to-video"


def ask_for(page: Page, prompt: str, count: int = 1, **fields: object) -> list[str]:
    """Ask for videos as another client does; the ids of the requests."""
    body = {"prompt": prompt, "num_inference_steps": 1, **fields}
    return [
        httpx.post(f"{page.url}/queue/{ENDPOINT}", json=body).json()["request_id"]
        for _ in range(count)
    ]


def made(page: Page, prompt: str, count: int = 1, **fields: object) -> list[str]:
    """The same, once they are done."""
    ids = ask_for(page, prompt, count, **fields)
    for id_ in ids:
        page.until(partial(is_done, page, id_))
    return ids


def is_done(page: Page, id_: str) -> bool:
    status = httpx.get(f"{page.url}/queue/{APP}/requests/{id_}/status")
    return bool(status.json()["status"] == "COMPLETED")


def is_gone(page: Page, words: str) -> bool:
    return words not in page.words


def choose(page: Page, label: str, option: str) -> None:
    """Choose an option of the list that has this label."""
    page.driver.find_element(
        "xpath", f"//label[span='{label}']//option[normalize-space()='{option}']"
    ).click()


def prompts(page: Page) -> list[str]:
    return [each.text for each in page.all(".made .prompt")]


def test_what_was_made_is_opened_and_run_again(page: Page) -> None:
    made(page, "a green car; playable", seed=4711)
    page.open("/#/history")
    page.reads("a green car")
    shown = "return document.querySelector('.made img')?.naturalWidth"
    page.until(lambda: page.run(shown) == 48, what="there is no thumbnail")

    page.click("Run again")
    page.until(lambda: page.one("#field-prompt").get_attribute("value") == "a green car; playable")
    page.click("Additional settings")
    assert page.one("#field-seed").get_attribute("value") == "4711"

    page.open("/#/history")
    page.click("Open")
    page.plays()
    page.click("Run again with changes")
    page.until(lambda: page.one("#field-prompt").get_attribute("value") == "a green car; playable")


def test_it_is_filtered_by_endpoint_and_outcome(page: Page) -> None:
    made(page, "a yellow car")
    made(page, "never made", num_frames=1)
    page.open("/#/history")
    page.reads("a yellow car")

    choose(page, "Outcome", "Refused")
    page.until(lambda: prompts(page) and "a yellow car" not in prompts(page))
    assert {each.text for each in page.all(".made .state")} == {"Refused"}
    choose(page, "Outcome", "Succeeded")
    page.until(lambda: "a yellow car" in prompts(page))
    choose(page, "Endpoint", "Video to video")
    page.reads("There is nothing here yet.")


def test_it_comes_a_page_at_a_time(page: Page) -> None:
    made(page, "one of many", 26)
    page.open("/#/history")
    page.until(lambda: len(prompts(page)) == 24)
    page.click("Show more")
    page.until(lambda: len(prompts(page)) >= 26)


def test_what_is_deleted_is_gone(page: Page) -> None:
    (id_,) = made(page, "an embarrassing car")
    page.open("/#/history")
    page.reads("an embarrassing car")
    page.click("Delete")
    page.click("Really delete")
    page.reads("What was asked is no longer kept.")

    assert "an embarrassing car" not in page.words
    assert httpx.get(f"{page.url}/queue/{APP}/requests/{id_}").status_code == 404


def test_operators_pause_the_queue_and_resume_it(page: Page) -> None:
    page.open("/#/operator")
    page.click("Pause")
    page.reads("Paused since")
    assert httpx.get(f"{page.url}/admin/queue").json()["paused"] is True
    page.click("Resume")
    page.until(lambda: "Paused since" not in page.words)
    assert httpx.get(f"{page.url}/admin/queue").json()["paused"] is False


def test_operators_see_what_runs_and_cancel_it(page: Page) -> None:
    ids = ask_for(page, "wait 1", 2)
    page.open("/#/operator")
    page.reads(ids[0][:8])
    page.reads("step 1 of 1")
    page.reads(" s a step")
    for heading in ("Memory plan", "Backend", "Checkpoint", "Priority"):
        assert heading in page.words
    page.reads("scripted cpu")
    page.reads("d1d1d1d1d1d1")

    for id_ in ids:
        page.click("Cancel")
        page.click("Really cancel?")
        page.until(partial(is_gone, page, id_[:8]), what="it is not cancelled")
    page.reads("Nothing runs, and nothing waits.")


def test_operators_have_the_machine_examined(page: Page) -> None:
    page.open("/#/operator")
    page.click("Examine the machine")
    page.until(lambda: "What the doctor says" in page.words, within=120)
    assert len(page.all("section:first-of-type tbody tr")) > 5


def test_operators_see_what_was_used(page: Page) -> None:
    made(page, "a car")
    page.open("/#/operator")
    page.until(lambda: page.all(".chart canvas"))
    page.reads("no key")
    page.reads("Text to video")
    page.reads("Seconds of each stage")
