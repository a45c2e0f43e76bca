"""The packets of a video file, as ffmpeg lists them: when the last frames are shown.

Listing takes no decoding, so it tells where decoding has to begin. No ffmpeg is run here.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

LAST_PACKETS = 16
"""Packets from the end that are decoded: some codecs have packets that show no frame."""

_MOST_KEPT = 4096
"""Packets that are remembered; there are more only where a second has thousands."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where decoding begins, and from when on frames are of interest: seconds from the start."""

    key: Fraction
    wanted: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """What the list of packets tells, in seconds from the start.

    `facts` are what ffmpeg says of the stream. `first` is when the first frame is shown, and `end`
    when the last one has been. `shown` are the times of the last packets, in their order: those
    of the last second, and `LAST_PACKETS` at least. `keys` are when key frames among them, and one
    before them, are shown and decoded.
    """

    facts: dict[str, str]
    first: Fraction = Fraction(0)
    end: Fraction = Fraction(0)
    shown: list[Fraction] = field(default_factory=list)
    keys: list[tuple[Fraction, Fraction]] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[bytes]) -> Self:
        """Read what ffmpeg's framecrc writes.

        A line of a packet is `stream, dts, pts, duration, size, checksum`, with `F=0x0` where it
        is no key frame.
        """
        facts: dict[str, str] = {}
        last: deque[tuple[int, int]] = deque(maxlen=_MOST_KEPT)
        keys: deque[tuple[int, int]] = deque(maxlen=_MOST_KEPT)
        first = newest = a_second = 0
        for line in lines:
            if line.startswith(b"#"):
                name, _, value = line[1:].decode().partition(" 0: ")
                facts[name] = value.strip()
                continue
            decoded, shown, duration = map(int, line.split(b",")[1:4])
            shown = max(decoded, shown)  # it may have no time of its own
            if not last:
                first, newest, a_second = shown, shown, int(1 / Fraction(facts["tb"]))
            first, newest = min(first, shown), max(newest, shown)
            last.append((shown, duration))
            if b"F=0x0" not in line:
                keys.append((shown, decoded))
            while len(last) > LAST_PACKETS and last[0][0] < newest - a_second:
                last.popleft()
            while len(keys) > LAST_PACKETS + 1 and keys[1][0] < newest - a_second:
                keys.popleft()
        if not last:
            return cls(facts=facts)
        ordered = sorted(last)
        at, duration = ordered[-1]
        if duration <= 0 and len(ordered) > 1:
            duration = at - ordered[-2][0]
        unit = Fraction(facts["tb"])
        return cls(
            facts=facts,
            first=first * unit,
            end=(at + duration) * unit,
            shown=[shown * unit for shown, _ in ordered],
            keys=[(shown * unit, decoded * unit) for shown, decoded in keys],
        )

    def start(self, at: Fraction | None = None) -> Start | None:
        """Where to begin for the last frames, and for the one that is shown at a time, if given.

        None stands for the beginning.
        """
        if len(self.shown) < LAST_PACKETS:
            return None
        wanted = self.shown[-LAST_PACKETS]
        if at is not None:
            before = [shown for shown in self.shown if shown <= at]
            if not before:
                return None
            wanted = min(wanted, before[-1])
        keys = [decoded for shown, decoded in self.keys if shown <= wanted]
        return Start(key=max(Fraction(0), *keys), wanted=wanted) if keys else None

    def num_moments(self, fps: int) -> int:
        """How many frames the whole video has at so many a second."""
        return int((self.end - self.first) * fps + Fraction(1, 2))

    def moment(self, fps: int, count: int) -> Fraction:
        """The first of the last `count` moments at which frames are taken, so many a second.

        Each is in the middle of its time, so that times which are rounded take no frame twice.
        """
        return self.end - Fraction(2 * count - 1, 2 * fps)
