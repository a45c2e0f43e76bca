"""Hypothesis strategies for requests of attackers and of broken programs."""

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from api_documents import own
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from servers import APP, ENDPOINT, picture, request_of
from upload_calls import INITIATE

Header = tuple[str, str]


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
ONE_IN_TEN = st.integers(1, 10).map(lambda number: number == 10)

# Bodies.

REQUEST = request_of()
REQUEST_JSON = json.dumps(REQUEST)
SCHEMAS = own()["components"]["schemas"].values()
FIELDS = words("__proto__ \ud800 \0 prompt prompt") | st.sampled_from(
    [name for schema in SCHEMAS for name in schema.get("properties", ())]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400)
    # Of all code points, surrogates too.
    | st.text(st.characters()) | LONG | words("\ud800 \0 9 true null forbid ../a fal-ai/flux"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
# None of these has a name that would be looked up.
KNOWN_URLS = """
    car.png file:///etc/passwd gopher://127.0.0.1:6379/_ //1.2.3.4 http://2130706433/ http://0x7f.1/
    http://127.0.0.1:8000/health/live http://localhost:8000/admin/queue http://[::1]:8000/
    http://169.254.169.254/latest/meta-data/ http://[::ffff:127.0.0.1]/ http://[fe80::1%25lo]/
    http://user:pw@10.0.0.1/ http://10.0.0.1:0/ http://10.0.0.1:99999/ http://\ud800/ http://[::1
    http://localhost:8000/files/../../key/a.png http://localhost:8000/files/%2e%2e/key
    https://v3.fal.media/files/00000000000000000000000000000000/a.png javascript:alert(1)
    data: data:, data:image/png data:;base64 DATA:,%zz data:image/png;base64, data:,\0
    data:image/png;base64,! data:image/png;base64,AAA data:text/html,<script> data:;base64,\ud800
"""
MADE_URLS = st.builds("{}{}".format, words("http://10.0.0.1 data:,"), LATIN | LONG)
URLS = words(KNOWN_URLS) | st.sampled_from(["", "http://10.0.0.1\r\nx: y/"]) | MADE_URLS


@st.composite
def wrong_objects(draw: st.DrawFn) -> dict[str, Any]:
    """A request for a video of which some fields are wrong or missing."""
    body: dict[str, Any] = REQUEST | draw(st.dictionaries(FIELDS, JSON, max_size=3))
    # Half can become no video, which takes its time.
    body |= draw(st.fixed_dictionaries({}, optional={"image_url": URLS, "num_frames": st.just(0)}))
    if draw(ONE_IN_TEN):
        del body[draw(st.sampled_from(sorted(body, key=repr)))]
    return body


def as_json(value: Any, ensure_ascii: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")


BROKEN_JSON = st.one_of(
    replaced(REQUEST_JSON.encode(), st.sampled_from([b"", *b'" { } [ ] , : \\ \0 \x80'.split()])),
    words("utf-16 utf-32 utf-8-sig").map(REQUEST_JSON.encode),
    st.sampled_from(
        [
            (REQUEST_JSON[:-1] + ', "prompt": 1, "prompt": {"a": [' + "[" * 100 + "]}}").encode(),
            b'{"guidance_scale": NaN, "seed": -Infinity}',
            b'{"seed": ' + b"9" * 5000 + b"}",
            b"[" * 50_000,
            b'{"a":' * 20_000,
            gzip.compress(REQUEST_JSON.encode()),
        ]
    ),
)
OTHER_BODIES = [
    b"--x\r\ncontent-disposition: form-data; name=prompt\r\n\r\nhi\r\n--x--\r\n",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"prompt=a&image_url=b",
    bytes(3 * 1024 * 1024),
    picture(),
]
BODIES = weighted(
    (65, st.builds(as_json, wrong_objects(), st.booleans())),
    (5, st.builds(as_json, JSON)),
    (18, BROKEN_JSON),
    (5, st.sampled_from(OTHER_BODIES)),
    (6, st.binary(max_size=1000)),
)

# Heads.

METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT"]
HOSTS = """
    localhost 127.0.0.1:8000 [::1]:8000 queue.localhost fal.run queue.fal.run rest.fal.ai fal.ai
    v3.fal.media ws.fal.run FAL.RUN. queue.falrun.com evil.example localhost.evil.example a/b \xff
    169.254.169.254 @localhost localhost:99999 localhost:x [::1
"""
HOST = weighted((3, st.just("localhost")), (1, words(HOSTS)))
# The queue's pause is not among them: all that comes after would wait.
ROUTES = [
    (method.upper(), path)
    for path, operations in own()["paths"].items()
    for method in operations
    if not path.endswith("/pause")
]
COMMON_ROUTES = [route for route in ROUTES if route[1].startswith(("/run", "/queue", "/files/{"))]
OTHER_ROUTES = [
    *[
        ("POST", path)
        for path in ("/api/fal/proxy", f"/{ENDPOINT}", "/run/fal-ai/flux/dev", "/mcp")
    ],
    *[(method, "/page/session") for method in ("GET", "POST", "DELETE")],
    *[("GET", path) for path in ("/", "/*", "/{name}", "/{name}/{name}", "/docs/{name}")],
    *[("GET", f"/{app}/requests/{{request_id}}") for app in (APP, "queue/fal-ai/flux")],
]
KNOWN_NAMES = """
    .. . %2e%2e %252e%252e ..%2f..%2fetc%2fpasswd %2f %5c..%5c ..; %00 a%00b %c0%ae%c0%ae % %zz
    %u002e ~root %0d%0aset-cookie:a=b %e2%80%ae %ed%a0%80 C:%5cwindows .git .env ' jobs.sqlite3
    token.secret files queue requests upload cancel status {{7*7}} ${jndi:ldap: <script> %25s%25n
"""


def escaped(data: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in data)


NAMES = weighted(
    (8, words(KNOWN_NAMES)),
    (1, st.binary(max_size=9).map(escaped)),
    (1, st.text(max_size=9)),
    (1, LONG),
)
UNKNOWN_IDS = NUMBERS | NAMES | st.just("00000000-0000-4000-8000-000000000000")
BENDS: list[Callable[[str], str]] = [
    lambda path: path + "/",
    lambda path: "/" + path,
    lambda path: path * 30,
    lambda path: path.upper(),
    lambda path: path[1:],
    lambda path: escaped(path.encode()),
]
QUERIES = weighted(
    (20, st.just("")),
    (
        6,
        words(
            "?logs=1 ?logs=%ff ?logs=1&logs=0 ?% ?=&=& ?;a=b ?endpoint_id=.. ?fal_jwt_token=a.b.c"
        ),
    ),
    (3, st.builds("?fal_webhook={}".format, URLS)),
    (1, st.builds("?{}={}".format, words("fal_jwt_token endpoint_id logs a"), LATIN | LONG)),
)
SECRETS = (
    "a : a: :b a:b a:b:c \xff a.b.c YTpi eyJhbGciOiJub25lIn0.e30. eyJraWQiOnt9fQ.e30.x a:b,Key"
)
AUTHORIZATIONS = st.builds(
    "{} {}".format, words("Key key KEY Bearer Basic Token"), words(SECRETS) | st.just("a" * 5000)
)
TARGETS = words(f"""
    https://fal.run/{ENDPOINT} https://queue.fal.run/{APP}/requests/x/status https://
    https://169.254.169.254/ http://fal.run/ https://fal.run@evil.example/ https://fal.run:1/
    https://fal.run/../../etc/passwd https://fal.run\\@evil.example/ https://fal.run/%zz#a
    https://fal.run/api/fal/proxy https://rest.fal.ai/storage/upload/initiate
""")
RANGES = words(f"""
    bytes=0-0 bytes=-1 bytes=5-1 bytes=0-,0-,0- bytes=a-b lines=1-2 bytes= bytes=--1
    bytes=0-0,-1 bytes=99999999999999999999- bytes={"0-1," * 2000}
""")
HEADER_NAMES = words("""
    x-fal-queue-priority x-fal-store-io x-fal-no-retry x-fal-runner-hint x-fal-file-name te upgrade
    idempotency-key content-type content-encoding accept-encoding transfer-encoding expect cookie
    if-range if-none-match if-modified-since origin access-control-request-method user-agent
    forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-prefix x-real-ip
    access-control-request-headers x-http-method-override x-original-url x-app-fal-upload-policy
""")
HEADER_VALUES = words("""
    low 0 1 * a null yes,no ../../etc/passwd a"b.png K\xe4se.png .. \0 text/plain image/svg+xml
    text/html\xff multipart/form-data application/json;charset=utf-16 gzip br gzip,br;q=x identity
    100-continue miracle Wed,21Oct2015 https://evil.example http://localhost POST DELETE https
    for=127.0.0.1;host=evil.example 127.0.0.1 unknown,1.2.3.4 evil.example a/b javascript /../..
    //evil.example /admin/queue/pause websocket h2c trailers a=b ';DROP cosmos_session=x
    cosmos_session=\xff;cosmos_session=%00 cosmos_session="a\\"b";;= __Host-cosmos_session=..
""")
LIFECYCLES = (st.dictionaries(FIELDS, JSON, max_size=2) | JSON).map(json.dumps)
SENT_HEADERS = weighted(
    (8, st.tuples(HEADER_NAMES, weighted((9, HEADER_VALUES), (1, LATIN | LONG)))),
    (1, st.tuples(st.just("x-fal-target-url"), TARGETS)),
    (2, st.tuples(st.just("range"), RANGES)),
    (4, st.tuples(st.just("x-fal-request-timeout"), NUMBERS | LATIN)),
    (4, st.tuples(words("x-fal-object-lifecycle x-fal-object-lifecycle-preference"), LIFECYCLES)),
)
HEADER_LISTS = weighted((1, st.just([])), (1, st.lists(SENT_HEADERS, max_size=3)))


class HostileRequest(NamedTuple):
    """A request; `target` is its path and query as they are sent, `body` comes in pieces."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: tuple[bytes, ...] = ()

    def raw(self) -> bytes:
        """As it goes over the wire."""
        lines = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target)]
        lines += [name + b": " + value for name, value in self.headers]
        sent = b"".join(self.body)
        if len(self.body) > 1:
            lines.append(b"transfer-encoding: chunked")
            sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (*self.body, b""))
        elif sent:
            lines.append(b"content-length: %d" % len(sent))
        return b"\r\n".join(lines) + b"\r\n\r\n" + sent


def as_bytes(headers: Sequence[Header]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), text.encode("latin-1", "replace")) for name, text in headers if text]


@st.composite
def targets(draw: st.DrawFn, path: str, ids: SearchStrategy[str]) -> bytes:
    """The path of a route, or one like it, and a query."""
    names = {"{name}": NAMES, "{number}": st.just("1") | NUMBERS}
    segments = [
        draw(names.get(segment, ids)) if segment.startswith("{") else segment
        for segment in path.split("/")
    ]
    if draw(ONE_IN_TEN):
        segments.insert(draw(st.integers(1, len(segments))), draw(NAMES))
    path = "/".join(segments)
    if draw(ONE_IN_TEN):
        path = draw(st.sampled_from(BENDS))(path)
    # The HTTP parser lets nothing but ASCII through to the app.
    sent = quote(path, safe="/%?:;=&<>{}$'\"\\~*[]@!|^`") or "/"
    query: str = draw(QUERIES)
    return (sent + query).encode("latin-1", "replace")


@st.composite
def hostile_requests(
    draw: st.DrawFn, ids: Sequence[str] = (), authorization: str = ""
) -> HostileRequest:
    """A request of a caller who sends `authorization` with most of them.

    `ids` are ids of things that are there.
    """
    method, route = draw(st.sampled_from(5 * COMMON_ROUTES + ROUTES + OTHER_ROUTES))
    target = draw(targets(route, st.sampled_from(ids) | UNKNOWN_IDS if ids else UNKNOWN_IDS))
    if draw(st.integers(1, 5)) == 5:
        method = draw(st.sampled_from(METHODS))
    sender = st.just(authorization) if not draw(ONE_IN_TEN) else AUTHORIZATIONS
    headers = [("host", draw(HOST)), ("authorization", draw(sender)), *draw(HEADER_LISTS)]
    if b"proxy" in target:
        headers.append(("x-fal-target-url", draw(TARGETS)))
    if draw(ONE_IN_TEN):
        headers.append(draw(st.sampled_from(headers)))
    body: tuple[bytes, ...] = ()
    if method in ("POST", "PUT") or draw(ONE_IN_TEN):
        data, cut = draw(BODIES), draw(st.integers(0, 200))
        body = (data[:cut], data[cut:]) if draw(st.booleans()) else (data,)
    return HostileRequest(method, target, as_bytes(headers), body)


POSTS = (
    f"/run/{ENDPOINT} /queue/{ENDPOINT} /files/upload {INITIATE} /rest/tokens/ /v1/keys /v1/videos"
).split()
GETS = f"""
    /v1/videos?after=%00 /v1/videos/%00 /files/a/%00 /queue/{APP}/requests/%00/status
    /v1/models/usage?api_key_id=%00 /v1/models/analytics?endpoint_id=%00
    /v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}&request_id=%00
    /v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}&cursor=%00
""".split()


def known_requests(authorization: str) -> list[HostileRequest]:
    """Requests that a search may miss, and that each run is to send."""
    bodies = []
    # Half a surrogate pair, and what PostgreSQL does not take.
    for bad in ("\ud800", "a\0b"):
        fields = {"prompt": bad, "file_name": bad, "allowed_apps": [bad], "alias": bad}
        bodies += [as_json(REQUEST | fields, is_ascii) for is_ascii in (True, False)]
        bodies.append(as_json(REQUEST | {"image_url": f"http://{bad}/"}))
        bodies.append(as_json(REQUEST | {bad: bad}))
    timeouts = ["soon", "nan", "1e3", "-1", "\xb2", "9" * 400]
    headers = [("x-fal-request-timeout", text) for text in timeouts]
    headers += [(name, "a\0b") for name in ("idempotency-key", "x-fal-file-name", "traceparent")]
    for name in ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"):
        headers += [(name, "[" * 50_000), (name, '{"a":' * 20_000)]
    plain: list[Header] = [("host", "localhost"), ("authorization", authorization)]
    own: list[Header] = [("host", "localhost"), ("origin", "http://localhost")]
    keys: list[Any] = ["\ud800", "\ud800:b", "a:" + "b" * 4000, "a" * 5000, None, 1, {"a": "b"}]
    sign_ins = [as_json({"key": key}) for key in keys] + [b"[" * 4000, b'{"key": NaN', b"\xff"]
    requests = [(plain, body) for body in bodies] + [([*plain, each], b"{}") for each in headers]
    return [
        *[
            HostileRequest("POST", target, as_bytes(sent), (body,))
            for target in (path.encode() + b"?fal_webhook=http://\xa0/" for path in POSTS)
            for sent, body in requests
        ],
        *[HostileRequest("GET", target.encode(), as_bytes(plain)) for target in GETS],
        *[HostileRequest("POST", b"/page/session", as_bytes(own), (body,)) for body in sign_ins],
    ]


PIECES = (
    b"\r\n|\n\n|\xff\xfe|\x1b[31m|\r\n\r\n|HTTP/1.1|\x16\x03\x01|GET / HTTP/0.9\r\n\r\n|0\r\n\r\n|"
    b"\r\ncontent-length: 5|\r\ncontent-length: -1|\r\ncontent-length: 99999999999999999|\r\n |"
    b"\r\ntransfer-encoding: chunked, chunked|\r\ntransfer-encoding: chunked|\r\nconnection: close|"
    b"\r\nconnection: upgrade\r\nupgrade: h2c|\r\nx: \x80\x81|\r\n folded: yes|"
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n|\r\nhost: evil.example"
).split(b"|")


@st.composite
def mangled_requests(draw: st.DrawFn) -> bytes:
    """The bytes of a request whose head may be no HTTP any more."""
    data = draw(hostile_requests()).raw()
    pieces = st.sampled_from(PIECES) | st.binary(max_size=1) | st.just(b"a" * 9000)
    for _ in range(draw(st.integers(0, 4))):
        data = draw(replaced(data, pieces, within=max(0, data.find(b"\r\n\r\n"))))
    return data
