"""What this server's OpenAPI document says of reading files, which depends on who may."""

from collections.abc import Mapping

from server.api.openapi.operations import Paths
from server.api.openapi.parts import BYTES, STRING, Operation, answer, header, problem, query
from server.files.links import END, SIGNATURE
from server.settings import FilesAuth

_BYTES = answer("The file.", BYTES, "*/*")
_RANGE = header("Range", "The parts that are wanted.", STRING)
_SIGNED = (
    query(END, "Until when the URL is good, in Unix seconds.", STRING, required=True),
    query(SIGNATURE, "The server's, of the file and that time.", STRING, required=True),
)
_DESCRIBED: Mapping[FilesAuth, str] = {
    "public": "The URL is all that is needed.",
    "signed": "The URL is all that is needed, with the query that the server gave it.",
    "key": "For the key that it belongs to.",
}


def file_operations(files_auth: FilesAuth) -> Paths:
    """How a file is read."""
    is_signed = files_auth == "signed"
    signature = _SIGNED if is_signed else ()
    refused = {"403": problem("The URL is not signed, or its time is over.")} if is_signed else {}
    return {
        "/files/{file_id}/{name}": {
            "get": Operation(
                id="file",
                summary="A video or an upload",
                described=_DESCRIBED[files_auth],
                answers={
                    "200": _BYTES,
                    "206": answer("The parts that a Range header names.", BYTES, "*/*"),
                    "416": {"description": "The file has no such part."},
                    **refused,
                },
                parameters=(*signature, _RANGE),
                needs_key=files_auth == "key",
            ),
            "head": Operation(
                id="fileHead",
                summary="Type and size of a file",
                described=_DESCRIBED[files_auth],
                answers={"200": {"description": "As of the file."}},
                parameters=signature,
                needs_key=files_auth == "key",
            ),
        }
    }
