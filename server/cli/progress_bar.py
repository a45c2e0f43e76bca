"""How far a video is, on stderr: a bar on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from pipeline.progress import Note, Progress, Restarted, Stage, StageStarted, StepDone
from server.workers.messages import Loading
from server.workers.progress_text import STAGES, describe, duration


class Display(Protocol):
    """Shows what it is told."""

    def load(self, loading: Loading) -> None:
        """The model is loading."""

    def tell(self, event: Progress) -> None:
        """The run goes on."""


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """A display that suits the console, and leaves it as it was."""
    if not console.is_terminal:
        yield Lines(console)
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
    )
    with bars:
        yield Bar(bars)


class Lines:
    """A line for each piece of news."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = ""

    def load(self, loading: Loading) -> None:
        if loading.text != self._said:
            self._said = loading.text
            self._say(f"{loading.text} ({loading.fraction:.0%})")

    def tell(self, event: Progress) -> None:
        self._say(describe(event))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """One bar: of the bytes while loading, then of the denoising steps."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("Starting", total=None, detail="")

    def load(self, loading: Loading) -> None:
        self._bars.update(
            self._task, description=loading.text, total=1.0, completed=loading.fraction
        )

    def tell(self, event: Progress) -> None:
        match event:
            case Note(message) | Restarted(message):
                self._bars.console.print(message, markup=False, highlight=False)
            case StageStarted(stage, seconds_left):
                left = "" if seconds_left is None else f"about {duration(seconds_left)} left"
                # How long the other stages are is not known from within them: the bar pulses.
                total = 1.0 if stage is Stage.DENOISE else None
                self._bars.reset(self._task, total=total, description=STAGES[stage], detail=left)
            case StepDone(step, num_steps, seconds_per_step, seconds_left):
                self._bars.update(
                    self._task,
                    total=num_steps,
                    completed=step,
                    detail=f"step {step}/{num_steps}, {seconds_per_step:.2f} s a step, "
                    f"{duration(seconds_left)} left",
                )
