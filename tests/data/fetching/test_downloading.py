"""Downloads against a real server on this machine that misbehaves: what comes, what is refused, what is bounded, what is heeded."""

import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from ccray.config import Download
from ccray.data.fetching import downloading
from ccray.data.fetching.addresses import Blocked, CheckedResolver, is_public, request_url, system_look_up
from ccray.data.fetching.downloading import Downloader, Received, pause_seconds
from ccray.data.fetching.exchange import retry_after_seconds
from ccray.data.pictures.endings import whole
from ccray.data.pictures.images import Unusable
from tests.data.fetching import hostile
from tests.data.fetching.hostile import GOOD, Site, picture

MAX_BYTES = 1_000_000


def here(**changes: object) -> Download:
    return Download.model_validate({"timeout_seconds": 5, "max_wait_seconds": 5, "allowed_hosts": ("127.0.0.1", "localhost"), **changes})


def fetch(urls: list[str], config: Download, **more: object) -> dict[str, Received | Unusable]:
    downloader = Downloader(config, MAX_BYTES, **more)  # type: ignore[arg-type]
    try:
        return dict(downloader.fetch(urls))
    finally:
        downloader.close()


def outcome(url: str, config: Download, **more: object) -> Received | Unusable:
    return fetch([url], config, **more)[url]


def reason(url: str, config: Download | None = None, **more: object) -> str:
    found = outcome(url, config or here(), **more)
    assert isinstance(found, Unusable), found
    return found.reason


def test_bytes_come_as_they_are(site: Site) -> None:
    site.pages["/a b/é.png?x=1 2"] = (GOOD, {"Content-Encoding": "gzip"})
    assert outcome(f"{site.url}/a b/é.png?x=1 2", here()) == Received(GOOD)
    assert site.pictures() == ["/a b/é.png?x=1 2"]
    asked = site.requests[-1].headers
    assert asked["accept-encoding"] == "identity"
    assert asked["user-agent"] == Download().user_agent
    assert asked["host"] == f"127.0.0.1:{site.port}"


def test_escapes_stay_as_the_source_has_them(site: Site) -> None:
    assert str(request_url("HTTP://User:Word@Example.COM:80/%7Ea%2Fb/c~d?q=%20+&r=[1]#part")) == "http://example.com/%7Ea%2Fb/c~d?q=%20+&r=[1]"
    assert str(request_url("https://пример.рф/фото 1.jpg")) == "https://xn--e1afmkfd.xn--p1ai/%D1%84%D0%BE%D1%82%D0%BE%201.jpg"


def test_each_url_once_and_as_they_complete(site: Site) -> None:
    urls = [f"{site.url}/slow/1", f"{site.url}/good", f"{site.url}/good"]
    downloader = Downloader(here(), MAX_BYTES)
    assert [url for url, _ in downloader.fetch(urls)] == [f"{site.url}/good", f"{site.url}/slow/1"]
    assert sorted(site.pictures()) == ["/good", "/slow/1"]
    downloader.close()
    downloader.close()


def test_leaving_early_ends_what_is_under_way(site: Site) -> None:
    downloader = Downloader(here(), MAX_BYTES)
    for _ in downloader.fetch([f"{site.url}/good", f"{site.url}/silent"]):
        break
    began = time.monotonic()
    assert dict(downloader.fetch([f"{site.url}/good"])) == {f"{site.url}/good": Received(GOOD)}
    downloader.close()
    assert time.monotonic() - began < 2


def test_connections_serve_again_and_are_counted(site: Site) -> None:
    urls = [f"{site.url}/slow/{number}" for number in range(40)]
    found = fetch(urls, here(connections_per_host=4))
    assert set(found.values()) == {Received(GOOD)}
    assert site.most_slow_ones == 4
    assert site.connections() == 4
    assert len(site.asked("/robots.txt")) == len(site.asked("/.well-known/tdmrep.json")) == 1


def test_all_connections_are_counted(site: Site) -> None:
    names = [f"{number}.photos.example" for number in range(6)]
    urls = [f"http://{name}:{site.port}/slow/{number}" for number in range(4) for name in names]
    found = fetch(urls, here(connections=3, connections_per_host=2, allowed_hosts=tuple(names)), look_up=lambda host, port: ["127.0.0.1"])
    assert set(found.values()) == {Received(GOOD)}
    assert site.most_slow_ones == 3


def test_what_is_not_taken_holds_the_rest_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "WAITING_BYTES", 5 * len(GOOD))
    urls = [f"{site.url}/slow/{number}" for number in range(30)]
    downloader = Downloader(here(connections_per_host=2), MAX_BYTES)
    arriving = downloader.fetch(urls)
    next(arriving)
    time.sleep(10 * hostile.LATENCY_SECONDS)
    assert len(site.pictures()) <= 1 + 5 + 2
    assert len(list(arriving)) == 29
    downloader.close()


def test_redirects_are_followed_and_counted(site: Site) -> None:
    assert outcome(f"{site.url}/to?{site.url}/to?/good", here()) == Received(GOOD)
    assert reason(f"{site.url}/to?/to?/to?/to?/to?/to?/x") == "download_redirects"
    assert reason(f"{site.url}/to?/to?/good", here(max_redirects=1)) == "download_redirects"
    site.requests.clear()
    assert reason(f"{site.url}/loop/a") == "download_redirects"
    assert site.pictures() == ["/loop/a", "/loop/b"]
    assert reason(f"{site.url}/nowhere") == "download_refused"
    for place in ("ftp://127.0.0.1/x", "file:///etc/passwd", "data:image/png;base64,AA", "gopher://127.0.0.1/"):
        assert reason(f"{site.url}/to?{place}") == "download_bad_url"


@pytest.mark.parametrize(
    ("path", "expected", "times"),
    [
        *(("/status/404", "download_not_found", 1), ("/status/410", "download_not_found", 1), ("/status/403", "download_refused", 1)),
        *(("/status/401", "download_refused", 1), ("/status/204", "download_refused", 1), ("/status/304", "download_refused", 1)),
        *(("/status/500", "download_server_error", 3), ("/status/502", "download_server_error", 3), ("/status/503", "download_throttled", 3)),
        *(("/status/429", "download_throttled", 3), ("/status/408", "download_refused", 3)),
        *(("/cut", "download_failed", 3), ("/hang-up", "download_failed", 3), ("/babble", "download_failed", 3)),
        *(("/half", "truncated", 2), ("/half-unsaid", "truncated", 2)),
        *(("/endless-headers", "download_failed", 3), ("/endless-header", "download_failed", 3)),
        *(("/huge", "too_many_bytes", 1), ("/endless", "too_many_bytes", 1), ("/endless-chunks", "too_many_bytes", 1)),
    ],
)
def test_a_server_that_misbehaves(site: Site, path: str, expected: str, times: int) -> None:
    assert reason(site.url + path) == expected
    spare = {"/hang-up": 3, "/short": 2}.get(path, 0)  # aiohttp itself asks again where a kept connection turns out to be spoilt
    assert times <= len(site.pictures()) <= times + spare
    assert set(site.pictures()) == {path}


@pytest.mark.parametrize("path", ["/status/503/a/1", "/status/500/a/2", "/status/408/a/1", "/cut/2", "/hang-up/2", "/half/1", "/status/429/a/1"])
def test_what_passes_is_waited_for(site: Site, path: str) -> None:
    assert outcome(site.url + path, here()) == Received(GOOD)


def test_a_cut_answer_says_how_much_came(site: Site) -> None:
    found = outcome(f"{site.url}/cut", here())
    assert isinstance(found, Unusable)
    assert f"{len(GOOD) // 2} of {len(GOOD)} bytes" in found.detail


def test_a_length_told_too_small(site: Site) -> None:
    """The rest may turn up as nonsense on the kept connection, before the second attempt."""
    assert reason(f"{site.url}/short") in ("truncated", "download_failed")
    assert len(site.pictures()) in (2, 3)


def test_sizes_are_bounded_exactly(site: Site) -> None:
    for most, expected in ((len(GOOD), Received), (len(GOOD) - 1, Unusable)):
        downloader = Downloader(here(), most)
        assert isinstance(dict(downloader.fetch([f"{site.url}/good"]))[f"{site.url}/good"], expected)
        downloader.close()


@pytest.mark.parametrize("path", ["/drip", "/silent", "/slow-headers", "/to?/to?/silent"])
def test_times_are_bounded(site: Site, path: str) -> None:
    began = time.monotonic()
    assert reason(site.url + path, here(timeout_seconds=0.4, opt_outs=())) == "download_timeout"
    assert 0.35 < time.monotonic() - began < 2


def test_waiting_for_a_turn_is_not_counted_as_the_servers_time(site: Site) -> None:
    urls = [f"{site.url}/slow/{number}" for number in range(12)]
    found = fetch(urls, here(connections_per_host=1, timeout_seconds=4 * hostile.LATENCY_SECONDS))
    assert set(found.values()) == {Received(GOOD)}


def test_retry_after_is_kept_by_the_whole_host(site: Site) -> None:
    urls = [f"{site.url}/status/429/a/1/1", *(f"{site.url}/slow/{number}" for number in range(30))]
    found = fetch(urls, here(connections_per_host=2))
    assert set(found.values()) == {Received(GOOD)}
    told = site.asked("/status/429/a/1/1")[0].at
    during = [request.path for request in site.requests if told + 0.1 < request.at < told + 0.95]
    assert during == []  # one that was already under way may still come


def test_retry_after_as_a_date(site: Site) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    began = time.monotonic()
    assert outcome(f"{site.url}/status/503/a/1/{moment}", here()) == Received(GOOD)
    assert 0.9 < time.monotonic() - began < 4


def test_a_host_that_wants_too_long_a_rest_loses_only_the_row_that_was_told(site: Site) -> None:
    wants_rest = f"{site.url}/status/429/a/1/3600"
    urls = [wants_rest, *(f"{site.url}/slow/{number}" for number in range(10))]
    found = fetch(urls, here(connections_per_host=1, max_wait_seconds=1))
    refused = found.pop(wants_rest)
    assert isinstance(refused, Unusable)
    assert refused.reason == "download_throttled"
    assert "3600 s" in refused.detail
    assert set(found.values()) == {Received(GOOD)}
    told = site.asked("/status/429/a/1/3600")
    assert len(told) == 1
    assert not [request for request in site.requests if told[0].at + 0.1 < request.at < told[0].at + 0.95]


def test_a_host_that_always_wants_a_long_rest_loses_every_row(site: Site) -> None:
    urls = [f"{site.url}/status/429/{number}/99/3600" for number in range(5)]
    found = fetch(urls, here(connections_per_host=2, max_wait_seconds=0.2))
    assert [one.reason for one in found.values() if isinstance(one, Unusable)] == ["download_throttled"] * 5
    assert len(site.pictures()) <= 5


def test_words_of_retry_after() -> None:
    assert retry_after_seconds(" 12 ") == 12
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("-5") is None
    assert retry_after_seconds("9" * 500) is not None


def test_pauses_double_and_differ_by_url_alone() -> None:
    first = [pause_seconds(f"http://a/{number}", 1) for number in range(200)]
    assert first == [pause_seconds(f"http://a/{number}", 1) for number in range(200)]
    assert 0.25 <= min(first) < 0.3
    assert 0.7 < max(first) <= 0.75
    assert all(1 <= pause_seconds(f"http://a/{number}", 3) <= 3 for number in range(50))
    assert pause_seconds("http://a/", 40) <= 1.5 * downloading.LONGEST_PAUSE_SECONDS


def test_nobody_there(site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/") == "download_failed"
    assert reason("http://no-such-host.invalid/") == "download_failed"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a/b", "file:///etc/passwd", "data:image/png;base64,AA", "http:///x", "http://[::1", "http://a:99999/", "gopher://x", ""),
        *("http://a b/", "http://127.0.0.1\\@b.example/", "http://b.example\\@127.0.0.1/", "http://" + "a" * 300 + "/", "//b.example/x", "x.jpg"),
    ],
)
def test_only_http(url: str) -> None:
    assert reason(url, Download(attempts=1)) in ("download_bad_url", "download_failed")
    assert url.count("a") > 200 or reason(url, Download(attempts=1)) == "download_bad_url"


INSIDE = [
    *("127.0.0.1", "169.254.169.254", "[::1]", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "0"),
    *("[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[fc00::1]", "[fe80::1]"),
    *(
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "good@127.0.0.1",
        "good.example:80@127.0.0.1",
        "good.example%40@127.0.0.1",
        "１２７.0.0.1",
    ),
    *("127。0。0。1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255", "[fec0::1]", "[::127.0.0.1]"),
    *("①②⑦.⓪.⓪.①", "2852039166", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "192.88.99.1", "198.18.0.1", "[2001:db8::1]", "[ff02::1]"),
]


@pytest.mark.parametrize("host", INSIDE)
def test_private_addresses_are_refused_also_behind_a_redirect(site: Site, host: str) -> None:
    inside = f"http://{host}:{site.port}/good"
    outside = f"http://photos.example:{site.port}/to?{inside}"
    found = fetch([inside, outside], here(allowed_hosts=("photos.example",), attempts=1), look_up=_at_home)
    assert [one.reason for one in found.values() if isinstance(one, Unusable)] == ["blocked_address"] * 2, found
    assert site.pictures() == [unquote(outside.partition(str(site.port))[2])]


def _at_home(host: str, port: int) -> list[str]:
    return ["127.0.0.1"] if host == "photos.example" else system_look_up(host, port)


def test_a_redirect_into_the_machine_is_refused(site: Site) -> None:
    for inside in (f"http://localhost:{site.port}/good", "http://169.254.169.254/latest/meta-data/", f"http://[::1]:{site.port}/good"):
        assert reason(f"{site.url}/to?{inside}", here(allowed_hosts=("127.0.0.1",))) == "blocked_address"
    assert "/good" not in site.pictures()


def test_allowed_hosts_are_named_exactly(site: Site) -> None:
    by_name = f"http://LocalHost:{site.port}/good"
    assert outcome(by_name, here(allowed_hosts=("LOCALHOST",))) == Received(GOOD)
    for others in ((), ("local",), ("localhost.",), ("host",), ("*",), ("127.0.0.1",)):
        assert reason(by_name, here(allowed_hosts=others)) == "blocked_address"


class Names:
    """A name server's answers, one after another; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_name_at_a_public_and_a_private_address_is_a_trick(site: Site) -> None:
    for answer in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "93.184.216.34"], ["93.184.216.34", "::ffff:10.0.0.1"]):
        assert reason(f"http://photos.example:{site.port}/good", here(allowed_hosts=()), look_up=Names(answer)) == "blocked_address"
    assert site.requests == []


def test_a_name_that_turns_private_after_the_check_leads_nowhere(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is public, every later one private: what was checked is where the connection goes, and nothing asks again."""
    connected: list[str] = []
    real = socket.getaddrinfo

    def watched(host: str, *more: object, **options: object) -> list[object]:
        connected.append(host)
        return real(host, *more, **options)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    names = Names(["192.0.2.1"], ["127.0.0.1"])
    monkeypatch.setattr("ccray.data.fetching.addresses.is_public", lambda address: address == "192.0.2.1")
    config = here(allowed_hosts=(), opt_outs=(), attempts=1, timeout_seconds=0.5)
    assert reason(f"http://photos.example:{site.port}/good", config, look_up=names) in ("download_timeout", "download_failed")
    assert names.asked == 1
    assert "photos.example" not in connected
    assert site.requests == []


def test_each_new_connection_is_checked_again(site: Site) -> None:
    """With a name that turns private the next attempt is refused, not led inside."""
    names = Names(["203.0.113.7"], ["127.0.0.1"])
    assert reason(f"http://photos.example:{site.port}/good", here(allowed_hosts=()), look_up=names) == "blocked_address"
    assert site.requests == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("fec0::1", "64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "192.0.2.1", "198.51.100.1", "203.0.113.1", "240.0.0.1", "2001:db8::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822", "::ffff:93.184.216.34", "2002:5db8:d822::"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


async def _checked(host: str) -> list[str]:
    return await CheckedResolver((), system_look_up).checked(host, 80)


def test_the_resolver_itself() -> None:
    import asyncio

    assert asyncio.run(_checked("93.184.216.34")) == ["93.184.216.34"]
    with pytest.raises(Blocked, match="not a public address"):
        asyncio.run(_checked("localhost"))


def test_a_server_without_tls_gets_no_plain_words(site: Site) -> None:
    assert reason(site.url.replace("http:", "https:"), here(timeout_seconds=2)) in ("download_failed", "download_timeout")
    assert all(not request.path.startswith("/") for request in site.requests)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[str], ssl.SSLContext]]:
    """A certificate authority's file, and what makes a server of a given name."""
    certificates = pytest.importorskip("tests.data.fetching.certificates")
    return certificates.authority(tmp_path_factory.mktemp("certificates"))  # type: ignore[no-any-return]


def test_tls_is_checked_by_name(authority: tuple[Path, Callable[[str], ssl.SSLContext]], monkeypatch: pytest.MonkeyPatch) -> None:
    file, server = authority
    monkeypatch.setattr(downloading, "PAUSE_SECONDS", 0.01)
    seen: list[str | None] = []
    context = server("photos.example")
    context.sni_callback = lambda _, name, __: seen.append(name)
    with hostile.running(context) as site:
        site.pages["/good"] = (GOOD, {})
        config = here(allowed_hosts=("photos.example", "other.example"))
        right, wrong = f"https://photos.example:{site.port}/good", f"https://other.example:{site.port}/good"
        assert reason(right, config, look_up=Names(["127.0.0.1"])) == "download_failed"  # nobody knows this authority
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert outcome(right, config, look_up=Names(["127.0.0.1"])) == Received(GOOD)
        assert reason(wrong, config, look_up=Names(["127.0.0.1"])) == "download_failed"
        assert set(seen) == {"photos.example", "other.example"}


def pictures() -> dict[str, bytes]:
    return {
        "jpeg": picture(),
        "progressive": picture(progressive=True),
        "restarts": picture(restart_marker_blocks=1),
        "grey": picture(size=33, quality=100),
        "png": picture("PNG"),
        "gif": picture("GIF"),
        "webp": picture("WEBP"),
        "lossless webp": picture("WEBP", lossless=True),
        "avif": picture("AVIF"),
        "jpeg 2000": picture("JPEG2000"),
        "preview": _with_preview(),
    }


def _with_preview() -> bytes:
    """A JPEG with a whole little JPEG in its EXIF block."""
    preview = picture(size=16)
    block = b"Exif\x00\x00" + preview
    return GOOD[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + GOOD[2:]


@pytest.mark.parametrize("name", pictures())
def test_endings(name: str) -> None:
    data = pictures()[name]
    assert whole(data)
    assert whole(data + (b"" if name in ("avif", "jpeg 2000") else b"\0\0 trailing \xff words"))
    cuts = [len(data) - 1, len(data) - 2, len(data) - 5, *range(30, len(data) - 2, max(1, len(data) // 200))]
    assert [cut for cut in cuts if whole(data[:cut])] == []


def test_what_is_no_picture_has_no_end() -> None:
    for data in (b"", b"<html>", b"{}", b"\xff", b"BM....", b"II*\0"):
        assert whole(data)
    assert not whole(b"\xff\xd8")
