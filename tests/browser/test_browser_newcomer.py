"""From opening the page to a video that is played, with the stand-in in place of the model."""

from pathlib import Path

import pytest
from browsers import visiting
from paths import SAMPLE
from selenium import webdriver
from servers import start_server
from stand_ins import stand_in

from server.config.setting_types import DEFAULT_WORKER

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_newcomer_gets_a_video_of_a_picture(browser: webdriver.Chrome, tmp_path: Path) -> None:
    weights = str(stand_in())
    server = start_server(tmp_path, "--weights", weights, COSMOS_WORKER=DEFAULT_WORKER)
    with visiting(browser, server.http) as page:
        page.open()
        page.choose(SAMPLE)
        page.write("prompt", "The camera pans right.")
        page.click("Additional settings")
        page.write("num_frames", "9")
        page.write("num_inference_steps", "4")
        page.click("Make a video")

        page.plays(within=200)
        page.reads("9 frames at 16 a second")
        page.click("Raw JSON")
        page.reads('"seed"')
    assert server.end() == 0
