"""Requests of people who mean no good, or of programs that have gone wrong: made from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from hostile_bodies import hostile_body
from servers import APP, ENDPOINT

METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "PURGE"]

HOSTS = [
    *["localhost"] * 8,
    *["127.0.0.1:8000", "[::1]:8000", "queue.localhost", "fal.run", "queue.fal.run"],
    *["rest.fal.ai", "v3.fal.media", "fal.ai", "ws.fal.run", "FAL.RUN.", "queue.falrun.com"],
    *["evil.example", "localhost.evil.example", "169.254.169.254", "a b", "a/b", "", "@localhost"],
    *["localhost:99999", "localhost:x", "[::1", "localhost\t", "\xff", "x" * 300],
]

PATHS = [
    *["/run/{endpoint}", "/queue/{endpoint}", "/{endpoint}", "/run/{endpoint}/stream"] * 4,
    *["/queue/{app}/requests/{id}", "/queue/{app}/requests/{id}/status"] * 3,
    *["/queue/{app}/requests/{id}/status/stream", "/queue/{app}/requests/{id}/cancel"] * 2,
    *["/queue/{endpoint}/requests/{id}/status", "/{app}/requests/{id}", "/api/fal/proxy"] * 2,
    *["/rest/tokens", "/rest/tokens/", "/rest/storage/auth/token", "/rest/storage/upload/initiate"],
    *["/rest/storage/upload/initiate-multipart", "/files/upload", "/files/upload/multipart"],
    *["/files/upload/{id}", "/files/upload/{id}/{n}", "/files/upload/{id}/complete"],
    *["/files/{id}/{name}", "/files/{id}/{name}/multipart/{id}/{n}"] * 2,
    *["/files/{id}/{name}/multipart/{id}/complete", "/tokens/", "/metrics", "/admin/queue"],
    *["/admin/queue/resume", "/health/live", "/health/ready", "/docs", "/openapi.json"],
    *["/docs/{name}", "/llms.txt", "/models/{endpoint}/llms.txt", "/.well-known/jwks.json"],
    *["/api/openapi/queue/openapi.json", "/", "/*", "/{name}", "/{name}/{name}"],
]

SEGMENTS = [
    *["..", ".", "", "%2e%2e", "%252e%252e", "..%2f..%2fetc%2fpasswd", "%2f", "%5c..%5c", "..;"],
    *["%00", "a%00b", "%c0%ae%c0%ae", "%c0%af", "%e0%80%af", "%ff", "%", "%zz", "%u002e", "~root"],
    *["%0d%0aset-cookie:a=b", "%e2%80%ae", "%ed%a0%80", "%f0%9f%9a%80", "C:%5cwindows", "a" * 300],
    *["etc", "passwd", ".git", ".env", "wp-admin", "v1", "chat", "completions", "predictions"],
    *["jobs.sqlite3", "key", "token.secret", "files", "queue", "run", "requests", "upload", "con"],
    *["{{7*7}}", "${jndi:ldap:", "' OR 1=1 --", "<script>", "%25s%25n", "cancel", "status"],
]

IDS = [
    "00000000-0000-4000-8000-000000000000",
    *[
        "0",
        "-1",
        "00000000000040008000000000000000",
        "x" * 500,
        "null",
        "%20",
        "1e400",
        "🎬",
        "../..",
    ],
]

AUTHORIZATIONS = [
    *[
        "",
        "Key",
        "Key ",
        "Key :",
        "Key a:",
        "Key :b",
        "key a:b",
        "KEY a:b",
        "Bearer",
        "Bearer a.b.c",
    ],
    *[
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Basic YTpi",
        "Basic !",
        "Key a:b:c",
        "Key a b",
        "Key \xff:\xff",
    ],
    *[
        "Bearer eyJraWQiOnt9fQ.e30.x",
        "Key " + "a" * 5000 + ":b",
        "Token a",
        "Key a:b, Key c:d",
        "\t",
    ],
]

HEADERS: dict[str, Sequence[str]] = {
    "x-fal-queue-priority": ["low", "high", "", "normal, low", "9"],
    "x-fal-request-timeout": [
        "1e9",
        "-1",
        "nan",
        "inf",
        "0",
        "60",
        "9" * 400,
        "\xb2",
        "0x10",
        "1_0",
    ],
    "x-fal-store-io": ["0", "maybe", ""],
    "x-fal-no-retry": ["1", "2", "yes, no"],
    "x-fal-runner-hint": ["x" * 3000],
    "x-fal-object-lifecycle-preference": [
        *[
            '{"expiration_duration_seconds": 1e400}',
            '{"expiration_duration_seconds": -1}',
            "[" * 5000,
        ],
        *[
            '{"expiration_duration_seconds": "1"}',
            '{"initial_acl": []}',
            '{"initial_acl": {"rules": 1}}',
        ],
        *[
            '{"initial_acl": {"default": "forbid"}}',
            '{"initial_acl": {"rules": [1, {"decision": []}]}}',
        ],
        *["null", "1", '"x"', '{"expiration_duration_seconds": 60}', "\xff", "9" * 5000],
    ],
    "x-fal-object-lifecycle": ["{}", '{"initial_acl": {"rules": {"a": 1}}}'],
    "x-app-fal-upload-policy": ["{}"],
    "x-fal-file-name": [
        "../../etc/passwd",
        "a\xffb",
        "\x00",
        "x" * 5000,
        'a"b.png',
        "Käse.png",
        "..",
    ],
    "x-fal-target-url": [
        *["https://fal.run/{endpoint}", "https://queue.fal.run/{app}/requests/{id}/status?logs=1"]
        * 3,
        *[
            "https://169.254.169.254/",
            "http://fal.run/",
            "https://fal.run@evil.example/",
            "https://",
        ],
        *[
            "https://fal.run/../../etc/passwd",
            "https://fal.run\\@evil.example/",
            "https://fal.run:1/",
        ],
        *[
            "https://fal.run/api/fal/proxy",
            "https://v3.fal.media/files/upload",
            "https://fal.run/%zz#a",
        ],
        *["https://rest.fal.ai/tokens/", "https://rest.fal.ai/storage/upload/initiate", "\xff"],
    ],
    "idempotency-key": ["", "a", "x" * 300, "\xff", "'; DROP TABLE jobs"],
    "content-type": [
        *[
            "application/json",
            "text/plain",
            "multipart/form-data; boundary=x",
            "image/svg+xml",
            "a",
        ],
        *[
            "application/json; charset=utf-16",
            "text/html\xff",
            "application/x-www-form-urlencoded",
            "",
        ],
    ],
    "content-encoding": ["gzip", "br", "identity, gzip"],
    "accept-encoding": ["gzip, br;q=x", "*"],
    "transfer-encoding": ["gzip", "identity"],
    "expect": ["100-continue", "a miracle"],
    "range": [
        *[
            "bytes=0-0",
            "bytes=-1",
            "bytes=5-1",
            "bytes=0-,0-,0-",
            "bytes=a-b",
            "lines=1-2",
            "bytes=",
        ],
        *["bytes=99999999999999999999-", "bytes=" + "0-1," * 2000, "bytes=--1", "bytes=0-0,-1"],
    ],
    "if-range": ["x", '"' + "0" * 64 + '"', "Wed, 21 Oct 2015 07:28:00 GMT", "\xff"],
    "if-none-match": ["*", '"a"'],
    "if-modified-since": ["never"],
    "origin": ["https://evil.example", "null", "http://localhost", "\xff", ""],
    "access-control-request-method": ["POST", "\xff"],
    "access-control-request-headers": ["x" * 3000],
    "forwarded": ["for=127.0.0.1;host=evil.example"],
    "x-forwarded-for": ["127.0.0.1", "unknown, 1.2.3.4", "x"],
    "x-forwarded-host": ["evil.example", "a/b"],
    "x-forwarded-proto": ["https", "javascript"],
    "x-forwarded-prefix": ["/../..", "//evil.example", "/a"],
    "x-real-ip": ["127.0.0.1"],
    "x-http-method-override": ["DELETE"],
    "x-original-url": ["/admin/queue/pause"],
    "cookie": ["a=b; " * 500],
    "te": ["trailers"],
    "upgrade": ["websocket", "h2c"],
    "user-agent": ["() { :; }; echo", "x" * 4000],
}

QUERIES = [
    *[""] * 12,
    *[
        "logs=1",
        "logs=%ff",
        "logs",
        "logs=1&logs=0",
        "fal_webhook=",
        "fal_webhook=http://10.0.0.1/",
    ],
    *[
        "fal_webhook=http://127.0.0.1:8000/",
        "fal_webhook=%00",
        "fal_webhook=ftp://a/",
        "a=" + "b" * 8000,
    ],
    *[
        "fal_webhook=http://169.254.169.254/latest",
        "fal_webhook=http://[::ffff:127.0.0.1]/",
        "&" * 3000,
    ],
    *[
        "fal_webhook=javascript:alert(1)",
        "fal_webhook=%ed%a0%80",
        "fal_webhook=//1.2.3.4",
        "%",
        "=&=&",
    ],
    *["fal_jwt_token=a.b.c", "fal_jwt_token=", "fal_jwt_token=%ff", "fal_jwt_token=" + "a." * 3000],
    *["endpoint_id={endpoint}", "endpoint_id=../..", "storage_type=fal-cdn-v3", "?" * 50, ";a=b"],
]


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request; `target` is its path and query as they are sent."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def raw(self) -> bytes:
        """As it goes over the wire."""
        lines = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target)]
        lines += [name + b": " + value for name, value in self.headers]
        if self.body:
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


class HostileRequests:
    """Makes requests that a seed decides.

    `ids` are ids of things that are there, `authorization` what the caller proves itself by.
    """

    def __init__(self, seed: str, *, ids: Sequence[str] = (), authorization: str = "") -> None:
        self._random = random.Random(seed)
        self._ids = [*ids, *IDS]
        self._authorization = authorization

    def next(self) -> Hostile:
        """One more."""
        dice = self._random
        path = self._path()
        method = dice.choice(METHODS) if dice.random() < 0.3 else self._fitting(path)
        target = path.encode("latin-1", "replace")
        if query := self._filled(dice.choice(QUERIES)):
            target += b"?" + query.encode("latin-1", "replace")
        has_body = method in ("POST", "PUT") or dice.random() < 0.1
        body = hostile_body(dice) if has_body else b""
        return Hostile(method, target, tuple(self._headers(path)), body)

    def _path(self) -> str:
        dice = self._random
        path = self._filled(dice.choice(PATHS))
        if dice.random() < 0.15:
            segments = path.split("/")
            for _ in range(dice.randint(1, 3)):
                segments.insert(dice.randint(1, len(segments)), dice.choice(SEGMENTS))
            path = "/".join(segments)
        if dice.random() < 0.05:
            path = dice.choice(
                [path + "/", "/" + path, path * 30, path.upper(), path[1:], path + ";"]
            )
        if dice.random() < 0.05:
            path = "".join(f"%{ord(each) % 256:02x}" for each in path)
        if "pause" in path:
            path = "/paused"
        # What is not ASCII never gets this far: that is for `raw` requests.
        return quote(path, safe="/%?:;=&<>{}$'\"\\~*[]@!|^`") or "/"

    def _filled(self, text: str) -> str:
        dice = self._random
        for name, values in (
            ("{endpoint}", [*[ENDPOINT] * 9, "fal-ai/flux/dev"]),
            ("{app}", [*[APP] * 9, "fal-ai/flux"]),
            ("{id}", self._ids),
            ("{n}", ["1", "0", "10001", "-1", "1.5", "\xb9", "x"]),
            ("{name}", [*SEGMENTS, "video.mp4", "car.png", "swagger-ui.css"]),
        ):
            while name in text:
                text = text.replace(name, dice.choice(values), 1)
        return text

    def _fitting(self, path: str) -> str:
        """A method that the path is likely to take."""
        if path.endswith("cancel") or "/upload/" in path:
            return "PUT"
        posts = ("image-to-video", "stream", "upload", "token", "proxy", "complete", "initiate")
        return "POST" if any(word in path[-30:] for word in posts) else "GET"

    def _headers(self, path: str) -> list[tuple[bytes, bytes]]:
        dice = self._random
        headers = [("host", dice.choice(HOSTS) if dice.random() < 0.25 else "localhost")]
        given = self._authorization
        if dice.random() < 0.15:
            given = dice.choice(AUTHORIZATIONS)
        if given:
            headers.append(("authorization", given))
        names = list(HEADERS)
        for _ in range(dice.choice([0, 0, 0, 0, 1, 1, 1, 2, 3])):
            name = dice.choice(names)
            headers.append((name, self._filled(dice.choice(HEADERS[name]))))
        if dice.random() < 0.05:
            headers.append(dice.choice(headers))
        if dice.random() < 0.05:
            headers.append((f"x-{dice.randint(0, 9)}", random_text(dice)))
        if "proxy" in path or dice.random() < 0.05:
            headers.append(
                ("x-fal-target-url", self._filled(dice.choice(HEADERS["x-fal-target-url"])))
            )
        return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]


def random_text(dice: random.Random) -> str:
    """What can stand in a header, from all of latin-1."""
    return "".join(chr(dice.choice([*range(32, 127), *range(160, 256)])) for _ in range(50))


def mangled(dice: random.Random, sent: bytes) -> bytes:
    """The bytes of a request, with something wrong about them."""
    data = bytearray(sent)
    end = max(1, data.find(b"\r\n\r\n"))
    for _ in range(dice.randint(0, 4)):
        place = dice.randrange(end)
        match dice.randrange(6):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                data[place:place] = dice.choice(PIECES)
            case 2:
                del data[place : place + dice.randint(1, 20)]
            case 3:
                data = data[: place + 1]
                end = len(data)
            case 4:
                data = bytearray(data.replace(b"\r\n", dice.choice([b"\n", b"\r", b"\r\n "]), 1))
            case 5:
                data[end:end] = b"\r\n" + dice.choice(PIECES)
        end = max(1, min(end, len(data)))
    return bytes(data)


PIECES = [
    *[
        b"\0",
        b"\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b"\xff\xfe",
        b"\x1b[31m",
        b"\r\n\r\n",
        b"HTTP/1.1",
        b":",
    ],
    *[b"content-length: 5", b"content-length: -1", b"content-length: 9" + b"9" * 30, b"a" * 9000],
    *[b"transfer-encoding: chunked", b"transfer-encoding: chunked, chunked", b"host: evil.example"],
    *[
        b"connection: close",
        b"connection: upgrade\r\nupgrade: h2c",
        b"x: \x80\x81",
        b" folded: yes",
    ],
    *[
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"GET / HTTP/0.9\r\n\r\n",
        b"0\r\n\r\n",
    ],
]
