"""First, middle and last frame of videos in one picture, a row for each.

python -m benchmarks.contact_sheet OUT.png --row VIDEO CAPTION [--row VIDEO CAPTION ...]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

_GAP, _CAPTION = 8, 24
"""Pixels between frames, and for a line of text."""


def sheet(rows: Sequence[tuple[Path, str]]) -> Image.Image:
    """The picture. The videos must have one size."""
    pictures = [(caption, first_middle_last(video)) for video, caption in rows]
    width, height = pictures[0][1][0][1].size
    row_height = _CAPTION + height + _GAP
    page = Image.new("RGB", (3 * (width + _GAP) + _GAP, len(rows) * row_height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=15)
    for row, (caption, frames) in enumerate(pictures):
        top = row * row_height
        draw.text((_GAP, top + 3), caption, "black", font)
        for column, (number, frame) in enumerate(frames):
            left = _GAP + column * (width + _GAP)
            page.paste(frame, (left, top + _CAPTION))
            if column:
                label = f"frame {number}"
                place = (left + width - draw.textlength(label, font), top + 3)
                draw.text(place, label, "grey", font)
    return page


def first_middle_last(video: Path) -> list[tuple[int, Image.Image]]:
    """Three frames with their numbers, counted from 1."""
    with av.open(str(video)) as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    numbers = (0, len(frames) // 2, len(frames) - 1)
    return [(number + 1, Image.fromarray(frames[number])) for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description="Put frames of videos into one picture.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", nargs=2, action="append", metavar=("VIDEO", "CAPTION"))
    options = parser.parse_args()
    sheet([(Path(video), caption) for video, caption in options.row]).save(options.out)


if __name__ == "__main__":
    main()
