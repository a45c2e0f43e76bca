"""`llms.txt`: an endpoint's page for language models, in the form of fal's but true of this server.

fal's page names a price and fal's hosts; this one names what the checkpoint makes and the URLs of
this server, and what to set so that unchanged clients come here.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlsplit

from pipeline import clip, image, image_kind
from pipeline.spec import CLIP_FRAMES, DRAWN_SEEDS, FPS, MAX_CHUNKS, MAX_SEED, chunk_frames
from server.api.openapi.schemas import input_schema, output_schema
from server.fal.endpoints import ENDPOINTS, Endpoint, Limits
from server.fal.urls import Service, is_fal_host, url_for

_TEMPLATE = Template(files("server.api.openapi").joinpath("llms.txt.tmpl").read_text("utf-8"))

_MEDIA = {
    "image": f"""\
`image_url` may be a {image_kind.ACCEPTED} file of up to {image.MAX_BYTES // 1024**2} MiB and \
{image.MAX_PIXELS // 1_000_000} megapixels, and of any size from one pixel
on. It is scaled to cover the video, and cropped at the centre.""",
    "video": f"""\
`video_url` may be an {clip.ACCEPTED} file of up to {clip.MAX_BYTES // 1_000_000} MB and \
{clip.MAX_PIXELS // 1_000_000} megapixels a frame. Its last {CLIP_FRAMES} frames
are scaled to cover the video that is made, which begins with them, and cropped at the centre. They
are taken at its own frame rate, and its sound is not used.""",
}
"""What each medium may be."""

_LONG = Template("""\
Give either `image_url` or `video_url`. A video of more than $at_once frames is made in chunks of as
many, $chunks at most. Each begins with the last `overlap` frames of the one before, which the video
shows once, and takes as long as a video of its own. With `resample_fps` the frames of `video_url`
are taken at $fps a second.""")
"""What an endpoint of long videos does."""


def llms_text(endpoint_id: str, base_url: str, limits: Limits) -> str:
    """The page, for callers of `base_url`."""
    endpoint = ENDPOINTS[endpoint_id]
    fields = input_schema(endpoint_id, limits)
    examples = {name: _example_of(field) for name, field in fields["properties"].items()}
    full = {name: value for name, value in examples.items() if value}
    # One of the media has an example where any will do.
    named = {*fields["required"], *endpoint.media_fields.values()}
    required = {name: value for name, value in full.items() if name in named}
    frames = endpoint.max_frames(limits)
    return _TEMPLATE.substitute(
        title=endpoint.title,
        summary=endpoint.summary,
        id=endpoint_id,
        category=endpoint.category,
        width=limits.width,
        height=limits.height,
        frames=frames,
        fps=FPS,
        seconds=f"{frames / FPS:.1f}",
        media="".join(f"\n{text}\n" for text in _media(endpoint, limits)),
        max_seed=MAX_SEED,
        exact=DRAWN_SEEDS - 1,
        input_fields=_fields(fields),
        required=_json(required),
        full=_json(full),
        output_fields=_fields(output_schema(endpoint_id)),
        output=_json(_output_example(endpoint_id, base_url, limits)),
        run=url_for(base_url, Service.RUN, f"/{endpoint_id}"),
        given=_json(required).replace("\n", "\n   "),
        python_hosts=_python_hosts(base_url),
        python_given=_lines('        "{}": {},', required),
        javascript_hosts=_javascript_hosts(base_url),
        javascript_given=_lines("    {}: {},", required),
        docs=url_for(base_url, Service.DISCOVERY, "/docs"),
        videos=_videos(base_url),
        openapi=url_for(base_url, Service.DISCOVERY, "/api/openapi/queue/openapi.json"),
    )


def _media(endpoint: Endpoint, limits: Limits) -> Iterable[str]:
    """What a video may start from, and how it goes on."""
    yield from (_MEDIA[name] for name in endpoint.media_fields)
    if endpoint.is_long:
        at_once = chunk_frames(limits.max_frames)
        yield _LONG.substitute(at_once=at_once, chunks=MAX_CHUNKS, fps=FPS)


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema["required"]
    return "\n\n".join(
        "\n".join(_field(name, field, required=name in required))
        for name, field in schema["properties"].items()
    )


def _field(name: str, field: Mapping[str, Any], *, required: bool) -> Iterable[str]:
    plain = _without_null(field)
    default = field.get("default")
    text = field["description"]
    if default:
        text += f" Default value: `{_inline(default)}`"
    need = "required" if required else "optional"
    yield f"- **`{name}`** (`{_type_of(name, plain)}`, _{need}_):"
    yield f"  {text}"
    if default is not None:
        yield f"  - Default: `{_inline(default)}`"
    if "minimum" in plain:
        yield f"  - Range: `{_inline(plain['minimum'])}` to `{_inline(plain['maximum'])}`"
    if "enum" in plain:
        yield f"  - Options: {', '.join(f'`{_inline(option)}`' for option in plain['enum'])}"
    if "examples" in field:
        yield f"  - Examples: {', '.join(map(_inline, field['examples']))}"


def _without_null(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a field may be besides null."""
    return next((each for each in field.get("anyOf", []) if each != {"type": "null"}), field)


def _type_of(name: str, field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return "".join(word.capitalize() for word in name.split("_")) + "Enum"
    return "float" if field["type"] == "number" else str(field["type"])


def _example_of(field: Mapping[str, Any]) -> Any:
    return field["examples"][0] if "examples" in field else field.get("default")


def _output_example(endpoint_id: str, base_url: str, limits: Limits) -> dict[str, Any]:
    frames = limits.default_frames(is_long=ENDPOINTS[endpoint_id].is_long)
    url = url_for(base_url, Service.FILES, "/2c1f0a5e9b7d4c3f8a6e1d0b5c4f3a2e/video.mp4")
    video = {
        "url": url,
        "content_type": "video/mp4",
        "file_name": "video.mp4",
        "width": limits.width,
        "height": limits.height,
        "fps": FPS,
        "duration": frames / FPS,
        "num_frames": frames,
    }
    return {"video": video, "seed": 42}


def _videos(base_url: str) -> str:
    """A line about OpenAI's videos API, which is not there under fal's own names."""
    if is_fal_host(base_url):
        return ""
    url = url_for(base_url, Service.DISCOVERY, "/v1/videos")
    return f"- OpenAI's videos API, with this endpoint as its `model`: {url}\n"


def _inline(value: Any) -> str:
    """A value as JSON on one line; a whole number without the point that Python gives it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json(value: Any) -> str:
    numbers = {
        name: int(item) if isinstance(item, float) and item.is_integer() else item
        for name, item in value.items()
    }
    return json.dumps(numbers, ensure_ascii=False, indent=2)


def _lines(form: str, given: Mapping[str, Any]) -> str:
    """The fields of a call in a sample, a line each."""
    lines = [form.format(name, _inline(value)) for name, value in given.items()]
    return "\n".join(lines).removesuffix(",")


def _python_hosts(base_url: str) -> str:
    """What makes fal-client come here; nothing, where fal's own names lead here."""
    if is_fal_host(base_url):
        return ""
    run, queue = (urlsplit(url_for(base_url, each, "")) for each in (Service.RUN, Service.QUEUE))
    host = {"https": run.netloc, "http": "HOST:HTTPS_PORT"}[run.scheme]
    return f"""
Tell it where this server is, before it is imported. It insists on HTTPS; where the certificate is
not from a public authority, `SSL_CERT_FILE` names a file with the one that it is from:

```bash
export FAL_RUN_HOST={host}{run.path} FAL_QUEUE_RUN_HOST={host}{queue.path}
```
"""


def _javascript_hosts(base_url: str) -> str:
    if is_fal_host(base_url):
        return ""
    return f'\nfal.config({{ proxyUrl: {{ url: "{base_url}/api/fal/proxy", when: "always" }} }});\n'
