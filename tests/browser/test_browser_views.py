"""Every view for everybody: axe-core finds nothing serious, on a phone and in the dark as well."""

import json
from typing import Any

import pytest
from browsers import DESKTOP, PHONE, Page
from client_programs import not_here
from paths import TESTS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

AXE = TESTS / "browser" / "node_modules" / "axe-core" / "axe.min.js"


def serious(page: Page) -> list[Any]:
    """What axe-core says is serious, with the elements that it says it of."""
    if not AXE.exists():
        not_here("axe-core is not installed: run `make test-browser`.")
    # By the driver, which the page's policy does not stop.
    page.run(AXE.read_text())
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document).then((result) => done(result.violations));"
    )
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def fill(page: Page) -> None:
    """Open the playground with a run that is done and one that was wrong."""
    page.open()
    page.click("Text to video")
    page.write("prompt", "a red car; playable")
    page.click("Make a video")
    page.plays()
    page.click("Additional settings")
    page.click("Raw JSON")
    page.click("Log")
    page.write("num_inference_steps", "99")
    page.click("Make a video")
    page.until(lambda: page.all("[aria-invalid]"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_nothing_serious_is_found(page: Page, size: tuple[int, int], is_dark: bool) -> None:
    page.emulate(dark=is_dark, still=True)
    fill(page)
    page.size(*size)
    found = {"playground": serious(page)}
    for tab in ("JSON", "Code"):
        page.click(tab)
        found[tab] = serious(page)
    page.click("Image to video")
    page.one(".drop")
    found["image"] = serious(page)
    for view in ("history", "operator"):
        page.open(f"/#/{view}")
        page.reads({"history": "a red car", "operator": "GPU-seconds"}[view])
        found[view] = serious(page)
    assert {view: problems for view, problems in found.items() if problems} == {}


@pytest.mark.parametrize("view", ["playground", "history", "operator"])
def test_nothing_is_wider_than_a_phone(page: Page, view: str) -> None:
    fill(page)
    page.size(*PHONE)
    page.open(f"/#/{view}")
    page.until(lambda: page.all("h1"))
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]


def test_a_run_that_begins_comes_into_view_on_a_phone(page: Page) -> None:
    page.size(*PHONE)
    page.open()
    page.click("Text to video")
    page.write("prompt", "a red car; playable")
    page.click("Additional settings")
    page.click("Make a video")

    page.plays()
    top, bottom = page.run(
        "const { top, bottom } = document.querySelector('.run video').getBoundingClientRect();"
        "return [top, bottom];"
    )
    assert 0 <= top < bottom <= PHONE[1]


def test_who_wants_no_motion_sees_none(page: Page) -> None:
    page.emulate(still=True)
    page.open()
    moving = page.run(
        "return document.getAnimations().filter((each) => each.playState === 'running').length"
    )
    assert moving == 0


def test_the_first_stop_of_the_keyboard_leads_past_the_navigation(page: Page) -> None:
    page.open()
    page.run("document.querySelector('.skip').focus()")
    page.driver.switch_to.active_element.click()
    assert page.driver.switch_to.active_element.get_attribute("id") == "content"
    assert page.run("return location.hash") == ""


def test_the_page_asks_for_nothing_before_a_view_needs_it(page: Page) -> None:
    page.open()
    names = json.dumps(page.run("return performance.getEntriesByType('resource').map(e => e.name)"))
    assert "main.js" in names and "uplot.js" not in names and "operator.js" not in names
