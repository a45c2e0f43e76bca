"""The tables of docs/api.md, made from the schemas: `make api-page` writes them into the page."""

import json
from collections.abc import Mapping
from typing import Any

from paths import DOCS

from server.api.openapi.schemas import input_schema, output_schema
from server.fal.endpoints import ENDPOINTS, Limits

PAGE = DOCS / "api.md"
ENDPOINT = "fal-ai/cosmos-predict-2.5/image-to-video"
LIMITS = Limits(1280, 704)
LONGEST_DEFAULT = 40


def page_text(page: str) -> str:
    """The page with its tables as the schemas say."""
    output = output_schema(ENDPOINT)
    video = output["$defs"]["VideoFile"]
    tables = {
        "endpoints": _endpoints(),
        "input": _table(input_schema(ENDPOINT, LIMITS)),
        "output": _table(output) + "\n\n`video` has\n\n" + _table(video),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + table + "\n" + end + rest.partition(end)[2]
    return page


def _endpoints() -> str:
    """What each endpoint has that the one of the table of fields has not, and the other way."""
    rows = ["| endpoint | its fields |", "|---|---|"]
    usual = input_schema(ENDPOINT, LIMITS)["properties"]
    for endpoint in ENDPOINTS:
        fields = input_schema(endpoint, LIMITS)["properties"]
        without = [f"`{name}`" for name in usual if name not in fields]
        other = [
            f"`{name}`: {_meaning(field)}"
            for name, field in fields.items()
            if _facts(field) != _facts(usual.get(name, {}))
        ]
        parts = [f"without {' and '.join(without)}"] if without else []
        said = "; ".join(part.rstrip(".") for part in parts + other)
        rows.append(f"| `{endpoint}` | {said or 'those below'} |")
    return "\n".join(rows)


def _meaning(field: Mapping[str, Any]) -> str:
    if field.get("default") is not None:
        return f"{_default(field['default'])} if it is not given.{_bounds(field)}"
    return str(field["description"])


def _facts(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field without its words."""
    return {name: value for name, value in field.items() if name not in ("title", "description")}


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        alternatives = [each for each in field.get("anyOf", [field]) if each != {"type": "null"}]
        default = "required" if name in required else _default(field.get("default"))
        meaning = f"{field['description'].rstrip('.')}." + _bounds(alternatives[0])
        rows.append(f"| `{name}` | {_type(alternatives[0])} | {default} | {meaning} |")
    return "\n".join(rows)


def _type(field: Mapping[str, Any]) -> str:
    return str(field.get("type") or field["$ref"].rpartition("/")[2])


def _default(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value)
    if len(text) <= LONGEST_DEFAULT:
        return f"`{text}`"
    return f"`{text[:LONGEST_DEFAULT].rsplit(' ', 1)[0]} …`"


def _bounds(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " One of " + ", ".join(f"`{json.dumps(option)}`" for option in field["enum"]) + "."
    if "minimum" in field:
        return f" From {_number(field['minimum'])} to {_number(field['maximum'])}."
    return ""


def _number(value: float) -> str:
    """A bound in full: the largest seed is no number to round."""
    return str(int(value)) if value == int(value) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page_text(PAGE.read_text()))
