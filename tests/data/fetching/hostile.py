"""A web server that misbehaves on request: what it does is the first word of the path. Every request is noted.

Threads, one a connection, plain sockets: a server library would keep it from breaking the protocol.
"""

import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

from PIL import Image

LATENCY_SECONDS = 0.05


def picture(kind: str = "JPEG", size: int = 64, **options: object) -> bytes:
    """A picture of noise in any format of Pillow's."""
    file = io.BytesIO()
    Image.effect_noise((size, size), 60).convert("RGB").save(file, kind, **options)
    return file.getvalue()


GOOD = picture()


@dataclass(frozen=True)
class Asked:
    """One request: when it came, on which connection, for what."""

    at: float
    connection: int
    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """A running server. `pages` are answered as given: body and headers; other paths by their first word (`Behaviour`)."""

    port: int
    scheme: str = "http"
    pages: dict[str, tuple[bytes, Mapping[str, str]]] = field(default_factory=dict)
    rewrites: dict[str, str] = field(default_factory=dict)  # a path is answered as another one
    requests: list[Asked] = field(default_factory=list)
    slow_ones: int = 0  # answers to /slow/... under way
    most_slow_ones: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Asked]:
        return [request for request in self.requests if request.path == path]

    def pictures(self) -> list[str]:
        """Paths asked for, the files of rules left out."""
        return [request.path for request in self.requests if request.path not in ("/robots.txt", "/.well-known/tdmrep.json")]

    def connections(self) -> int:
        return len({request.connection for request in self.requests})


@contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A server on 127.0.0.1, speaking TLS where a context is given."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        site = Site(listener.getsockname()[1], "http" if context is None else "https")
        threading.Thread(target=_accept, args=(listener, site, context), daemon=True).start()
        try:
            yield site
        finally:
            site.stop.set()


def _accept(listener: socket.socket, site: Site, context: ssl.SSLContext | None) -> None:
    number = 0
    while not site.stop.is_set():
        with suppress(OSError):
            stream, _ = listener.accept()
            number += 1
            threading.Thread(target=_serve, args=(stream, site, number, context), daemon=True).start()
            continue
        return


def _serve(stream: socket.socket, site: Site, number: int, context: ssl.SSLContext | None) -> None:
    with suppress(OSError, ValueError), stream:
        if context is not None:
            stream = context.wrap_socket(stream, server_side=True)
        reader = stream.makefile("rb")
        while line := reader.readline():
            path = unquote(line.split(b" ")[1].decode())
            headers = {}
            while (header := reader.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode().partition(":")
                headers[name.strip().lower()] = value.strip()
            with site.lock:
                site.requests.append(Asked(time.monotonic(), number, path, headers))
            if not Behaviour(stream, site, path).act():
                stream.shutdown(socket.SHUT_RDWR)
                return


class Behaviour:
    """One answer. `act` says whether the connection serves on."""

    def __init__(self, stream: socket.socket, site: Site, path: str) -> None:
        self.stream = stream
        self.site = site
        self.path = site.rewrites.get(path, path)
        self.times = len(site.asked(path))

    def act(self) -> bool:
        if self.path in self.site.pages:
            body, headers = self.site.pages[self.path]
            self.head(200, len(body), headers)
            self.stream.sendall(body)
            return True
        word, _, rest = self.path.removeprefix("/").partition("/")
        method = getattr(self, word.partition("?")[0].replace("-", "_"), None)
        if method is None:
            self.head(404, 0)
            return True
        return bool(method(rest))

    def head(self, status: int, length: int | None, headers: Mapping[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} Word", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        lines += [] if length is None else [f"Content-Length: {length}"]
        self.stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def body(self, body: bytes) -> bool:
        self.head(200, len(body))
        self.stream.sendall(body)
        return True

    def status(self, rest: str) -> bool:
        """/status/503, /status/429/NAME/TIMES/RETRY-AFTER: so often, then the picture `/good`."""
        status, _, more = rest.partition("/")
        _, times, after = [*more.split("/"), "", "", ""][:3] if more else ("", "", "")
        if times and self.times > int(times):
            return self.body(self.site.pages["/good"][0])
        self.head(int(status), 0, {"Retry-After": after} if after else {})
        return True

    def to(self, _: str) -> bool:
        """/to?PLACE: a redirect."""
        self.head(302, 0, {"Location": self.path.partition("?")[2]})
        return True

    def loop(self, rest: str) -> bool:
        """/loop/a and /loop/b lead to each other."""
        self.head(302, 0, {"Location": "/loop/b" if rest == "a" else "a"})
        return True

    def nowhere(self, _: str) -> bool:
        self.head(302, 0)
        return True

    def slow(self, rest: str) -> bool:
        """/slow/NAME: the picture, after a while."""
        with self.site.lock:
            self.site.slow_ones += 1
            self.site.most_slow_ones = max(self.site.most_slow_ones, self.site.slow_ones)
        self.site.stop.wait(LATENCY_SECONDS)
        with self.site.lock:  # before the answer: behind it the next request may already be here
            self.site.slow_ones -= 1
        return self.body(self.site.pages["/good"][0])

    def silent(self, _: str) -> bool:
        self.site.stop.wait(30)
        return False

    def drip(self, _: str) -> bool:
        self.head(200, None)
        return self.pour(b".", 0.02)

    def endless(self, _: str) -> bool:
        self.head(200, None)
        return self.pour(b"." * 65536, 0)

    def endless_chunks(self, _: str) -> bool:
        self.head(200, None, {"Transfer-Encoding": "chunked"})
        return self.pour(b"8000\r\n" + b"." * 0x8000 + b"\r\n", 0)

    def endless_headers(self, _: str) -> bool:
        self.stream.sendall(b"HTTP/1.1 200 OK\r\n")
        return self.pour(b"X-More: " + b"m" * 1000 + b"\r\n", 0)

    def endless_header(self, _: str) -> bool:
        self.stream.sendall(b"HTTP/1.1 200 OK\r\nX-More: ")
        return self.pour(b"m" * 4096, 0)

    def slow_headers(self, _: str) -> bool:
        self.stream.sendall(b"HTTP/1.1 200 OK\r\nX-More: ")
        return self.pour(b"m", 0.02)

    def huge(self, _: str) -> bool:
        self.head(200, 10**12)
        return False

    def cut(self, rest: str) -> bool:
        """/cut/TIMES: so often half of the picture `/good` and then the end of the connection."""
        body = self.site.pages["/good"][0]
        if rest and self.times > int(rest):
            return self.body(body)
        self.head(200, len(body))
        self.stream.sendall(body[: len(body) // 2])
        return False

    def half(self, rest: str) -> bool:
        """/half/TIMES: the same, but told as if it were all."""
        body = self.site.pages["/good"][0]
        return self.body(body if rest and self.times > int(rest) else body[: len(body) // 2])

    def half_unsaid(self, _: str) -> bool:
        """No length told: only the picture itself can tell."""
        body = self.site.pages["/good"][0]
        self.head(200, None, {"Connection": "close"})
        self.stream.sendall(body[: len(body) // 2])
        return False

    def short(self, _: str) -> bool:
        """A length told that is too small."""
        body = self.site.pages["/good"][0]
        self.head(200, len(body) // 2)
        self.stream.sendall(body)
        return False

    def hang_up(self, rest: str) -> bool:
        """/hang-up/TIMES: nothing at all, so often."""
        return self.body(self.site.pages["/good"][0]) if rest and self.times > int(rest) else False

    def babble(self, _: str) -> bool:
        self.stream.sendall(b"220 mail.example ESMTP\r\n")
        return False

    def pour(self, what: bytes, pause: float) -> bool:
        while not self.site.stop.wait(pause):
            self.stream.sendall(what)
        return False
