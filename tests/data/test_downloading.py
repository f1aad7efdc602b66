"""Downloads against a real HTTP server on this machine: what comes, what is refused, what is bounded."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from ccray.config import Download
from ccray.data.downloading import checked_address, download, is_public
from ccray.data.images import Unusable

BODY = b"\x89PNG and the rest of it" * 100
HERE = Download(timeout_seconds=5, allowed_hosts=("127.0.0.1", "localhost"))


@dataclass
class Site:
    """A running server and the paths that it was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    site: Site
    stop: threading.Event

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.site.asked.append(path)
        if path.startswith("/status/"):
            self.reply(int(path.removeprefix("/status/")), b"")
        elif path.startswith("/to?"):
            self.reply(302, b"", Location=path.removeprefix("/to?"))
        elif path == "/once-down" and self.site.asked.count(path) == 1:
            self.reply(503, b"")
        elif path == "/cut":
            self.reply(200, BODY[:10], length=len(BODY))
        elif path == "/drip":
            self.drip()
        elif path == "/endless":
            self.endless()
        else:
            self.reply(200, BODY)

    def reply(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.stop.wait(0.05):
            try:
                self.wfile.write(b".")
            except OSError:
                return

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.stop.is_set():
            try:
                self.wfile.write(b"." * 65536)
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def site() -> Iterator[Site]:
    handler = type("Bound", (Handler,), {"stop": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.site = Site(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler.site
    handler.stop.set()
    server.shutdown()
    server.server_close()


def reason(outcome: bytes | Unusable) -> str:
    assert isinstance(outcome, Unusable), outcome
    return outcome.reason


def test_bytes_come_as_they_are(site: Site) -> None:
    assert download(f"{site.url}/a b/é.png?x=1 2", HERE, 10_000) == BODY
    assert site.asked == ["/a b/é.png?x=1 2"]


def test_redirects_are_followed_and_counted(site: Site) -> None:
    assert download(f"{site.url}/to?{site.url}/to?/picture.png", HERE, 10_000) == BODY
    assert reason(download(f"{site.url}/to?/to?/to?/to?/to?/to?/x", HERE, 10_000)) == "download_redirects"
    assert reason(download(f"{site.url}/to?ftp://127.0.0.1/x", HERE, 10_000)) == "download_bad_url"
    assert reason(download(f"{site.url}/to?file:///etc/passwd", HERE, 10_000)) == "download_bad_url"


def test_a_server_that_says_no(site: Site) -> None:
    assert reason(download(f"{site.url}/status/404", HERE, 10_000)) == "download_not_found"
    assert site.asked == ["/status/404"]
    assert reason(download(f"{site.url}/status/500", HERE, 10_000)) == "download_server_error"
    assert site.asked.count("/status/500") == 3
    assert download(f"{site.url}/once-down", HERE, 10_000) == BODY


def test_sizes_are_bounded(site: Site) -> None:
    assert reason(download(f"{site.url}/picture", HERE, len(BODY) - 1)) == "too_many_bytes"
    assert reason(download(f"{site.url}/endless", HERE, 1_000_000)) == "too_many_bytes"
    assert reason(download(f"{site.url}/cut", HERE, 10_000)) == "download_failed"


def test_times_are_bounded(site: Site) -> None:
    began = time.monotonic()
    outcome = download(f"{site.url}/drip", Download(timeout_seconds=0.5, allowed_hosts=("127.0.0.1", "localhost")), 1_000_000)
    assert reason(outcome) == "download_timeout"
    assert time.monotonic() - began < 20


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert reason(download(f"http://127.0.0.1:{port}/", HERE, 10)) == "download_failed"
    assert reason(download("http://no-such-host.invalid/", HERE, 10)) == "download_failed"


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "file:///etc/passwd", "data:image/png;base64,AA", "http:///x", "http://[::1", "http://a:99999/", "gopher://x"]
)
def test_only_http(url: str) -> None:
    assert reason(download(url, HERE, 10)) == "download_bad_url"


def test_private_addresses_are_refused_also_behind_a_redirect(site: Site) -> None:
    assert reason(download(f"{site.url}/picture", Download(), 10_000)) == "blocked_address"
    assert reason(download(site.url.replace("127.0.0.1", "localhost"), Download(), 10_000)) == "blocked_address"
    assert reason(download("http://2130706433/", Download(), 10_000)) == "blocked_address"  # 127.0.0.1 as one number
    assert reason(download("http://169.254.169.254/latest/meta-data/", Download(), 10_000)) == "blocked_address"
    assert site.asked == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_addresses_that_are() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    assert checked_address("93.184.216.34", 80, False) == "93.184.216.34"


def test_a_server_without_tls_gets_no_plain_words(site: Site) -> None:
    outcome = download(site.url.replace("http:", "https:"), Download(timeout_seconds=2, allowed_hosts=("127.0.0.1", "localhost")), 10_000)
    assert reason(outcome) in ("download_failed", "download_timeout")
    assert site.asked == []
