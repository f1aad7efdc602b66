"""Downloads from strangers: addresses checked, redirects re-checked, sizes and times bounded.

A host name is resolved once and the connection goes to the very address that was checked, so that no second answer of a name server
can lead into a private network. Bytes are stored as received: no content encoding is asked for, none is undone.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from ccray.config import Download
from ccray.data.images import Unusable
from ccray.schema import Reject

REDIRECTS = {301, 302, 303, 307, 308}
ATTEMPTS = 3  # of a download that fails for a reason that may pass
PAUSE_SECONDS = 0.5  # before the second attempt, doubled after
CHUNK = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HEADERS = {
    "User-Agent": "ccray/0.1 (open text-to-image training; Creative Commons images)",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True)
class _Passing:
    """A failure that another attempt may not meet."""

    failure: Unusable


def download(url: str, config: Download, max_bytes: int) -> bytes | Unusable:
    """The bytes behind a URL, or why there are none. Never raises for what the network does."""
    outcome: bytes | Unusable | _Passing = Unusable(Reject.DOWNLOAD_FAILED, "not tried")
    for attempt in range(ATTEMPTS):
        if attempt:
            threading.Event().wait(PAUSE_SECONDS * 2 ** (attempt - 1))
        outcome = _follow(url, config, max_bytes)
        if not isinstance(outcome, _Passing):
            return outcome
    return outcome.failure if isinstance(outcome, _Passing) else outcome


def _follow(url: str, config: Download, max_bytes: int) -> bytes | Unusable | _Passing:
    deadline = time.monotonic() + config.timeout_seconds
    for _ in range(config.max_redirects + 1):
        outcome = _request(url, config, max_bytes, deadline)
        if not isinstance(outcome, str):
            return outcome
        url = urljoin(url, outcome)
    return Unusable(Reject.DOWNLOAD_REDIRECTS, f"more than {config.max_redirects}, last to {url[:200]}")


def _request(url: str, config: Download, max_bytes: int, deadline: float) -> bytes | str | Unusable | _Passing:
    """One exchange: bytes, the place of a redirect, or a failure."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        return Unusable(Reject.DOWNLOAD_BAD_URL, f"{url[:200]}: {error}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Unusable(Reject.DOWNLOAD_BAD_URL, f"{url[:200]}: expected http:// or https://")
    address = checked_address(parts.hostname, port, parts.hostname in config.allowed_hosts)
    if isinstance(address, Unusable):
        return _Passing(address) if address.reason == Reject.DOWNLOAD_FAILED else address
    try:
        return _exchange(parts, address, port, max_bytes, deadline)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        late = isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)) and not isinstance(error, urllib3.exceptions.NewConnectionError)
        if late or time.monotonic() >= deadline:
            return Unusable(Reject.DOWNLOAD_TIMEOUT, f"{parts.hostname} took more than {config.timeout_seconds:g} s")
        return _Passing(Unusable(Reject.DOWNLOAD_FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def checked_address(host: str, port: int, allow_private: bool) -> str | Unusable:
    """The address of a host to which we may connect, or why there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Unusable(Reject.DOWNLOAD_FAILED, f"{host[:200]} cannot be resolved: {error}")
    addresses = [str(info[4][0]) for info in found]
    refused = [address for address in addresses if not allow_private and not is_public(address)]
    if refused or not addresses:  # one bad answer spoils the name: a mixed one is a trick
        return Unusable(Reject.BLOCKED_ADDRESS, f"{host[:200]} is at {', '.join(refused) or 'no address'}: not a public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address lies on the public internet, also when an IPv6 address only wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _exchange(parts: SplitResult, address: str, port: int, max_bytes: int, deadline: float) -> bytes | str | Unusable | _Passing:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    target = urllib3.util.parse_url((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).url  # escapes blanks and non-ASCII
    connection = _connection(parts, address, port, left)
    try:
        connection.connect()
        with _watched(connection.sock, deadline - time.monotonic()) as hung_up:
            headers = HEADERS | {"Host": parts.netloc.rpartition("@")[2]}
            connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
            answer = _answer(connection.getresponse(), max_bytes)
        if hung_up.is_set() and isinstance(answer, bytes):  # what came may be a part that looks whole
            raise TimeoutError
        return answer
    finally:
        connection.close()


def _connection(parts: SplitResult, address: str, port: int, seconds: float) -> HTTPConnection:
    if parts.scheme == "http":
        return HTTPConnection(address, port, timeout=seconds)
    host = parts.hostname
    return HTTPSConnection(address, port, timeout=seconds, cert_reqs="CERT_REQUIRED", server_hostname=host, assert_hostname=host)


@contextmanager
def _watched(stream: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Hang up after `seconds`, however busily the server drips; the event says that it came to this."""
    hung_up = threading.Event()
    watch = threading.Timer(max(0.0, seconds), _hang_up, [stream, hung_up])
    watch.daemon = True
    watch.start()
    try:
        yield hung_up
    finally:
        watch.cancel()


def _hang_up(stream: socket.socket, hung_up: threading.Event) -> None:
    hung_up.set()
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


def _answer(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes | str | Unusable | _Passing:
    if response.status in REDIRECTS:
        place = response.headers.get("Location")
        return place if place else Unusable(Reject.DOWNLOAD_REFUSED, "a redirect to nowhere")
    if response.status != 200:
        failure = Unusable(_reason_of(response.status), f"HTTP {response.status} {response.reason or ''}".strip())
        return _Passing(failure) if response.status == 429 or response.status >= 500 else failure
    return _body(response, max_bytes)


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes | Unusable:
    told = response.headers.get("Content-Length", "")
    if told.isdigit() and int(told) > max_bytes:
        return Unusable(Reject.TOO_MANY_BYTES, f"{told} bytes announced, at most {max_bytes} are taken")
    data = bytearray()
    while chunk := response.read1(CHUNK):
        data += chunk
        if len(data) > max_bytes:
            return Unusable(Reject.TOO_MANY_BYTES, f"more than {max_bytes} bytes")
    if told.isdigit() and len(data) < int(told):
        raise urllib3.exceptions.ProtocolError(f"{len(data)} of {told} bytes came")
    return bytes(data)


def _reason_of(status: int) -> Reject:
    if status in (404, 410):
        return Reject.DOWNLOAD_NOT_FOUND
    if status in (429, 503):
        return Reject.DOWNLOAD_THROTTLED
    return Reject.DOWNLOAD_SERVER_ERROR if status >= 500 else Reject.DOWNLOAD_REFUSED
