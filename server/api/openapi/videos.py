"""What a request of OpenAI's videos API has in its body: JSON, or a form with a file."""

from typing import Any

from server.api.forms import FORM
from server.api.openapi.parts import BYTES, json_body, reference
from server.openai.create import CreateVideo

_FILES = ("input_reference", "image_reference", "video_reference")

CREATE_BODY: dict[str, Any] = json_body(CreateVideo)
CREATE_BODY["content"][FORM] = {
    "schema": {
        "allOf": [reference(CreateVideo.__name__)],
        "properties": dict.fromkeys(_FILES, BYTES),
    }
}
