"""Downloads from strangers: many at once, few at one host, patient, and only of what may be taken.

An asynchronous client in a thread of its own, so that pictures come in while the caller decodes earlier ones. Addresses are judged
(`addresses.py`), exchanges bounded (`exchange.py`), endings looked for (`endings.py`), opt-outs honoured (`opt_outs.py`). Bytes are
kept as received: no content encoding is asked for, none is undone; no cookies, no proxies, no credentials.

A site's robots.txt and tdmrep.json are asked for once, before its first picture. What has no such file (any 4xx) sets no rules; a file
that cannot be had (5xx, no answer) keeps us away with that reason, which is no opt-out, and is asked for again after a pause.
"""

import asyncio
import hashlib
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from ccray.config import Download
from ccray.data.fetching.addresses import CheckedResolver, LookUp, request_url, system_look_up
from ccray.data.fetching.exchange import BUFFER_BYTES, Answer, Bounds, Headers, Moved, Passing, exchange
from ccray.data.fetching.opt_outs import SiteRules, agent_token, in_headers
from ccray.data.pictures.endings import whole
from ccray.data.pictures.images import Unusable
from ccray.schema import Reject

PAUSE_SECONDS = 0.5  # before the second attempt, doubled after
LONGEST_PAUSE_SECONDS = 30.0
RULES_FILES = {"robots.txt": "/robots.txt", "tdmrep": "/.well-known/tdmrep.json"}
RULES_BYTES = 512 * 1024  # of a robots.txt that are read; RFC 9309, 2.5 asks for 500 KiB at least
RULES_SECONDS = 24 * 3600  # a site's rules hold; RFC 9309, 2.4
KEPT_SITES = 10_000
BEGUN_AT_ONCE = 4096  # tasks, most of which wait for their host
WAITING_BYTES = 256 << 20  # received and not yet taken, above which nothing new is asked for
ABSENT = {Reject.DOWNLOAD_NOT_FOUND, Reject.DOWNLOAD_REFUSED, Reject.DOWNLOAD_REDIRECTS}


@dataclass(frozen=True)
class Received:
    """Bytes as received. `opt_out` is a signal that the configuration does not honour, as `<signal>: <evidence>`."""

    data: bytes
    opt_out: str | None = None


class Downloader:
    """The synchronous face; one thread inside. Not picklable: made where it works."""

    def __init__(self, config: Download, max_bytes: int, look_up: LookUp = system_look_up) -> None:
        """`max_bytes` bounds one body. `look_up` answers for the machine's name servers."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_heard)
        self._thread = threading.Thread(target=self._loop.run_forever, name="downloads", daemon=True)
        self._thread.start()
        self._client: _Client = asyncio.run_coroutine_threadsafe(_Client.open(config, max_bytes, look_up), self._loop).result()

    def fetch(self, urls: Sequence[str]) -> Iterator[tuple[str, Received | Unusable]]:
        """Each distinct URL once, as they complete. Never raises for what the network does; leaving early ends what is under way."""
        ended: SimpleQueue[tuple[str, Received | Unusable] | None] = SimpleQueue()
        waiting = _Waiting()
        job = asyncio.run_coroutine_threadsafe(self._client.obtain_all(list(dict.fromkeys(urls)), ended.put, waiting), self._loop)
        job.add_done_callback(lambda _: ended.put(None))
        try:
            while (item := ended.get()) is not None:
                if isinstance(item[1], Received):
                    self._loop.call_soon_threadsafe(waiting.add, -len(item[1].data))
                yield item
            job.result()
        finally:
            job.cancel()

    def close(self) -> None:
        """End everything that is under way. Closing twice is no fault."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop would print. Connections that end with their process, as Ray ends an actor, are no fault."""
    if not str(context.get("message")).startswith("Unclosed"):
        loop.default_exception_handler(context)


class _Waiting:
    """Bytes received and not yet taken."""

    def __init__(self) -> None:
        self._bytes = 0
        self.room = asyncio.Event()
        self.room.set()

    def add(self, size: int) -> None:
        self._bytes += size
        if self._bytes < WAITING_BYTES:
            self.room.set()
        else:
            self.room.clear()


@dataclass
class _Host:
    """Turns at one host, under any of its ports, and until when it asked to be left alone."""

    turns: asyncio.Semaphore
    free_at: float = 0.0
    wanted: int = 0  # by how many, those with a turn included

    def hold(self, seconds: float) -> None:
        self.free_at = max(self.free_at, time.monotonic() + seconds)


@dataclass
class _Site:
    """The rules of one origin, once they are asked for."""

    rules: "asyncio.Task[SiteRules | Unusable] | None" = None
    good_until: float = field(default=float("inf"))


@dataclass(frozen=True)
class _Errand:
    """How one kind of thing is fetched: pictures under a site's rules, the rules themselves under none."""

    bounds: Callable[[float], Bounds]
    under_rules: bool


class _Client:
    """Everything that lives in the event loop."""

    def __init__(self, config: Download, max_bytes: int, session: aiohttp.ClientSession, resolver: CheckedResolver) -> None:
        self._config = config
        self._session = session
        self._resolver = resolver
        self._agent = agent_token(config.user_agent)
        self._honours_rules = bool(RULES_FILES.keys() & set(config.opt_outs))
        self._connections = asyncio.Semaphore(config.connections)
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._sites: OrderedDict[str, _Site] = OrderedDict()
        self._picture = _Errand(lambda seconds: Bounds(max_bytes, seconds, refuses=self._opted_out), under_rules=True)
        self._rules = _Errand(lambda seconds: Bounds(RULES_BYTES, seconds, cut=True), under_rules=False)

    @classmethod
    async def open(cls, config: Download, max_bytes: int, look_up: LookUp) -> "_Client":
        """A client with a session of its own; sessions can only be made inside a running loop."""
        resolver = CheckedResolver(config.allowed_hosts, look_up)
        connector = aiohttp.TCPConnector(
            resolver=resolver,
            ssl=ssl.create_default_context(),
            limit=0,  # ours count hosts, aiohttp's count pairs of host and port
            ttl_dns_cache=60,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": config.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `exchange` has the clock
            auto_decompress=False,
            trust_env=False,
            read_bufsize=BUFFER_BYTES,
        )
        return cls(config, max_bytes, session, resolver)

    async def close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def obtain_all(self, urls: list[str], deliver: Callable[[Any], None], waiting: _Waiting) -> None:
        """Hand on each URL's outcome as it comes; nothing new is begun while too much waits to be taken."""
        begun = asyncio.Semaphore(BEGUN_AT_ONCE)

        async def one(url: str) -> None:
            try:
                outcome = await self._obtain(url, waiting)
                if isinstance(outcome, Received):
                    waiting.add(len(outcome.data))
                deliver((url, outcome))
            finally:
                begun.release()

        async with asyncio.TaskGroup() as group:
            for url in urls:
                await begun.acquire()
                group.create_task(one(url))

    async def _obtain(self, url: str, waiting: _Waiting) -> Received | Unusable:
        answer = await self._persist(url, self._picture, waiting)
        if isinstance(answer, Unusable):
            return answer
        ignored = [found for found in in_headers(answer.headers, self._agent) if found.signal not in self._config.opt_outs]
        return Received(answer.body, "; ".join(map(str, ignored)) or None)

    def _opted_out(self, headers: Headers) -> Unusable | None:
        honoured = [found for found in in_headers(headers, self._agent) if found.signal in self._config.opt_outs]
        return Unusable(Reject.OPTED_OUT, str(honoured[0])) if honoured else None

    async def _persist(self, url: str, errand: _Errand, waiting: _Waiting) -> Answer | Unusable:
        """Attempt after attempt, as long as a failure may pass."""
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._follow(url, errand, waiting, attempt)
            if isinstance(outcome, Answer) and errand.under_rules and not whole(outcome.body):
                outcome = Passing(Unusable(Reject.TRUNCATED, f"{len(outcome.body)} bytes came without an end marker, twice"), attempts=2)
            if not isinstance(outcome, Passing):
                return outcome
            if attempt >= min(self._config.attempts, outcome.attempts or self._config.attempts):
                return outcome.failure
            await asyncio.sleep(pause_seconds(url, attempt))

    async def _follow(self, url: str, errand: _Errand, waiting: _Waiting, attempt: int) -> Answer | Unusable | Passing:
        """One attempt: from redirect to redirect within one time limit, which does not count waiting for a turn."""
        seconds_left = self._config.timeout_seconds
        seen: list[str] = []
        while len(seen) <= self._config.max_redirects:
            target = await self._permitted(url, errand)
            if isinstance(target, Unusable):
                return target
            if str(target) in seen:
                return Unusable(Reject.DOWNLOAD_REDIRECTS, f"in a circle, back to {url[:200]}")
            seen.append(str(target))
            host = self._host(target)
            async with self._turn(host, waiting) as held:
                if held is not None:
                    return held
                began = time.monotonic()
                outcome = await exchange(self._session, self._resolver, target, errand.bounds(seconds_left), keep=self._worth_keeping(host))
                seconds_left -= time.monotonic() - began
            if not isinstance(outcome, Moved):
                return self._heeded(host, outcome, pause_seconds(url, attempt))
            url = urljoin(url, outcome.place)
        return Unusable(Reject.DOWNLOAD_REDIRECTS, f"more than {self._config.max_redirects}, last to {url[:200]}")

    async def _permitted(self, url: str, errand: _Errand) -> URL | Unusable:
        """What to ask for, once the site's rules allow it."""
        target = request_url(url)
        if isinstance(target, Unusable) or not errand.under_rules or not self._honours_rules:
            return target
        rules = await self._rules_of(target)
        if isinstance(rules, Unusable):
            return rules
        found = rules.refusal(str(target))
        return target if found is None else Unusable(Reject.OPTED_OUT, str(found))

    @asynccontextmanager
    async def _turn(self, host: _Host, waiting: _Waiting) -> AsyncIterator[Unusable | None]:
        """A turn at a host; or that it wants to be left alone for longer than we wait, in which case nothing is to be asked."""
        host.wanted += 1
        try:
            async with host.turns:
                left = 2 * self._config.max_wait_seconds  # a rest may be prolonged while it lasts
                while (seconds := host.free_at - time.monotonic()) > 0:
                    if seconds > left:
                        yield self._too_long(seconds)
                        return
                    left -= seconds
                    await asyncio.sleep(seconds)
                await waiting.room.wait()
                async with self._connections:
                    yield None
        finally:
            host.wanted -= 1

    def _worth_keeping(self, host: _Host) -> bool:
        """Whether a connection is kept for the next request; of many hosts that are asked once each, the idle ones would pile up."""
        return host.wanted > 1 or len(self._hosts) <= self._config.connections

    def _heeded(self, host: _Host, outcome: Answer | Unusable | Passing, pause: float) -> Answer | Unusable | Passing:
        """A host that asks to be left alone is, by every row. One that asks for longer than we wait loses this row alone: the others try after the
        longest wait, for what is rejected is not asked for again, and one answer must not cost a catalog all pictures of a host."""
        if isinstance(outcome, Passing) and outcome.overrun:
            seconds = outcome.hold_seconds if outcome.hold_seconds is not None else min(pause, self._config.max_wait_seconds)
            host.hold(min(seconds, self._config.max_wait_seconds))
            if seconds > self._config.max_wait_seconds:
                return self._too_long(seconds)
        return outcome

    def _too_long(self, seconds: float) -> Unusable:
        most = self._config.max_wait_seconds
        return Unusable(Reject.DOWNLOAD_THROTTLED, f"the host asks to be left alone for {seconds:.0f} s more, at most {most:g} s are waited")

    def _host(self, url: URL) -> _Host:
        name = url.raw_host or ""
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self._config.connections_per_host)))
        self._hosts.move_to_end(name)
        return host

    async def _rules_of(self, url: URL) -> SiteRules | Unusable:
        origin = str(url.origin())
        site = self._sites.setdefault(origin, _Site())
        self._sites.move_to_end(origin)
        if site.rules is None or time.monotonic() >= site.good_until:
            site.rules = asyncio.create_task(self._ask_rules(site, origin))
        if len(self._sites) > KEPT_SITES:
            self._forget()
        return await asyncio.shield(site.rules)

    def _forget(self) -> None:
        """The longest unused site and host; a host that somebody waits for, or with a pause still to keep, stays."""
        self._sites.popitem(last=False)
        name, host = next(iter(self._hosts.items()))
        if len(self._hosts) > KEPT_SITES and not host.wanted and host.free_at < time.monotonic():
            del self._hosts[name]

    async def _ask_rules(self, site: _Site, origin: str) -> SiteRules | Unusable:
        """Both files, or why one cannot be had: then it is asked for again after the longest wait."""
        site.good_until = float("inf")
        texts: list[str | None] = []
        for signal, place in RULES_FILES.items():
            text = await self._text(f"{origin}{place}") if signal in self._config.opt_outs else None
            if isinstance(text, Unusable):
                site.good_until = time.monotonic() + self._config.max_wait_seconds
                return text
            texts.append(text)
        site.good_until = time.monotonic() + RULES_SECONDS
        return SiteRules(self._agent, *texts)

    async def _text(self, url: str) -> str | Unusable | None:
        """A file of rules; None where there is none, which sets no rules; else why it could not be had."""
        answer = await self._persist(url, self._rules, _Waiting())
        if not isinstance(answer, Unusable):
            return answer.body.decode("utf-8", errors="replace")
        if answer.reason in ABSENT:
            return None
        return answer if answer.reason == Reject.BLOCKED_ADDRESS else Unusable(answer.reason, f"{url}: {answer.detail}")


def pause_seconds(url: str, attempt: int) -> float:
    """Before the attempt after `attempt`: doubled each time, and spread over half to one and a half by the URL alone."""
    spread = int.from_bytes(hashlib.sha256(f"{url} {attempt}".encode()).digest()[:8], "big") / 2**64
    return min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** (attempt - 1)) * (0.5 + spread)
