"""Bodies for `hostile_requests`: JSON that is none, wrong types, strange media."""

import gzip
import json
import random
from typing import Any

from image_files import png, png_rows
from servers import data_uri, picture, request_of

PICTURE = picture()

FIELDS = [
    *["prompt", "negative_prompt", "num_frames", "num_inference_steps", "guidance_scale", "seed"],
    *["sync_mode", "video_output_type", "video_quality", "image_url", "allowed_apps", "parts"],
    *["token_expiration", "file_name", "content_type", "__proto__", "", "constructor", "\ud800"],
]

VALUES: list[Any] = [
    *[None, True, False, 0, -1, 9, 93, 94, 1.5, -0.0, 1e308, 2**53, 2**64, 10**400, float("nan")],
    *[
        float("inf"),
        "",
        "x",
        "9",
        "true",
        "null",
        "\0",
        "\ud800",
        "\udfff x",
        "🎬" * 50,
        "a" * 20_000,
    ],
    *[[], {}, [[]], {"a": {}}, [1, "a", None], [{"partNumber": 1, "etag": "x"}], ["fal-ai/flux"]],
    *[
        {"url": "http://10.0.0.1/"},
        "cosmos-predict-2.5",
        ["cosmos-predict-2.5"],
        "X264 (.mp4)",
        "../a",
    ],
]

URLS = [
    *[
        "",
        "car.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://10.0.0.1/a",
        "gopher://127.0.0.1:6379/_",
    ],
    *[
        "http://127.0.0.1:8000/health/live",
        "http://localhost:8000/admin/queue",
        "http://[::1]:8000/",
    ],
    *[
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0/",
    ],
    *[
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://100.64.0.1/",
        "http://[fe80::1%25lo]/",
    ],
    *[
        "http://user:pw@10.0.0.1/",
        "http://10.0.0.1:0/",
        "http://10.0.0.1:99999/",
        "http://10.0.0.1\r\nx: y/",
    ],
    *["http://localhost:8000/files/../../key/a.png", "http://localhost:8000/files/%2e%2e/key"],
    *[
        "https://v3.fal.media/files/" + "0" * 32 + "/a.png",
        "http://\ud800/",
        "http://" + "a" * 3000,
    ],
    *[
        "javascript:alert(1)",
        "data:",
        "data:,",
        "data:image/png",
        "data:;base64",
        "DATA:,%zz",
        "data:,%",
    ],
    *[
        "data:image/png;base64,",
        "data:image/png;base64,!",
        "data:image/png;base64,AAA",
        "data:;base64,A A A=",
    ],
    *[
        "data:image/png;base64;base64,AAAA",
        "data:text/html,<script>",
        "data:;base64,\ud800",
        "data:,\0",
    ],
]


def hostile_body(dice: random.Random) -> bytes:
    """A body that some route may trip over; one in many is good."""
    kind = dice.random()
    if kind < 0.55:
        return as_json(hostile_object(dice), dice)
    if kind < 0.75:
        return broken_json(dice)
    if kind < 0.85:
        return dice.choice(OTHER)
    if kind < 0.99:
        return dice.randbytes(dice.choice([0, 1, 10, 1000]))
    return as_json(request_of(image_url=hostile_data_uri(dice)), dice)


def hostile_object(dice: random.Random) -> dict[str, Any]:
    """A request with some of its fields wrong."""
    given: dict[str, Any] = request_of()
    for _ in range(dice.randint(1, 3)):
        field = dice.choice(FIELDS)
        if dice.random() < 0.2:
            given.pop(field, None)
        else:
            given[field] = dice.choice(VALUES)
    given["image_url"] = dice.choice(URLS) if dice.random() < 0.7 else given.get("image_url")
    # Hardly any of them is to become a video: those take their time.
    if dice.random() < 0.9 and isinstance(given["image_url"], str):
        given["num_frames"] = dice.choice([0, "x", None, 10**30])
    return given


def broken_json(dice: random.Random) -> bytes:
    """JSON that is cut, nested, repeated or in another encoding."""
    text = json.dumps(request_of())
    cut = dice.randrange(len(text))
    return dice.choice(
        [
            text[:cut].encode(),
            (text[:cut] + dice.choice('"{}[],:\\\0\x80') + text[cut:]).encode(),
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\xef\xbb\xbf" + text.encode(),
            gzip.compress(text.encode()),
            (text[:-1] + ', "prompt": 1, "prompt": {"a": [' + "[" * 100 + "]}}").encode(),
            b"[" * dice.choice([100, 50_000]),
            b'{"a":' * 20_000,
            b'{"seed": ' + b"9" * dice.choice([100, 5000]) + b"}",
            b'{"prompt": "\\ud800", "image_url": "\\udc00"}',
            b'{"prompt": "\xff\xfe"}',
            b'{"guidance_scale": NaN, "seed": -Infinity}',
            b"[]",
            b"null",
            b'"text"',
            b"0",
            b" " * 3000,
            text.encode() * 2,
        ]
    )


OTHER = [
    b"",
    b"--x\r\ncontent-disposition: form-data; name=prompt\r\n\r\nhi\r\n--x--\r\n",
    b"prompt=a&image_url=b",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    bytes(3 * 1024 * 1024),
    PICTURE,
]


def hostile_data_uri(dice: random.Random) -> str:
    """A picture that is damaged, or says that it is larger than it is."""
    bombs = [png(side, side, 8, 0, png_rows(bytes(10))) for side in (65_535, 2**31 - 1)]
    damaged = bytearray(PICTURE)
    damaged[dice.randrange(len(damaged))] ^= dice.randint(1, 255)
    return data_uri(dice.choice([*bombs, bytes(damaged), PICTURE[: dice.randrange(len(PICTURE))]]))


def as_json(value: Any, dice: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")
