"""Modules of the page that compute, run in the browser that they are for."""

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browsers import Page
from client_programs import not_here, run_python, run_shell
from client_servers import ClientServer
from paths import ROOT, TESTS
from servers import APP

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def computed(page: Page, module: str, code: str) -> Any:
    """What the code gives with the names of a module of the page."""
    page.open()
    script = f"""
      const done = arguments[arguments.length - 1];
      import(new URL("page/{module}.js", document.baseURI)).then((names) => {{
        done((({{ {_names(module)} }}) => {{ {code} }})(names));
      }}).catch((error) => done(String(error)));
    """
    return page.driver.execute_async_script(script)


def _names(module: str) -> str:
    names = {
        "time_left": "TimeLeft",
        "prometheus": "stageBuckets, percentile",
        "file_pick": "cropOf",
        "code_samples": "codeSamples",
        "strings": "duration, countdown, size",
    }
    return names[module]


def test_the_time_that_is_left_does_not_jump(page: Page) -> None:
    """A slow step moves it by a part, and all others by what has passed."""
    code = """
      let now = 0;
      const left = new TimeLeft(() => now);
      const told = [];
      for (let step = 1; step <= 30; step += 1) {
        now += step === 15 ? 6000 : 1000;
        left.see({ stage: "denoise", step, num_steps: 30 });
        told.push(left.seconds);
      }
      return told;
    """
    told = computed(page, "time_left", code)

    assert told[0] is None
    assert told[1] == pytest.approx(28)
    assert told[-1] == pytest.approx(0, abs=0.5)
    changes = [after - before for before, after in pairwise(told[1:])]
    # The slow step takes five seconds more than the others, which are taken over bit by bit.
    assert max(changes) < 0.1
    assert min(changes) >= -5


def test_percentiles_are_read_from_a_histogram(page: Page) -> None:
    code = r"""
      const metrics = [
        '# TYPE cosmos_stage_seconds histogram',
        'cosmos_stage_seconds_bucket{le="1.0",stage="text"} 0.0',
        'cosmos_stage_seconds_bucket{le="2.0",stage="text"} 4.0',
        'cosmos_stage_seconds_bucket{le="4.0",stage="text"} 8.0',
        'cosmos_stage_seconds_bucket{le="+Inf",stage="text"} 8.0',
        'cosmos_stage_seconds_bucket{le="+Inf",stage="image"} 0.0',
      ].join("\n");
      const stages = stageBuckets(metrics);
      return [Object.keys(stages), percentile(stages.text, 0.25), percentile(stages.text, 0.75)];
    """
    assert computed(page, "prometheus", code) == [["text"], 1.5, 3]


@pytest.mark.parametrize(
    ("picture", "part", "kept"),
    [
        ((1280, 704), 0.5, (0, 0, 1280, 704)),
        ((2560, 704), 0, (0, 0, 1280, 704)),
        ((2560, 704), 1, (1280, 0, 1280, 704)),
        ((640, 704), 0.5, (0, 176, 640, 352)),
    ],
)
def test_what_is_kept_of_a_picture_covers_the_video(
    page: Page, picture: tuple[int, int], part: float, kept: tuple[int, int, int, int]
) -> None:
    width, height = picture
    code = f"""
      const picture = {{ width: {width}, height: {height} }};
      const kept = cropOf(picture, {{ width: 1280, height: 704 }}, {part});
      return [kept.x, kept.y, kept.width, kept.height];
    """
    assert computed(page, "file_pick", code) == list(kept)


def test_numbers_are_told_in_words(page: Page) -> None:
    code = """
      return [...[4.21, 48, 125, 11400].map(duration), size(4404019), size(900)];
    """
    told = computed(page, "strings", code)
    assert told == ["4.2 s", "48 s", "2 min 5 s", "3 h 10 min", "4.2 MiB", "900 bytes"]


@pytest.mark.parametrize("language", ["python", "curl"])
def test_with_https_and_a_key_the_code_makes_a_video(
    page: Page, client_server: ClientServer, language: str
) -> None:
    code = f"""
      const server = {{ base: "{client_server.https}", needsKey: true }};
      return codeSamples("{APP}/text-to-video", {{ prompt: "a car" }}, server).{language};
    """
    sample = str(computed(page, "code_samples", code))

    known = {name: client_server.python[name] for name in ("FAL_KEY", "SSL_CERT_FILE")}
    if language == "python":
        assert "fal_client" in sample
        printed = run_python(sample, known)[-1]
    else:
        authority = known["SSL_CERT_FILE"]
        printed = run_shell(sample, known | {"CURL_CA_BUNDLE": authority})
    assert f"{client_server.https}/files/" in printed


def test_the_libraries_are_what_their_packages_make(tmp_path: Path) -> None:
    """`make page-vendor` writes them."""
    modules = TESTS / "browser" / "node_modules"
    if not modules.is_dir():
        not_here("The packages are not installed: run `make test-browser`.")
    vendor = ROOT / "server" / "api" / "page" / "vendor"
    made = ["make", "page-vendor", f"PAGE={tmp_path}"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    for path in (tmp_path / "vendor").iterdir():
        assert path.read_bytes() == (vendor / path.name).read_bytes(), path.name
