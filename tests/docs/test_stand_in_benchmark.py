"""How the stand-in's moves are measured, and the contact sheets of videos."""

import json
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from PIL.ImageFilter import GaussianBlur
from stand_ins import stand_in

from benchmarks.contact_sheet import sheet
from benchmarks.motion import grey, shift
from benchmarks.stand_in import cases, run
from benchmarks.stand_in_report import NEAR_PX, PAGE, RESULTS, page_text
from pipeline.encode import encode_video
from pipeline.spec import Container, Quality
from weights.store import WeightStore


@pytest.mark.slow
def test_the_benchmark_of_the_stand_in_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    out = tmp_path / "stand-in.json"
    weights = stand_in(width=160, height=96, weights="moving")
    for number in (1, 2):
        report = run(weights, out, limit=1)
        assert json.loads(out.read_text()) == report
        assert len(report["cases"]) == number
        assert all(case["off_px"] <= NEAR_PX for case in report["cases"].values())
    assert page_text(report).count("| 1 of 1 |") == 2


def test_cases_of_two_devices_do_not_meet_in_one_file(tmp_path: Path) -> None:
    out, weights = tmp_path / "stand-in.json", stand_in(weights="moving")
    checkpoint = WeightStore(weights).fingerprint("text_encoder", "transformer", "vae")
    out.write_text(json.dumps({"checkpoint": checkpoint, "device": "cpu", "cases": {}}))
    with pytest.raises(SystemExit, match="is of cpu, not cuda:0: name another with --out"):
        run(weights, out, limit=1, device="cuda:0")


@pytest.mark.parametrize("moved", [(0, 0), (16, 0), (-8, 0), (0, 4), (3, -5)])
@pytest.mark.parametrize("photograph", ["life", "china", "flower"])
def test_the_shift_of_a_picture_is_found(photograph: str, moved: tuple[int, int]) -> None:
    with Image.open(ROOT / "benchmarks" / "photographs" / f"{photograph}.png") as image:
        whole = grey(np.asarray(image.convert("RGB")))
    x, y = moved
    before, after = whole[32:128, 32:192], whole[32 - y : 128 - y, 32 - x : 192 - x]
    assert shift(before, after) == moved


@pytest.mark.parametrize("photograph", ["life", "china", "friends"])
def test_the_shift_of_a_soft_picture_is_found_though_its_cells_show(photograph: str) -> None:
    """Halfway between two cells a picture is soft, and what is faint in it has not moved."""
    with Image.open(ROOT / "benchmarks" / "photographs" / f"{photograph}.png") as image:
        whole = grey(np.asarray(image.convert("RGB")))
        soft = grey(np.asarray(image.convert("RGB").filter(GaussianBlur(1.5))))
    before, after = whole[32:128, 32:192], soft[28:124, 32:192]
    faint = 0.1 * (whole - soft)[32:128, 32:192]
    assert shift(before, after + faint) == (0, 4)


def test_a_contact_sheet_has_the_first_the_middle_and_the_last_frame(tmp_path: Path) -> None:
    levels = [40, 40, 120, 40, 200]
    frames = [np.full((64, 96, 3), level, np.uint8) for level in levels]
    video = tmp_path / "made.mp4"
    encode_video(
        iter(frames),
        Container.X264,
        Quality.HIGH,
        width=96,
        height=64,
        num_frames=len(frames),
        out=video,
        check=lambda: None,
    )
    page = grey(np.asarray(sheet([(video, "Grey."), (video, "Again.")])))
    for middle in (24 + 32, 24 + 64 + 8 + 24 + 32):
        row = page[middle]
        assert [row[8 + 48 + column * 104] for column in range(3)] == pytest.approx(
            [40, 120, 200], abs=3
        )


def test_the_page_has_the_table_of_the_last_run_that_was_kept() -> None:
    report = json.loads(RESULTS.read_text())
    assert page_text(report) in PAGE.read_text()
    assert report["cases"].keys() == {case.name for case in cases()}
    assert all(case.get("off_px", 0) <= NEAR_PX for case in report["cases"].values())


def test_the_page_has_the_seconds_that_were_measured() -> None:
    def seconds(name: str) -> list[str]:
        report = json.loads((RESULTS.parent / name).read_text())
        return [f"{sum(run['seconds'].values()):.1f}" for run in report["runs"]]

    page = " ".join(PAGE.read_text().split())
    first, *warm = seconds("stages-cpu.json")
    least, most = sorted(warm, key=float)
    assert f"two, {least} and {most}; the first one {first})" in page
    (longest,) = seconds("stages-cpu-93.json")
    assert f"93 frames {longest} s (one run)" in page
    served = json.loads((RESULTS.parent / "served-stand-in-cpu.json").read_text())["videos"]
    assert f"the first video of 25 frames took {served[0]['fetched_s']:.1f} s" in page
    assert served[0]["fetched_s"] <= 35
