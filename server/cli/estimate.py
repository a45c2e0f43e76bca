"""`cosmos-serve estimate`: how long a request would take here, by what was measured here."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.errors import WrongUsage
from server.cli.open_database import open_database
from server.cli.options import takes_settings
from server.cli.printing import AsJson, counted, print_json, time_text
from server.config.settings import Settings
from server.models import Estimate

if TYPE_CHECKING:
    from pipeline.spec import VideoSpec
    from server.fal.endpoints import Limits

_OPTIONS = {"num_frames": "frames", "num_inference_steps": "steps", "guidance_scale": "guidance"}

app = typer.Typer()

Endpoint = Annotated[
    str,
    typer.Argument(
        metavar="ENDPOINT", help="Its id, or the end of it, such as distilled/text-to-video."
    ),
]
Frames = Annotated[int | None, typer.Option(metavar="N", help="Length; 16 frames make a second.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Denoising steps.")]
Guidance = Annotated[
    float | None, typer.Option(metavar="G", help="1 is no guidance, and half the work.")
]


@app.command(
    epilog="\b\nExample:\n  cosmos-serve estimate text-to-video --frames 49 --data data\n\n"
    "What is not given is as the endpoint has it by default."
)
@takes_settings("weights", "data", "devices")
def estimate(
    settings: Settings,
    endpoint: Endpoint = "image-to-video",
    frames: Frames = None,
    steps: Steps = None,
    guidance: Guidance = None,
    as_json: AsJson = False,
) -> None:
    """Say how long a request would take, and when it would start.

    It reads the data folder, beside a running server or without one: the seconds are those of
    videos that were made there, and the wait is for what is in its queue now, on these devices.
    """
    from server.fal.endpoints import Limits
    from server.fal.views import estimate_view
    from server.jobs.estimates import Estimates
    from server.jobs.pace import Pace
    from server.workers.devices import devices_from
    from weights.checkpoints import open_checkpoints

    limits = Limits.of(*(store.profile for store in open_checkpoints(str(settings.weights))))
    num_slots = len(devices_from(settings.devices, settings.cuda_visible_devices))
    given = dict(zip(_OPTIONS, (frames, steps, guidance), strict=True))
    id_ = _endpoint_id(endpoint, limits.endpoints)
    spec = _spec(id_, {name: value for name, value in given.items() if value is not None}, limits)
    pace = Pace(limits.width, limits.height, limits.max_frames)
    with open_database(settings.data) as database:
        estimates = Estimates(database, pace, lambda: num_slots, endpoints=limits.endpoints)
        found = estimates.of_request(id_, spec, priority=0)
    if as_json:
        print_json({"endpoint_id": id_, "queue_position": found.position, **estimate_view(found)})
    else:
        _print(id_, found, num_slots)


def _endpoint_id(name: str, served: Sequence[str]) -> str:
    """The endpoint of that id, or the first whose id ends so."""
    found = [id_ for id_ in served if id_ == name or id_.endswith(f"/{name}")]
    if not found:
        raise WrongUsage(f"{name!r} is no endpoint here; there are {', '.join(served)}.")
    return min(found, key=len)


def _spec(endpoint: str, fields: dict[str, Any], limits: "Limits") -> "VideoSpec":
    """What a request of these fields asks for; what it starts from takes no part."""
    from server.fal.endpoints import ENDPOINTS, parse_request
    from server.fal.invalid_input import InvalidInput

    described = ENDPOINTS[endpoint]
    for name in fields.keys() - described.request.model_fields.keys():
        raise WrongUsage(f"{endpoint} has no {name}: leave --{_OPTIONS[name]} out.")
    media = dict.fromkeys(described.media_fields.values(), "https://example.com/")
    body = json.dumps({"prompt": "any", **media, **fields})
    try:
        return parse_request(endpoint, body.encode(), limits).spec
    except InvalidInput as error:
        wrong = (f"--{_OPTIONS[str(item['loc'][-1])]}: {item['msg']}." for item in error.items)
        raise WrongUsage(" ".join(wrong)) from error


def _print(endpoint: str, found: Estimate, num_slots: int) -> None:
    from server.workers.progress_text import duration

    if found.stage_seconds is None or found.seconds is None:
        print(f"No video of {endpoint} has been finished here yet: how long one takes is unknown.")
    else:
        for stage, seconds in found.stage_seconds.items():
            print(f"{stage:9}{duration(seconds):>12}")
        print(f"{'together':9}{duration(found.seconds):>12}")
    ahead = f"{counted(found.position, 'request')} before it, {counted(num_slots, 'worker')}"
    if found.wait_s is None or found.starts_at is None:
        print(f"When it would start is unknown ({ahead}).")
    else:
        starts_at = time_text(found.starts_at)
        print(f"It would start in {duration(found.wait_s)}, at {starts_at} ({ahead}).")
