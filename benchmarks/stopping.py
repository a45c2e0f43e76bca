"""How long a server takes to end on SIGTERM: idle, and with a video that is being made.

    python -m benchmarks.stopping --weights DIR [--runs N] [--page docs/operating.md]

The server is started as a user starts it, with the real worker on the CPU and the default drain.
"""

import argparse
import base64
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import describe
from server.config.settings import Settings

RESULTS = Path(__file__).with_name("results") / "stopping.json"
COMMAND = Path(sys.executable).with_name("cosmos-serve")
PICTURE = Path(__file__).parent.parent / "docs" / "sample" / "launch.jpg"
ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
SHOWN = {
    "idle": "idle",
    "while it loads": "while the model is loaded",
    "busy": "with a video that is not ready by then",
}

_TABLE = re.compile(r"(<!-- stopping -->\n).*?(<!-- end of stopping -->)", re.DOTALL)


@contextmanager
def _server(weights: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that listens, and its URL."""
    with tempfile.TemporaryDirectory() as data:
        folders = ["--weights", str(weights), "--data", data]
        command = [str(COMMAND), "serve", *folders, "--devices", "cpu", "--port", "0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        with process.stdout as printed:
            try:
                (url,) = re.findall(r"http://[^\s,]+", printed.readline())
                yield process, url
            finally:
                process.kill()
                process.wait()


def _until_ready(url: str) -> None:
    while httpx.get(f"{url}/health/ready").status_code != httpx.codes.OK:
        time.sleep(0.1)


def _begin_video(url: str) -> None:
    """Begin a video that takes minutes, and wait for its first step."""
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    request = {"prompt": "A rocket lifts off.", "image_url": f"data:image/jpeg;base64,{picture}"}
    job = httpx.post(f"{url}/queue/{ENDPOINT}", json=request).raise_for_status().json()
    while "Step 1 of" not in httpx.get(job["status_url"], params={"logs": "1"}).text:
        time.sleep(0.1)


def _seconds(weights: Path, case: str) -> float:
    with _server(weights) as (process, url):
        if case != "while it loads":
            _until_ready(url)
        if case == "busy":
            _begin_video(url)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        assert code == 0, f"the server ended with {code}"
        return round(time.monotonic() - started, 2)


def page_text(page: str, report: dict[str, Any]) -> str:
    """The page with the report's table."""
    rows = "".join(
        f"| {shown} | {min(times):.1f} to {max(times):.1f} s |\n"
        for name, shown in SHOWN.items()
        for times in [report["seconds"][name]]
    )
    cores = report["machine"]["cores"]
    runs = len(report["seconds"]["idle"])
    text = (
        f"Measured with the stand-in on {cores} CPU cores, {runs} runs each, with the default "
        f"drain of {report['drain']:g} s\n(`benchmarks/results/stopping.json`, made by `python -m "
        "benchmarks.stopping`):\n\n| from SIGTERM to the end | |\n|---|--:|\n"
    )
    return _TABLE.sub(lambda found: found[1] + text + rows + found[2], page)


def main() -> None:
    """Measure, save, and put the table into a page, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a stand-in")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="a page to put the table into")
    options = parser.parse_args()
    drain = Settings.model_fields["drain_seconds"].default
    report: dict[str, Any] = describe() | {"drain": drain, "seconds": {}}
    for case in SHOWN:
        report["seconds"][case] = [_seconds(options.weights, case) for _ in range(options.runs)]
        print(case, report["seconds"][case], flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    if options.page is not None:
        options.page.write_text(page_text(options.page.read_text(), report))


if __name__ == "__main__":
    main()
