"""Hypothesis strategies for requests of attackers and of broken programs."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from image_files import png, png_rows
from servers import APP, ENDPOINT, data_uri, picture, request_of
from upload_calls import INITIATE


def weighted(*choices: tuple[int, SearchStrategy[Any]]) -> SearchStrategy[Any]:
    """Draw from each strategy as often as its number says."""
    strategies = [strategy for times, strategy in choices for _ in range(times)]
    return st.integers(0, len(strategies) - 1).flatmap(strategies.__getitem__)


def words(text: str) -> SearchStrategy[str]:
    return st.sampled_from(text.split())


def replaced(
    data: bytes, piece: SearchStrategy[bytes], within: int | None = None
) -> SearchStrategy[bytes]:
    """The data with a piece put in place of some bytes, or of all that follow."""
    return st.builds(
        lambda place, length, new: data[:place] + new + data[place + length :],
        st.integers(0, len(data) if within is None else within),
        weighted((2, st.integers(0, 20)), (1, st.just(len(data)))),
        piece,
    )


# A head holds latin-1 without control characters: the HTTP parser lets no others through.
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]))
LONG = words("x 9 [ a. a=b; 0-1, & ?").map(lambda text: text * 5000)
NUMBERS = st.integers().map(str) | st.floats().map(str) | words("1 60 10001 1e400 0x10 1_0 \xb2")

# Bodies.

PICTURE = picture()
REQUEST = request_of()
REQUEST_JSON = json.dumps(REQUEST)
FIELDS = words(
    "prompt prompt prompt negative_prompt num_frames num_inference_steps guidance_scale seed"
    " sync_mode image_url"
    " video_output_type video_quality allowed_apps parts token_expiration file_name content_type"
    " expiration_duration_seconds initial_acl default rules decision __proto__ constructor \ud800"
)
SCALARS = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400),
    st.text(st.characters()) | LONG,  # of all code points, surrogates too
    words("\ud800 \ud800 9 true null forbid ../a cosmos-predict-2.5 fal-ai/flux http://10.0.0.1/"),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=6,
)
# None of these has a name that would be looked up.
KNOWN_URLS = """
    car.png /etc/passwd file:///etc/passwd ftp://10.0.0.1/a gopher://127.0.0.1:6379/_ //1.2.3.4
    http://127.0.0.1:8000/health/live http://localhost:8000/admin/queue http://[::1]:8000/
    http://169.254.169.254/latest/meta-data/ http://2130706433/ http://0x7f.1/ http://0/
    http://[::ffff:127.0.0.1]/ http://[64:ff9b::7f00:1]/ http://100.64.0.1/ http://[fe80::1%25lo]/
    http://user:pw@10.0.0.1/ http://10.0.0.1:0/ http://10.0.0.1:99999/ http://\ud800/ http://[::1
    http://localhost:8000/files/../../key/a.png http://localhost:8000/files/%2e%2e/key
    https://v3.fal.media/files/00000000000000000000000000000000/a.png javascript:alert(1)
    data: data:, data:image/png data:;base64 DATA:,%zz data:,% data:image/png;base64, data:,\0
    data:image/png;base64,! data:image/png;base64,AAA data:image/png;base64;base64,AAAA
    data:text/html,<script> data:;base64,\ud800
"""
MADE_URLS = st.builds("{}{}".format, words("http://10.0.0.1 data:,"), LATIN | LONG)
URLS = words(KNOWN_URLS) | st.sampled_from(["", "http://10.0.0.1\r\nx: y/"]) | MADE_URLS


@st.composite
def wrong_objects(draw: st.DrawFn) -> dict[str, Any]:
    """A request for a video of which some fields are wrong or missing."""
    body: dict[str, Any] = REQUEST | draw(st.dictionaries(FIELDS, JSON, max_size=3))
    body |= draw(weighted((1, st.just({})), (2, st.fixed_dictionaries({"image_url": URLS}))))
    body.pop(draw(weighted((4, st.just("")), (1, FIELDS))), None)
    # Half can become no video, which takes its time.
    body |= draw(weighted((1, st.just({})), (1, st.just({"num_frames": 0}))))
    return body


def as_json(value: Any, ensure_ascii: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")


STRANGE_JSON = [
    (REQUEST_JSON[:-1] + ', "prompt": 1, "prompt": {"a": [' + "[" * 100 + "]}}").encode(),
    b'{"prompt": "\\ud800", "image_url": "\\udc00"}',
    b'{"guidance_scale": NaN, "seed": -Infinity}',
    b'{"seed": ' + b"9" * 5000 + b"}",
    b"[" * 50_000,
    b'{"a":' * 20_000,
    gzip.compress(REQUEST_JSON.encode()),
]
BROKEN_JSON = st.one_of(
    replaced(REQUEST_JSON.encode(), st.sampled_from([b"", *b'" { } [ ] , : \\ \0 \x80'.split()])),
    words("utf-16 utf-32 utf-8-sig").map(REQUEST_JSON.encode),
    st.sampled_from(STRANGE_JSON),
)
OTHER_BODIES = [
    b"--x\r\ncontent-disposition: form-data; name=prompt\r\n\r\nhi\r\n--x--\r\n",
    b"prompt=a&image_url=b",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    bytes(3 * 1024 * 1024),
    PICTURE,
]
BOMBS = [png(side, side, 8, 0, png_rows(bytes(10))) for side in (65_535, 2**31 - 1)]
BAD_PICTURES = st.sampled_from(BOMBS) | replaced(PICTURE, st.binary(max_size=1))
BODIES = weighted(
    (65, st.builds(as_json, wrong_objects(), st.booleans())),
    (5, st.builds(as_json, JSON)),
    (18, BROKEN_JSON),
    (5, st.sampled_from(OTHER_BODIES)),
    (6, st.binary(max_size=1000)),
    (1, BAD_PICTURES.map(lambda data: as_json(request_of(image_url=data_uri(data))))),
)

# Heads.

METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT"]
HOSTS = """
    localhost 127.0.0.1:8000 [::1]:8000 queue.localhost fal.run queue.fal.run rest.fal.ai fal.ai
    v3.fal.media ws.fal.run FAL.RUN. queue.falrun.com evil.example localhost.evil.example a/b \xff
    169.254.169.254 @localhost localhost:99999 localhost:x [::1
"""
HOST = weighted((3, st.just("localhost")), (1, words(HOSTS)))
COMMON_PATHS = f"""
    /run/{ENDPOINT} /queue/{ENDPOINT} /{ENDPOINT} /run/{ENDPOINT}/stream /files/ID/NAME
    /queue/{APP}/requests/ID /queue/{APP}/requests/ID/status
"""
# The queue's pause is not among them: all that comes after would wait.
OTHER_PATHS = f"""
    /queue/{APP}/requests/ID/status/stream /queue/{APP}/requests/ID/cancel /{APP}/requests/ID
    /queue/{ENDPOINT}/requests/ID/status /queue/fal-ai/flux/requests/ID /run/fal-ai/flux/dev
    /api/fal/proxy /rest/tokens /rest/tokens/ /tokens/ /rest/storage/auth/token /files/upload
    /rest/storage/upload/initiate /rest/storage/upload/initiate-multipart /files/upload/multipart
    /files/upload/ID /files/upload/ID/NUMBER /files/upload/ID/complete /files/ID/NAME/multipart/ID
    /files/ID/NAME/multipart/ID/NUMBER /files/ID/NAME/multipart/ID/complete /metrics /admin/queue
    /admin/queue/resume /health/live /health/ready /docs /docs/NAME /openapi.json /llms.txt
    /models/{ENDPOINT}/llms.txt /.well-known/jwks.json /api/openapi/queue/openapi.json / /*
    /NAME /NAME/NAME
"""
PATHS = words(8 * COMMON_PATHS + OTHER_PATHS)
KNOWN_NAMES = """
    .. . %2e%2e %252e%252e ..%2f..%2fetc%2fpasswd %2f %5c..%5c ..; %00 a%00b %c0%ae%c0%ae % %zz
    %u002e ~root %0d%0aset-cookie:a=b %e2%80%ae %ed%a0%80 C:%5cwindows etc passwd .git .env con '
    jobs.sqlite3 key token.secret files queue run requests upload cancel status v1 {{7*7}}
    ${jndi:ldap: <script> %25s%25n video.mp4 car.png swagger-ui.css
"""
ESCAPES = st.binary(max_size=9).map(lambda data: "".join(f"%{byte:02x}" for byte in data))
NAMES = weighted((8, words(KNOWN_NAMES)), (1, ESCAPES), (1, st.text(max_size=9)), (1, LONG))
UNKNOWN_IDS = NUMBERS | NAMES | st.just("00000000-0000-4000-8000-000000000000")
PARTS = {"NUMBER": st.just("1") | NUMBERS, "NAME": NAMES}
BENDS: list[Callable[[str], str]] = [
    lambda path: path + "/",
    lambda path: "/" + path,
    lambda path: path * 30,
    lambda path: path.upper(),
    lambda path: path[1:],
    lambda path: "".join(f"%{ord(each) % 256:02x}" for each in path),
]
QUERIES = weighted(
    (20, st.just("")),
    (6, words("logs=1 logs=%ff logs=1&logs=0 % =&=& ;a=b endpoint_id=../.. fal_jwt_token=a.b.c")),
    (3, st.builds("fal_webhook={}".format, URLS)),
    (1, st.builds("{}={}".format, words("fal_jwt_token endpoint_id logs a"), LATIN | LONG)),
)
SECRETS = (
    "a : a: :b a:b a:b:c \xff a.b.c YTpi eyJhbGciOiJub25lIn0.e30. eyJraWQiOnt9fQ.e30.x a:b,Key"
)
AUTHORIZATIONS = [
    f"{scheme} {secret}"
    for scheme in ("Key", "key", "KEY", "Bearer", "Basic", "Token")
    for secret in ("", "a" * 5000, *SECRETS.split())
]
KNOWN_HEADERS = f"""
    x-fal-queue-priority: low high 9 normal,low
    x-fal-store-io: 0 maybe
    x-fal-no-retry: 1 2 yes,no
    x-fal-runner-hint: a
    x-fal-file-name: ../../etc/passwd a"b.png K\xe4se.png .. \0
    x-fal-target-url: https://fal.run/{ENDPOINT} https://queue.fal.run/{APP}/requests/x/status
    x-fal-target-url: https://169.254.169.254/ http://fal.run/ https://fal.run@evil.example/
    x-fal-target-url: https://fal.run/../../etc/passwd https://fal.run\\@evil.example/ https://
    x-fal-target-url: https://v3.fal.media/files/upload https://fal.run/%zz#a https://fal.run:1/
    x-fal-target-url: https://fal.run/api/fal/proxy https://rest.fal.ai/storage/upload/initiate
    idempotency-key: a ';DROP
    content-type: application/json text/plain image/svg+xml text/html\xff multipart/form-data
    content-type: application/json;charset=utf-16 application/x-www-form-urlencoded
    content-encoding: gzip br identity,gzip
    accept-encoding: gzip,br;q=x *
    transfer-encoding: gzip identity
    expect: 100-continue miracle
    range: bytes=0-0 bytes=-1 bytes=5-1 bytes=0-,0-,0- bytes=a-b lines=1-2 bytes= bytes=--1
    range: bytes=0-0,-1 bytes=99999999999999999999- bytes={"0-1," * 2000}
    if-range: x "{"0" * 64}" Wed,21Oct2015
    if-none-match: * "a"
    if-modified-since: never
    origin: https://evil.example null http://localhost
    access-control-request-method: POST
    access-control-request-headers: a
    forwarded: for=127.0.0.1;host=evil.example
    x-forwarded-for: 127.0.0.1 unknown,1.2.3.4 x
    x-forwarded-host: evil.example a/b
    x-forwarded-proto: https javascript
    x-forwarded-prefix: /../.. //evil.example /a
    x-real-ip: 127.0.0.1
    x-http-method-override: DELETE
    x-original-url: /admin/queue/pause
    x-fal-request-timeout: 1
    x-fal-object-lifecycle: null
    x-fal-object-lifecycle-preference: null
    x-app-fal-upload-policy: null
    cookie: a=b
    te: trailers
    upgrade: websocket h2c
    user-agent: ();
"""
HEADERS = [
    (line.partition(": ")[0].strip(), value)
    for line in KNOWN_HEADERS.strip().splitlines()
    for value in line.partition(": ")[2].split()
]
TARGETS = [header for header in HEADERS if header[0] == "x-fal-target-url"]
LIFECYCLES = st.dictionaries(FIELDS, JSON, max_size=2).map(json.dumps) | JSON.map(json.dumps)
SENT_HEADERS = weighted(
    (10, st.sampled_from(HEADERS)),
    (1, st.tuples(st.sampled_from([name for name, _ in HEADERS]), LATIN | LONG)),
    (4, st.tuples(st.just("x-fal-request-timeout"), NUMBERS | LATIN)),
    (4, st.tuples(words("x-fal-object-lifecycle x-fal-object-lifecycle-preference"), LIFECYCLES)),
)
HEADER_LISTS = weighted((1, st.just([])), (1, st.lists(SENT_HEADERS, max_size=3)))
ONE_IN_TEN = st.integers(1, 10).map(lambda number: number == 10)


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """A request; `target` is its path and query as they are sent, `body` comes in pieces."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: tuple[bytes, bytes]
    is_chunked: bool

    def raw(self) -> bytes:
        """As it goes over the wire."""
        lines = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target)]
        lines += [name + b": " + value for name, value in self.headers]
        sent = b"".join(self.body)
        if self.is_chunked:
            lines.append(b"transfer-encoding: chunked")
            sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (*self.body, b""))
        elif sent:
            lines.append(b"content-length: %d" % len(sent))
        return b"\r\n".join(lines) + b"\r\n\r\n" + sent


@st.composite
def paths(draw: st.DrawFn, ids: SearchStrategy[str]) -> str:
    """The path of some route, or one like it."""
    parts = PARTS | {"ID": ids}
    segments = draw(PATHS).split("/")
    segments = [draw(parts[each]) if each in parts else each for each in segments]
    if draw(ONE_IN_TEN):
        segments.insert(draw(st.integers(1, len(segments))), draw(NAMES))
    path = "/".join(segments)
    if draw(ONE_IN_TEN):
        path = draw(st.sampled_from(BENDS))(path)
    # The HTTP parser lets nothing but ASCII through to the app.
    return quote(path, safe="/%?:;=&<>{}$'\"\\~*[]@!|^`") or "/"


def usual_method(path: str) -> str:
    """A method that the path is likely to take."""
    if path.endswith("cancel") or "/upload/" in path:
        return "PUT"
    posts = ("image-to-video", "stream", "upload", "token", "proxy", "complete", "initiate")
    return "POST" if any(word in path[-30:] for word in posts) else "GET"


@st.composite
def _requests(
    draw: st.DrawFn, ids: SearchStrategy[str], authorizations: SearchStrategy[str]
) -> HostileRequest:
    path, query = draw(paths(ids)), draw(QUERIES)
    target = f"{path}?{query}" if query else path
    method = draw(st.sampled_from([usual_method(path)] * 4 * len(METHODS) + METHODS))
    headers = [("host", draw(HOST)), ("authorization", draw(authorizations)), *draw(HEADER_LISTS)]
    if "proxy" in path:
        headers.append(draw(st.sampled_from(TARGETS)))
    if draw(ONE_IN_TEN):
        headers.append(draw(st.sampled_from(headers)))
    body, is_chunked = (b"", b""), False
    if method in ("POST", "PUT") or draw(ONE_IN_TEN):
        data, cut, is_chunked = draw(BODIES), draw(st.integers(0, 200)), draw(st.booleans())
        body = data[:cut], data[cut:]
    sent = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers if value]
    return HostileRequest(
        method, target.encode("latin-1", "replace"), tuple(sent), body, is_chunked
    )


def hostile_requests(
    ids: Sequence[str] = (), authorization: str = ""
) -> SearchStrategy[HostileRequest]:
    """Requests of a caller who sends `authorization` with most of them.

    `ids` are ids of things that are there.
    """
    return _requests(
        st.sampled_from(ids) | UNKNOWN_IDS if ids else UNKNOWN_IDS,
        st.sampled_from([authorization] * 9 * len(AUTHORIZATIONS) + AUTHORIZATIONS),
    )


def known_requests(authorization: str) -> list[HostileRequest]:
    """Requests that a search may miss, and that each run is to send."""
    half = {"prompt": "\ud800", "file_name": "\ud800", "allowed_apps": ["\ud800"]}
    bodies = [as_json(REQUEST | half, is_ascii) for is_ascii in (True, False)]
    bodies.append(as_json(REQUEST | {"image_url": "http://\ud800/"}))
    timeouts = ["soon", "nan", "1e3", "-1", "\xb2", "9" * 400]
    headers = [("x-fal-request-timeout", text) for text in timeouts]
    for name in ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"):
        headers += [(name, "[" * 50_000), (name, '{"a":' * 20_000)]
    plain: list[tuple[str, str]] = [("host", "localhost"), ("authorization", authorization)]
    requests: list[tuple[list[tuple[str, str]], bytes]] = [([], body) for body in bodies]
    requests += [([each], b"{}") for each in headers]
    return [
        HostileRequest(
            "POST",
            path.encode() + b"?fal_webhook=http://\xa0/",
            tuple((name.encode(), text.encode("latin-1")) for name, text in plain + more if text),
            (body, b""),
            is_chunked=False,
        )
        for path in POSTS
        for more, body in requests
    ]


POSTS = f"/run/{ENDPOINT} /queue/{ENDPOINT} /files/upload {INITIATE} /rest/tokens/".split()
PIECES = (
    b"\0|\r\n|\n\n| |\t|\xff\xfe|\x1b[31m|\r\n\r\n|HTTP/1.1|:|\x16\x03\x01|GET / HTTP/0.9\r\n\r\n"
    b"|0\r\n\r\n|\r\ncontent-length: 5|\r\ncontent-length: -1|\r\ncontent-length: 99999999999999999"
    b"|\r\ntransfer-encoding: chunked, chunked|\r\ntransfer-encoding: chunked|\r\nconnection: close"
    b"|\r\nconnection: upgrade\r\nupgrade: h2c|\r\nx: \x80\x81|\r\n folded: yes|\n|\r|\r\n "
    b"|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n|\r\nhost: evil.example"
).split(b"|")


@st.composite
def mangled_requests(draw: st.DrawFn) -> bytes:
    """The bytes of a request whose head may be no HTTP any more."""
    data = draw(hostile_requests()).raw()
    pieces = st.sampled_from(PIECES) | st.binary(max_size=1) | st.just(b"a" * 9000)
    for _ in range(draw(st.integers(0, 4))):
        data = draw(replaced(data, pieces, within=max(0, data.find(b"\r\n\r\n"))))
    return data
