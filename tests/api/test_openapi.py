"""The documents of the API by themselves: valid, and as fal's page and documents are."""

import json
import re
from typing import Any

import pytest
from api_documents import BASE_URL, PUBLISHED, own, published
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from page_samples import CURL, JAVASCRIPT, PYTHON
from paths import TESTS
from queue_calls import RUN
from servers import APP, ENDPOINT

from server.api.openapi.llms import llms_text
from server.api.openapi.schemas import schema_name
from server.fal.endpoints import ENDPOINTS, EXTEND
from server.fal.schemas import EXAMPLE_IMAGE, EXAMPLE_PROMPT

FACTS: dict[str, dict[str, Any]] = json.loads(
    (TESTS / "api" / "golden" / "fal_schemas.json").read_text()
)
"""The schemas of the endpoint as fal publishes them, by the names that its documents give them."""

# fal's document of the queue.


def test_the_queues_document_is_valid_openapi() -> None:
    validate(published())


FALS = [endpoint for endpoint in ENDPOINTS if endpoint != EXTEND]


@pytest.mark.parametrize("endpoint", FALS)
def test_the_input_and_the_output_are_fals_field_by_field(endpoint: str) -> None:
    schemas = published(endpoint)["components"]["schemas"]
    name = schema_name(endpoint)
    assert list(schemas) == ["QueueStatus", f"{name}Input", f"{name}Output", "VideoFile"]
    for name in list(schemas)[1:]:
        schema = schemas[name]
        # fal's own have no description and give no range of seeds.
        del schema["description"]
        for bound in ("minimum", "maximum"):
            schema["properties"].get("seed", {}).pop(bound, None)
        fields = schema["properties"].items()
        schema["properties"] = {name: as_fal_writes_it(field) for name, field in fields}
        assert schema == FACTS[name]


def test_the_facts_are_of_these_endpoints() -> None:
    parts = {f"{schema_name(each)}{part}" for each in FALS for part in ("Input", "Output")}
    assert FACTS.keys() == {*parts, "VideoFile"}


def as_fal_writes_it(field: dict[str, Any]) -> dict[str, Any]:
    """A field of OpenAPI 3.0 in the JSON Schema of later versions."""
    plain = dict(field)
    if "example" in plain:
        plain["examples"] = [plain.pop("example")]
    if "allOf" in plain:
        plain |= plain.pop("allOf")[0]
    if plain.pop("nullable", False):
        plain["anyOf"] = [{"type": plain.pop("type")}, {"type": "null"}]
    return plain


def test_every_object_names_its_fields_in_their_order() -> None:
    for schema in published()["components"]["schemas"].values():
        assert schema["x-fal-order-properties"] == list(schema["properties"])


# llms.txt.


def text_for(base_url: str = BASE_URL, endpoint: str = ENDPOINT) -> str:
    return llms_text(endpoint, base_url, PUBLISHED)


def section(text: str, title: str) -> str:
    (found,) = re.findall(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_text_has_the_pages_sections_and_no_price() -> None:
    text = text_for()
    titles = re.findall(r"^(#+ .*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    assert titles == [
        "# Cosmos Predict 2.5 2B",
        "## Overview",
        "## Videos",
        "## API Information",
        "### Input Schema",
        "### Output Schema",
        "## Usage Examples",
        "### cURL",
        "### Python",
        "### JavaScript",
        "## Additional Resources",
        "### Documentation",
    ]
    assert "$0" not in text
    assert "1280 x 704 and 16 frames a second: up to 93 frames, which are 5.8 seconds" in text


def test_the_text_has_the_fields_as_the_page_has_them() -> None:
    fields = section(text_for(), "Input Schema")
    assert re.findall(r"^- \*\*`(\w+)`\*\* \(`(\w+)`, _(\w+)_\):", fields, re.MULTILINE) == [
        ("prompt", "string", "required"),
        ("negative_prompt", "string", "optional"),
        ("num_frames", "integer", "optional"),
        ("num_inference_steps", "integer", "optional"),
        ("guidance_scale", "float", "optional"),
        ("seed", "integer", "optional"),
        ("sync_mode", "boolean", "optional"),
        ("video_output_type", "VideoOutputTypeEnum", "optional"),
        ("video_quality", "VideoQualityEnum", "optional"),
        ("image_url", "string", "required"),
    ]
    assert (
        "- **`guidance_scale`** (`float`, _optional_):\n"
        "  Classifier-free guidance scale. Higher values increase prompt adherence. "
        "Default value: `7`\n"
        "  - Default: `7`\n"
        "  - Range: `1` to `20`\n"
    ) in fields
    assert (
        '  The quality of the output video. Default value: `"high"`\n'
        '  - Default: `"high"`\n'
        '  - Options: `"low"`, `"medium"`, `"high"`, `"maximum"`\n'
    ) in fields
    assert "  - Default: `false`\n" in fields


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_examples_of_the_text_fit_the_schema(endpoint: str) -> None:
    text = text_for(endpoint=endpoint)
    schema = own()["components"]["schemas"][f"{schema_name(endpoint)}Input"]
    required, full = map(json.loads, code(section(text, "Input Schema"), "json"))
    # One of the two media of a long video will do.
    needed = [*schema["required"], "video_url"] if endpoint == EXTEND else schema["required"]
    assert list(required) == needed
    left_out = ("seed", "sync_mode", "image_url", "resample_fps")
    assert list(full) == [
        name for name in schema["properties"] if name in needed or name not in left_out
    ]
    for example in (required, full):
        OAS31Validator(schema).validate(example)
    (output,) = map(json.loads, code(section(text, "Output Schema"), "json"))
    assert output["video"]["url"].startswith(f"{BASE_URL}/files/")
    assert f'fal.subscribe("{endpoint}"' in text


def test_the_text_says_how_a_long_video_is_made() -> None:
    text = section(text_for(endpoint=EXTEND), "Videos")
    assert "up to 369 frames, which are 23.1 seconds" in text
    assert "more than 93 frames is made in chunks of as\nmany, 4 at most" in text


def test_the_text_says_what_a_file_may_be() -> None:
    video = section(text_for(endpoint=f"{APP}/video-to-video"), "Videos")
    assert (
        "`video_url` may be an MP4, MOV, WebM, MKV, AVI, MPEG-TS or GIF file of up to 200" in video
    )
    assert "36 megapixels a frame" in video
    assert "_url`" not in section(text_for(endpoint=f"{APP}/text-to-video"), "Videos")


def test_the_samples_of_the_text_are_the_pages_but_for_where_they_go() -> None:
    def filled(sample: str) -> str:
        return sample.replace("PROMPT", EXAMPLE_PROMPT).replace("IMAGE", EXAMPLE_IMAGE)

    text = text_for()
    (curl,) = code(section(text, "cURL"), "bash")
    assert curl == filled(CURL).replace("https://fal.run", f"{BASE_URL}/run")
    (python,) = code(section(text, "Python"), "python")
    assert python == filled(PYTHON)
    (javascript,) = code(section(text, "JavaScript"), "javascript")
    line = f'fal.config({{ proxyUrl: {{ url: "{BASE_URL}/api/fal/proxy", when: "always" }} }});\n'
    assert javascript.replace(f"\n{line}", "") == filled(JAVASCRIPT)
    assert line in javascript


def test_the_text_says_what_fal_client_must_be_told() -> None:
    hosts = "FAL_RUN_HOST=videos.example/cosmos/run FAL_QUEUE_RUN_HOST=videos.example/cosmos/queue"
    assert f"export {hosts}\n" in text_for()
    # fal-client speaks HTTPS only, and the port of that is not known here.
    assert "FAL_RUN_HOST=HOST:HTTPS_PORT/run" in text_for("http://localhost:8000")


# This server's own document.


def test_the_own_document_is_valid_openapi() -> None:
    validate(own())


def test_a_key_is_asked_for_only_where_the_server_needs_one() -> None:
    for needs_key in (True, False):
        paths = own(needs_key=needs_key)["paths"]
        assert paths[RUN]["post"]["security"] == ([{"key": []}] if needs_key else [])
        assert paths["/health/live"]["get"]["security"] == []
