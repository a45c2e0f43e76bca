"""`llms.txt`: an endpoint's page for language models, in the form of fal's but true of this server.

fal's page names a price and fal's hosts; this one names what the checkpoint makes and the URLs of
this server, and what to set so that unchanged clients come here.
"""

import json
from collections.abc import Iterable, Mapping
from string import Template
from typing import Any
from urllib.parse import urlsplit

from pipeline.spec import FPS
from server.api.openapi.schemas import input_schema, output_schema
from server.fal.endpoints import ENDPOINTS, Limits
from server.fal.urls import Service, is_fal_host, url_for

_TYPES = {"number": "float"}


def llms_text(endpoint_id: str, base_url: str, limits: Limits) -> str:
    """The page, for callers of `base_url`."""
    fields = input_schema(endpoint_id, limits)
    examples = {name: _example_of(field) for name, field in fields["properties"].items()}
    full = {name: value for name, value in examples.items() if value}
    required = {name: full[name] for name in fields["required"]}
    sections = [
        _overview(endpoint_id, base_url, limits),
        _INPUT.substitute(fields=_fields(fields), required=_json(required), full=_json(full)),
        _OUTPUT.substitute(
            fields=_fields(output_schema(endpoint_id)),
            example=_json(_output_example(base_url, limits)),
        ),
        _usage(endpoint_id, base_url, required),
        _RESOURCES.substitute(
            docs=url_for(base_url, Service.DISCOVERY, "/docs"),
            openapi=url_for(base_url, Service.DISCOVERY, "/api/openapi/queue/openapi.json"),
            id=endpoint_id,
        ),
    ]
    return "\n".join(sections)


def _overview(endpoint_id: str, base_url: str, limits: Limits) -> str:
    endpoint = ENDPOINTS[endpoint_id]
    return _OVERVIEW.substitute(
        title=endpoint.title,
        summary=endpoint.summary,
        url=url_for(base_url, Service.RUN, f"/{endpoint_id}"),
        id=endpoint_id,
        category=endpoint.category,
        width=limits.width,
        height=limits.height,
        frames=limits.max_frames,
        fps=FPS,
        seconds=f"{limits.max_frames / FPS:.1f}",
    )


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
    kind: str = field["type"]
    return _TYPES.get(kind, kind)


def _example_of(field: Mapping[str, Any]) -> Any:
    return field["examples"][0] if "examples" in field else field.get("default")


def _output_example(base_url: str, limits: Limits) -> dict[str, Any]:
    url = url_for(base_url, Service.FILES, "/2c1f0a5e9b7d4c3f8a6e1d0b5c4f3a2e/video.mp4")
    video = {
        "url": url,
        "content_type": "video/mp4",
        "file_name": "video.mp4",
        "width": limits.width,
        "height": limits.height,
        "fps": FPS,
        "duration": limits.max_frames / FPS,
        "num_frames": limits.max_frames,
    }
    return {"video": video, "seed": 42}


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


def _usage(endpoint_id: str, base_url: str, given: Mapping[str, Any]) -> str:
    python = [f'        "{name}": {_inline(value)},' for name, value in given.items()]
    javascript = [f"    {name}: {_inline(value)}," for name, value in given.items()]
    return _USAGE.substitute(
        id=endpoint_id,
        run=url_for(base_url, Service.RUN, f"/{endpoint_id}"),
        given=_json(given).replace("\n", "\n   "),
        python_hosts=_python_hosts(base_url),
        python_given="\n".join(python).removesuffix(","),
        javascript_hosts=_javascript_hosts(base_url),
        javascript_given="\n".join(javascript).removesuffix(","),
    )


def _python_hosts(base_url: str) -> str:
    """What makes fal-client come here; nothing, where fal's own names lead here."""
    run, queue = (urlsplit(url_for(base_url, each, "")) for each in (Service.RUN, Service.QUEUE))
    if is_fal_host(base_url):
        return ""
    host = {"https": run.netloc, "http": "HOST:HTTPS_PORT"}[run.scheme]
    return _PYTHON_HOSTS.substitute(run=f"{host}{run.path}", queue=f"{host}{queue.path}")


def _javascript_hosts(base_url: str) -> str:
    if is_fal_host(base_url):
        return ""
    return _JAVASCRIPT_HOSTS.substitute(proxy=f"{base_url}/api/fal/proxy")


_OVERVIEW = Template("""\
# $title

> $summary


## Overview

- **Endpoint**: `$url`
- **Model ID**: `$id`
- **Category**: $category
- **Kind**: inference


## Videos

This server runs the model itself, and requests have no price. Videos have a size of
$width x $height and $fps frames a second: up to $frames frames, which are $seconds seconds.


## API Information

This model can be used via our HTTP API or more conveniently via fal's client libraries, unchanged.
See the input and output schema below, as well as the usage examples.
""")

_INPUT = Template("""\

### Input Schema

The API accepts the following input parameters:


$fields



**Required Parameters Example**:

```json
$required
```

**Full Example**:

```json
$full
```
""")

_OUTPUT = Template("""\

### Output Schema

The API returns the following output format:

$fields



**Example Response**:

```json
$example
```
""")

_USAGE = Template("""\

## Usage Examples

Put a key of this server in `FAL_KEY`. A server that asks for none accepts any.

### cURL

```bash
curl --request POST \\
  --url $run \\
  --header "Authorization: Key $$FAL_KEY" \\
  --header "Content-Type: application/json" \\
  --data '$given'
```

### Python

Ensure you have the Python client installed:

```bash
pip install fal-client
```
$python_hosts
Then use the API client to make requests:

```python
import fal_client

def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
           print(log["message"])

result = fal_client.subscribe(
    "$id",
    arguments={
$python_given
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)
```

### JavaScript

Ensure you have the JavaScript client installed:

```bash
npm install --save @fal-ai/client
```

Then use the API client to make requests:

```javascript
import { fal } from "@fal-ai/client";
$javascript_hosts
const result = await fal.subscribe("$id", {
  input: {
$javascript_given
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);
```
""")

_PYTHON_HOSTS = Template("""\

Tell it where this server is, before it is imported. It insists on HTTPS; where the certificate is
not from a public authority, `SSL_CERT_FILE` names a file with the one that it is from:

```bash
export FAL_RUN_HOST=$run FAL_QUEUE_RUN_HOST=$queue
```
""")

_JAVASCRIPT_HOSTS = Template("""\

fal.config({ proxyUrl: { url: "$proxy", when: "always" } });
""")

_RESOURCES = Template("""\

## Additional Resources

### Documentation

- [API Documentation]($docs)
- [OpenAPI Schema]($openapi?endpoint_id=$id)
""")
