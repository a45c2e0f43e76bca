"""What `benchmarks.stand_in` measured, as a table for the terminal and for docs/stand-in.md."""

import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).with_name("results") / "stand-in.json"
PAGE = Path(__file__).parent.parent / "docs" / "stand-in.md"
NEAR_PX = 2
"""A case is right if its picture ends so near to where it was asked to go, on both axes."""
_ON_THE_PAGE = re.compile(
    r"(?<=<!-- made by `make bench-stand-in` -->\n).*(?=<!-- the end of it -->)", re.DOTALL
)


def write_page(report: dict[str, Any], page: Path) -> None:
    """Put the results of a run into the page."""
    page.write_text(_ON_THE_PAGE.sub(lambda _: page_text(report), page.read_text()))


def page_text(report: dict[str, Any]) -> str:
    """What the page says of a run."""
    parts = _by_part(report)
    rows = [
        "| videos | right | furthest off, px | first frame, dB |",
        "| --- | --: | --: | --: |",
        *(_row(name, cases) for name, cases in parts.items() if "off_px" in cases[0]),
    ]
    return "\n".join([*rows, "", *_sentences(report, parts), ""])


def _by_part(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    parts: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in report["cases"].values():
        parts[case["part"]].append(case)
    return {name: parts[name] for name in sorted(parts)}


def _row(name: str, cases: list[dict[str, Any]]) -> str:
    right = sum(case["off_px"] <= NEAR_PX for case in cases)
    furthest = max(case["off_px"] for case in cases)
    first = mean(case["first_frame_db"] for case in cases)
    return f"| {name} | {right} of {len(cases)} | {furthest} | {first:.1f} |"


def _sentences(report: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    trips, machine = report["round_trip_db"].values(), report["machine"]
    lines = [f"- Encoded and decoded, a photograph is at {mean(trips):.1f} dB on average."]
    for name, cases in parts.items():
        if "bits_equal" in cases[0]:
            same = sum(case["bits_equal"] for case in cases)
            levels = mean(case["difference_levels"] for case in cases)
            lines.append(
                f"- {name.capitalize()}: {same} of {len(cases)} videos are equal bit by bit; the "
                f"last frames differ by {levels:.2f} of 255 levels on average."
            )
        elif name == "93 frames held":
            light, contrast = (
                max(abs(case[what][1] - case[what][0]) for case in cases)
                for what in ("mean", "contrast")
            )
            lines.append(
                f"- {name}: the mean changes by {light:.1f} levels at most, the standard deviation "
                f"by {contrast:.1f}."
            )
    wrong = [name for name, case in report["cases"].items() if case.get("off_px", 0) > NEAR_PX]
    if wrong:
        lines.append(f"- Not right: {'; '.join(wrong)}.")
    versions = report["versions"]
    lines.append(
        f"- Commit `{report['commit']}`, {machine['cpu']}, torch {versions['torch']}; "
        "`benchmarks/results/stand-in.json` has every video."
    )
    return lines
