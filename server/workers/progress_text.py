"""A run's progress in words: the same ones on the command line and in a job's log."""

from pipeline.progress import Note, Progress, Restarted, Stage, StageStarted, StepDone
from server.workers.messages import Loading

STAGES = {
    Stage.TEXT: "Reading the prompt",
    Stage.IMAGE: "Encoding the picture",
    Stage.DENOISE: "Denoising",
    Stage.DECODE: "Decoding frames",
    Stage.ENCODE: "Encoding the video",
}


def describe(event: Progress) -> str:
    """One line for the person who waits for the video."""
    match event:
        case Note(message) | Restarted(message):
            return message
        case StageStarted(stage, seconds_left):
            return STAGES[stage] + _left(seconds_left)
        case StepDone(step, num_steps, seconds_per_step, seconds_left):
            rate = f"{seconds_per_step:.2f} s a step"
            return f"Step {step} of {num_steps}, {rate}{_left(seconds_left)}"


def describe_loading(loading: Loading) -> str:
    """One line for the person whose video cannot begin yet."""
    return f"Loading the model: {loading.text}"


def duration(seconds: float) -> str:
    """`4.8 s` below ten seconds, then `48 s`, and from a minute on `2 min 5 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", about {duration(seconds)} left"
