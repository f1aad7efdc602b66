"""One request and its answer: bounded in bytes and seconds, every failure named, and marked when another attempt may not meet it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from ccray.data.fetching.addresses import Blocked, CheckedResolver, is_numeric
from ccray.data.pictures.images import Unusable
from ccray.schema import Reject

REDIRECTS = {301, 302, 303, 307, 308}
SMALL_BYTES = 1 << 16  # an unwanted body up to here is read, so that the connection can serve again
BUFFER_BYTES = 1 << 20

Headers = tuple[tuple[str, str], ...]  # as they came: one name may come several times


@dataclass(frozen=True)
class Answer:
    """A 200 and its body as received."""

    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Moved:
    """A redirect."""

    place: str


@dataclass(frozen=True)
class Passing:
    """A failure that another attempt may not meet."""

    failure: Unusable
    attempts: int | None = None  # at most so many in all; None = as configured
    overrun: bool = False  # the host asks to be left alone
    hold_seconds: float | None = None  # for so long; None: it does not say


@dataclass(frozen=True)
class Bounds:
    """Of one exchange. `cut`: a longer body is cut at `max_bytes`, not refused. `refuses` judges the headers before the body is read."""

    max_bytes: int
    seconds: float
    cut: bool = False
    refuses: Callable[[Headers], Unusable | None] = lambda headers: None


Outcome = Answer | Moved | Unusable | Passing


async def exchange(session: aiohttp.ClientSession, resolver: CheckedResolver, url: URL, bounds: Bounds, keep: bool = True) -> Outcome:
    """Ask for `url`; `keep` the connection for another request. Never raises for what the network does."""
    try:
        async with asyncio.timeout(bounds.seconds):
            if is_numeric(url.raw_host or ""):
                url = url.with_host((await resolver.checked(url.raw_host or "", url.port or 80))[0])
            async with session.get(url, allow_redirects=False, headers=None if keep else {"Connection": "close"}) as response:
                return await _answer(response, bounds)
    except Blocked as error:
        return Unusable(Reject.BLOCKED_ADDRESS, str(error))
    except TimeoutError:
        return Unusable(Reject.DOWNLOAD_TIMEOUT, f"{url.raw_host} took more than the {bounds.seconds:.3g} s that were left to it")
    except aiohttp.InvalidURL as error:
        return Unusable(Reject.DOWNLOAD_BAD_URL, one_line(error))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        failure = Unusable(Reject.DOWNLOAD_FAILED, f"{type(error).__name__}: {one_line(error)}")
        return failure if isinstance(error, aiohttp.ClientConnectorCertificateError) else Passing(failure)


async def _answer(response: aiohttp.ClientResponse, bounds: Bounds) -> Outcome:
    headers = tuple(response.headers.items())
    if response.status != 200:
        await _drain(response)
        place = response.headers.get("Location")
        if response.status in REDIRECTS and place:
            return Moved(place)
        return _failure(response)
    refused = bounds.refuses(headers)
    if refused is not None:
        await _drain(response)
        return refused
    body = await _body(response, bounds)
    return Answer(headers, body) if isinstance(body, bytes) else body


async def _body(response: aiohttp.ClientResponse, bounds: Bounds) -> bytes | Unusable | Passing:
    told = response.content_length
    if told is not None and told > bounds.max_bytes and not bounds.cut:
        return Unusable(Reject.TOO_MANY_BYTES, f"{told} bytes announced, at most {bounds.max_bytes} are taken")
    chunks: list[bytes] = []
    received = 0
    try:
        while chunk := await response.content.readany():
            chunks.append(chunk)
            received += len(chunk)
            if received > bounds.max_bytes:
                return b"".join(chunks)[: bounds.max_bytes] if bounds.cut else Unusable(Reject.TOO_MANY_BYTES, f"more than {bounds.max_bytes} bytes")
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
        expected = "an unknown number of" if told is None else str(told)
        return Passing(Unusable(Reject.DOWNLOAD_FAILED, f"the connection was cut after {received} of {expected} bytes: {one_line(error)}"))
    return b"".join(chunks)


async def _drain(response: aiohttp.ClientResponse) -> None:
    if response.content_length is not None and response.content_length <= SMALL_BYTES:
        await response.read()


def _failure(response: aiohttp.ClientResponse) -> Unusable | Passing:
    status = response.status
    failure = Unusable(_reason(status), f"HTTP {status} {response.reason or ''}".strip())
    if status in (429, 503):
        hold = retry_after_seconds(response.headers.get("Retry-After", ""))
        return Passing(failure, overrun=status == 429 or hold is not None, hold_seconds=hold)
    return Passing(failure) if status == 408 or status >= 500 else failure


def _reason(status: int) -> Reject:
    if status in (404, 410):
        return Reject.DOWNLOAD_NOT_FOUND
    if status in (429, 503):
        return Reject.DOWNLOAD_THROTTLED
    return Reject.DOWNLOAD_SERVER_ERROR if status >= 500 else Reject.DOWNLOAD_REFUSED


def retry_after_seconds(value: str) -> float | None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3), as seconds from now; None where it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
