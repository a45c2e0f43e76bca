"""The input and output of an endpoint as JSON Schema, for every document that describes them."""

from typing import Any

from server.fal.endpoints import ENDPOINTS, Limits

REF_TEMPLATE = "#/components/schemas/{model}"
"""Where documents keep the schemas that others refer to."""


def input_schema(endpoint_id: str, limits: Limits) -> dict[str, Any]:
    """The input, with no more frames than the checkpoint can make."""
    endpoint = ENDPOINTS[endpoint_id]
    schema = endpoint.request.model_json_schema(ref_template=REF_TEMPLATE)
    frames = schema["properties"]["num_frames"]
    frames["maximum"] = endpoint.max_frames(limits)
    frames["default"] = limits.default_frames(is_long=endpoint.is_long)
    return schema


def output_schema(endpoint_id: str) -> dict[str, Any]:
    """The output; the schemas that it refers to are in its `$defs`."""
    model = ENDPOINTS[endpoint_id].response
    return model.model_json_schema(ref_template=REF_TEMPLATE, mode="serialization")


def endpoint_schemas(endpoint_id: str, limits: Limits) -> dict[str, Any]:
    """Input, output and what these refer to, under the names that documents give them."""
    name = schema_name(endpoint_id)
    output = output_schema(endpoint_id)
    parts = output.pop("$defs")
    return {f"{name}Input": input_schema(endpoint_id, limits), f"{name}Output": output, **parts}


def schema_name(endpoint_id: str) -> str:
    """What fal's documents call the endpoint's schemas, before `Input` or `Output`."""
    _, _, path = endpoint_id.partition("/")
    words = "".join(letter if letter.isalnum() else " " for letter in path).split()
    return "".join(word.capitalize() for word in words)
