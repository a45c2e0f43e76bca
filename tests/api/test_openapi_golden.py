"""The documents of the API mean what the golden files say, however FastAPI writes it."""

import json
from typing import Any

import pytest
from api_documents import own, published
from paths import TESTS

from server.config.setting_types import FilesAuth

GOLDEN = TESTS / "api" / "golden"
FILE = "/files/{file_id}/{name}"
ANNOTATIONS = {"title", "description", "default"}
"""What a document may add to what the golden file says: it changes what nothing means."""


def golden(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    return read


def meaning(node: Any, schemas: dict[str, Any]) -> Any:
    """A part of a document in one of the ways to write it, with what it refers to in place."""
    if isinstance(node, list):
        return [meaning(each, schemas) for each in node]
    if not isinstance(node, dict):
        return " ".join(node.split()) if isinstance(node, str) else node
    if "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return meaning(schemas[node["$ref"].rpartition("/")[2]] | beside, schemas)
    plain = {key: meaning(value, schemas) for key, value in node.items()}
    if isinstance(plain.get("type"), list):
        plain["anyOf"] = [{"type": each} for each in plain.pop("type")]
    if "enum" in plain:
        plain.pop("type", None)
    if "required" in plain and isinstance(plain["required"], list):
        plain["required"] = sorted(plain["required"])
    if "parameters" in plain:
        plain["parameters"] = sorted(plain["parameters"], key=lambda each: str(each["name"]))
    return {
        key: value
        for key, value in plain.items()
        if (key, value)
        not in [
            ("parameters", []),
            ("description", ""),
            ("required", []),
            ("required", False),
            ("default", None),
            ("additionalProperties", True),
        ]
    }


def without_annotations(node: Any, expected: Any) -> Any:
    """The part without the annotations that the expected one does not have."""
    if isinstance(node, dict) and isinstance(expected, dict):
        return {
            key: without_annotations(value, expected.get(key))
            for key, value in node.items()
            if key in expected or key not in ANNOTATIONS
        }
    if isinstance(node, list) and isinstance(expected, list) and len(node) == len(expected):
        return [without_annotations(*pair) for pair in zip(node, expected, strict=True)]
    return node


def check(document: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fail unless the document says all that is expected, and nothing else."""
    found, wanted = (
        meaning(
            {**each, "components": {**each["components"], "schemas": {}}},
            each["components"]["schemas"],
        )
        for each in (document, expected)
    )
    assert without_annotations(found, wanted) == wanted


def test_the_own_document_is_the_golden_one() -> None:
    check(own(), golden("openapi.json"))


@pytest.mark.parametrize("files_auth", ["signed", "key"])
def test_so_is_what_it_says_of_files_that_not_all_may_read(files_auth: FilesAuth) -> None:
    expected = golden("openapi.json")
    expected["paths"][FILE] = golden("openapi_files.json")[files_auth]
    check(own(files_auth=files_auth), expected)


def test_the_queues_document_is_the_golden_one() -> None:
    check(published(), golden("queue_openapi.json"))
