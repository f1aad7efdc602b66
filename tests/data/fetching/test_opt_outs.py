"""Opt-outs where owners really write them: headers and rules from a real server, assertions in files signed and written here."""

import io
import json
import random
import zlib
from collections.abc import Iterator

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import PngImagePlugin

from ccray.config import OPT_OUTS, Download
from ccray.data.fetching.downloading import Downloader, Received
from ccray.data.fetching.opt_outs import SiteRules, agent_token, in_file, in_headers
from ccray.data.pictures.images import Unusable
from tests.data.fetching import certificates
from tests.data.fetching.hostile import GOOD, Site, picture

c2pa = pytest.importorskip("c2pa")


def fetch(site: Site, paths: list[str], **changes: object) -> list[Received | Unusable]:
    config = Download.model_validate({"timeout_seconds": 5, "max_wait_seconds": 1, "allowed_hosts": ("127.0.0.1",), **changes})
    downloader = Downloader(config, 1_000_000)
    try:
        found = dict(downloader.fetch([site.url + path for path in paths]))
    finally:
        downloader.close()
    return [found[site.url + path] for path in paths]


@pytest.mark.parametrize(
    "value",
    [
        *("noai", "noimageai", "NoAI, noimageai", "noindex", "noimageindex", "nofollow, noimageindex", "none", "noml", "all, noai"),
        *("ccray: noai", "CCRAY: nofollow, noai", "*: noai", "otherbot: nofollow, ccray: noindex", "max-image-preview: large, noai"),
        *("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "googlebot: noindex, ccray: noai", "noai, googlebot: noindex"),
    ],
)
def test_robots_tags_that_bind_us(value: str) -> None:
    assert [found.signal for found in in_headers([("X-Robots-Tag", value)], "ccray")] == ["x-robots-tag"]


@pytest.mark.parametrize(
    "value",
    [
        *("", "all", "index, follow", "nofollow", "noarchive", "max-image-preview: none", "googlebot: noindex", "otherbot: noai, noimageai"),
        *("googlebot: nofollow, otherbot: noindex, nofollow", "noailments", "unavailable_after: 2030-01-01", "ccrayfish: noai"),
    ],
)
def test_robots_tags_that_do_not(value: str) -> None:
    assert in_headers([("X-Robots-Tag", value)], "ccray") == []


def test_several_lines_are_each_read() -> None:
    lines = [("X-Robots-Tag", "googlebot: noindex"), ("x-robots-tag", "nofollow"), ("X-ROBOTS-TAG", "noai")]
    assert [str(found) for found in in_headers(lines, "ccray")] == ["x-robots-tag: noai"]


@pytest.mark.parametrize(
    ("name", "value", "signals"),
    [
        *(("tdm-reservation", "1", ["tdmrep"]), ("TDM-Reservation", " 1 ", ["tdmrep"]), ("tdm-reservation", "0", [])),
        *(("Content-Usage", "train-ai=n", ["content-usage"]), ("content-usage", "search=y, train-ai=n", ["content-usage"])),
        *(("Content-Usage", 'train-ai="N"', ["content-usage"]), ("Content-Usage", "train-ai=y", []), ("Content-Usage", "search=n", [])),
        *(("Content-Usage", "bots=n", ["content-usage"]), ("Content-Usage", "bots=n, train-ai=y", []), ("Content-Usage", "train-ai", [])),
        *(("Content-Usage", "train-ai=?0;x=1", ["content-usage"]), ("Content-Signal", "search=yes,ai-train=no", ["content-usage"])),
        *(("Content-Usage", "train-genai=n", ["content-usage"]), ("Content-Usage", ",,=;\x00=n", []), ("X-Other", "noai", [])),
    ],
)
def test_other_headers(name: str, value: str, signals: list[str]) -> None:
    assert [found.signal for found in in_headers([(name, value)], "ccray")] == signals


def test_our_name() -> None:
    assert agent_token(Download().user_agent) == "ccray"
    assert agent_token("Mozilla/5.0 (compatible; PhotoBot/2.1; +https://example.org)") == "photobot"
    assert agent_token("collector (someone@example.org)") == "collector"


HEADERS = {
    "x-robots-tag": {"X-Robots-Tag": "noai"},
    "tdmrep": {"tdm-reservation": "1"},
    "content-usage": {"Content-Usage": "train-ai=n"},
}


@pytest.mark.parametrize("signal", HEADERS)
def test_headers_are_honoured_or_at_least_noted(site: Site, signal: str) -> None:
    site.pages["/marked"] = (GOOD, HEADERS[signal])
    site.pages["/moved"] = (GOOD, {})
    marked, plain, behind = fetch(site, ["/marked", "/good", "/to?/marked"])
    for found in (marked, behind):
        assert isinstance(found, Unusable)
        assert found.reason == "opted_out"
        assert found.detail.startswith(f"{signal}: ")
    assert plain == Received(GOOD)
    switched_off = [other for other in OPT_OUTS if other != signal]
    (noted,) = fetch(site, ["/marked"], opt_outs=switched_off)
    assert noted == Received(
        GOOD, f"{signal}: " + "".join(f"{name.lower() + ': ' if signal == 'tdmrep' else ''}{value}" for name, value in HEADERS[signal].items())
    )


def test_a_marked_connection_serves_on(site: Site) -> None:
    for number in range(8):
        site.pages[f"/{number}"] = (GOOD, {"X-Robots-Tag": "noai"})
    fetch(site, [f"/{number}" for number in range(8)], connections_per_host=1)
    assert site.connections() == 1


ROBOTS = """
User-agent: *
Disallow: /private/
Allow: /private/open/
Disallow: /*.gif$

User-agent: ccray
Disallow: /not-for-ccray/

User-agent: GPTBot
Disallow: /
"""


@pytest.mark.parametrize(
    ("agent", "path", "refused"),
    [
        *(("ccray", "/a.jpg", False), ("ccray", "/not-for-ccray/a.jpg", True), ("ccray", "/private/a.jpg", False)),
        *(("other", "/private/a.jpg", True), ("other", "/private/open/a.jpg", False), ("other", "/a.gif", True), ("other", "/a.gif?x", False)),
        *(("other", "/not-for-ccray/a.jpg", False), ("other", "/a.jpg", False), ("gptbot", "/a.jpg", True)),
    ],
)
def test_robots_rules(agent: str, path: str, refused: bool) -> None:
    found = SiteRules(agent, ROBOTS, None).refusal(f"http://photos.example{path}")
    assert (found is not None) == refused
    assert found is None or found.signal == "robots.txt"


@pytest.mark.parametrize(
    ("robots", "refused"),
    [
        ("User-agent: *\nContent-Signal: search=yes,ai-train=no\nAllow: /", True),
        ("User-agent: *\nContent-Usage: train-ai=n\nAllow: /", True),
        ("Content-Signal: ai-train=no", True),
        ("User-agent: otherbot\nContent-Signal: ai-train=no", False),
        ("User-agent: otherbot\nUser-agent: *\nContent-Usage: train-ai=n", True),
        ("User-agent: *\nContent-Usage: train-ai=n\n\nUser-agent: ccray\nContent-Usage: train-ai=y", False),
        ("User-agent: *\nContent-Usage: /other/ train-ai=n", False),
        ("User-agent: *\nContent-Usage: / train-ai=n\nContent-Usage: /photos/ train-ai=y", False),
        ("User-agent: *\nContent-Usage: / train-ai=y\nContent-Usage: /photos/ train-ai=n", True),
        ("<html>User-agent: *</html>", False),
    ],
)
def test_usage_lines_of_robots_files(robots: str, refused: bool) -> None:
    assert (SiteRules("ccray", robots, None).refusal("http://photos.example/photos/a.jpg") is not None) == refused


@pytest.mark.parametrize(
    ("rules", "path", "refused"),
    [
        *(([("/", 1)], "/a.jpg", True), ([("*", 1)], "/a.jpg", True), ([("/*", 1)], "/a.jpg", True), ([("/", 0)], "/a.jpg", False)),
        *(([("/in/", 1)], "/in/a.jpg", True), ([("/in/", 1)], "/out/a.jpg", False), ([("/*.jpg$", 1)], "/x/a.jpg", True)),
        *(([("/*.jpg$", 1)], "/x/a.jpg?x", False), ([("/in/*.png", 1)], "/in/a.jpg", False), ([("/open/", 0), ("/", 1)], "/open/a.jpg", False)),
        *(
            ([("/open/", 0), ("/", 1)], "/a.jpg", True),
            ([("/", 1), ("/open/", 0)], "/open/a.jpg", True),
            ([("/", 0), ("/in/", 1)], "/in/a.jpg", True),
        ),
    ],
)
def test_reservations_by_path(rules: list[tuple[str, int]], path: str, refused: bool) -> None:
    text = json.dumps([{"location": location, "tdm-reservation": reserved} for location, reserved in rules])
    assert (SiteRules("ccray", None, text).refusal(f"http://photos.example{path}") is not None) == refused


@pytest.mark.parametrize(
    "text",
    ["", "null", "7", '"x"', "[]", "[[]]", "[null]", '[{"location": 1, "tdm-reservation": 1}]', '{"tdm-reservation": 1}', "[" * 100_000, "<html>"],
)
def test_reservations_that_are_none(text: str) -> None:
    assert SiteRules("ccray", None, text).refusal("http://photos.example/a.jpg") is None


def test_rules_of_a_site_are_asked_for_once(site: Site) -> None:
    site.pages["/robots.txt"] = (b"User-agent: *\nDisallow: /cut", {"Content-Type": "text/plain"})
    site.pages["/.well-known/tdmrep.json"] = (json.dumps([{"location": "/half*", "tdm-reservation": 1}]).encode(), {})
    cut, half, good, *slow = fetch(site, ["/cut", "/half/1", "/good", *(f"/slow/{number}" for number in range(20))])
    assert isinstance(cut, Unusable)
    assert cut == Unusable(cut.reason, "robots.txt: Disallow for ccray")
    assert isinstance(half, Unusable)
    assert half.detail.startswith("tdmrep: tdmrep.json: location /half*")
    assert {cut.reason, half.reason} == {"opted_out"}
    assert {good, *slow} == {Received(GOOD)}
    assert not {"/cut", "/half/1"} & set(site.pictures())
    assert len(site.requests) == 21 + 2


def test_rules_hold_behind_redirects(site: Site) -> None:
    site.pages["/robots.txt"] = (b"User-agent: *\nDisallow: /good", {})
    (found,) = fetch(site, ["/to?/good"])
    assert isinstance(found, Unusable)
    assert found.reason == "opted_out"
    assert site.pictures() == ["/to?/good"]


def test_rules_that_are_not_honoured_are_not_asked_for(site: Site) -> None:
    site.pages["/robots.txt"] = (b"User-agent: *\nDisallow: /", {})
    assert fetch(site, ["/good"], opt_outs=()) == [Received(GOOD)]
    assert [asked.path for asked in site.requests] == ["/good"]
    fetch(site, ["/good"], opt_outs=("tdmrep",))
    assert [asked.path for asked in site.requests][1:] == ["/.well-known/tdmrep.json", "/good"]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        *(("/status/404", None), ("/status/403", None), ("/status/401", None), ("/status/500", "download_server_error")),
        *(("/status/503", "download_throttled"), ("/silent", "download_timeout"), ("/hang-up", "download_failed"), ("/endless", None)),
        *(("/loop/a", None), ("/good", None)),
    ],
)
def test_a_robots_file_that_cannot_be_had(site: Site, behaviour: str, expected: str | None) -> None:
    site.rewrites["/robots.txt"] = behaviour
    found, again = fetch(site, ["/good", "/slow/1"], timeout_seconds=0.5)
    if expected is None:
        assert (found, again) == (Received(GOOD), Received(GOOD))
        return
    for one in (found, again):
        assert isinstance(one, Unusable)
        assert one.reason == expected
        assert "robots.txt" in one.detail
    assert site.pictures() == []


def test_a_robots_file_is_asked_for_again_after_a_failure(site: Site) -> None:
    site.rewrites["/robots.txt"] = "/status/500"
    config = Download(allowed_hosts=("127.0.0.1",), max_wait_seconds=0, attempts=1)
    downloader = Downloader(config, 1_000_000)
    first = dict(downloader.fetch([f"{site.url}/good"]))
    site.rewrites.clear()
    second = dict(downloader.fetch([f"{site.url}/good"]))
    downloader.close()
    assert isinstance(first[f"{site.url}/good"], Unusable)
    assert second[f"{site.url}/good"] == Received(GOOD)


# ------------------------------------------------------------------ in the file

PLUS = "http://ns.useplus.org/ldf/"


def xmp(value: str, element: bool = False) -> bytes:
    said = f"{PLUS}vocab/{value}"
    attribute = "" if element else f' plus:DataMining="{said}"'
    inner = f"<plus:DataMining>{said}</plus:DataMining>" if element else ""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:plus="{PLUS}xmp/1.0/"{attribute}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def png_with(packet: bytes, compressed: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=compressed)
    return picture("PNG", pnginfo=info)


def as_magick_writes(packet: bytes) -> bytes:
    """A PNG with XMP as hexadecimal lines in a compressed text chunk."""
    text = f"\nxmp\n{len(packet):8d}\n{packet.hex()}\n"
    chunk = b"Raw profile type xmp\0\0" + zlib.compress(text.encode())
    plain = picture("PNG")
    kind = b"zTXt" + chunk
    return plain[:33] + len(chunk).to_bytes(4, "big") + kind + zlib.crc32(kind).to_bytes(4, "big") + plain[33:]


CARRIERS = {
    "jpeg": lambda packet: picture("JPEG", xmp=packet),
    "webp": lambda packet: picture("WEBP", xmp=packet),
    "tiff": lambda packet: picture("TIFF", tiffinfo={700: packet}),
    "avif": lambda packet: picture("AVIF", xmp=packet),
    "png": lambda packet: png_with(packet, False),
    "png, compressed": lambda packet: png_with(packet, True),
    "png, raw profile": as_magick_writes,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("element", [False, True])
def test_data_mining_in_xmp(carrier: str, element: bool) -> None:
    write = CARRIERS[carrier]
    assert in_file(write(xmp("DMI-PROHIBITED-AIMLTRAINING", element)), OPT_OUTS) == "iptc: DMI-PROHIBITED-AIMLTRAINING"
    assert in_file(write(xmp("DMI-ALLOWED", element)), OPT_OUTS) is None
    assert in_file(write(xmp("DMI-UNSPECIFIED", element)), OPT_OUTS) is None
    assert in_file(write(xmp("DMI-PROHIBITED", element)), ["content-credentials"]) is None


@pytest.mark.parametrize("ending", ["", "-GENAIMLTRAINING", "-EXCEPTSEARCHENGINEINDEXING", "-SEECONSTRAINT", "-SEEEMBEDDEDRIGHTSEXPR"])
def test_every_prohibition_counts(ending: str) -> None:
    assert in_file(CARRIERS["jpeg"](xmp(f"DMI-PROHIBITED{ending}")), ["iptc"]) == f"iptc: DMI-PROHIBITED{ending}"


def test_xmp_in_sixteen_bits() -> None:
    packet = xmp("DMI-PROHIBITED").decode()
    for coding in ("utf-16-le", "utf-16-be"):
        assert in_file(GOOD + packet.encode(coding), ["iptc"]) == "iptc: DMI-PROHIBITED"


@pytest.fixture(scope="session")
def signer() -> Iterator["c2pa.Signer"]:
    own = certificates.root()
    certificate, key = certificates.signed("photographer", own, ExtendedKeyUsageOID.EMAIL_PROTECTION)
    chain = certificates.pem(certificate) + certificates.pem(own[0])
    info = c2pa.C2paSignerInfo(b"es256", chain, certificates.key_pem(key), None)
    with c2pa.Signer.from_info(info) as signer:
        yield signer


def _quick() -> "c2pa.Context":
    return c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}})


def sign(signer: "c2pa.Signer", label: str, entries: dict[str, str], kind: str = "JPEG", parent: bytes | None = None) -> bytes:
    """A picture with content credentials that make one assertion."""
    manifest = {
        "claim_generator_info": [{"name": "test", "version": "1"}],
        "assertions": [{"label": label, "data": {"entries": {name: {"use": use} for name, use in entries.items()}}}] if entries else [],
    }
    mime, signed = f"image/{kind.lower()}", io.BytesIO()
    with c2pa.Builder(manifest, context=_quick()) as builder:
        if parent is not None:
            builder.add_ingredient({"title": "parent", "relationship": "parentOf"}, mime, io.BytesIO(parent))
        builder.sign(signer, mime, io.BytesIO(parent or picture(kind)), signed)
    return signed.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("label", ["c2pa.training-mining", "cawg.training-mining"])
def test_training_assertions(signer: "c2pa.Signer", kind: str, label: str) -> None:
    family = label.partition(".")[0]
    marked = sign(signer, label, {f"{family}.ai_inference": "allowed", f"{family}.ai_generative_training": "notAllowed"}, kind)
    assert in_file(marked, OPT_OUTS) == f"content-credentials: {label} {family}.ai_generative_training notAllowed"
    assert in_file(marked, ["iptc"]) is None


@pytest.mark.parametrize(
    ("use", "value", "counts"),
    [
        *(("ai_training", "notAllowed", True), ("data_mining", "notAllowed", True), ("data_mining", "constrained", True)),
        *(("ai_generative_training", "allowed", False), ("ai_inference", "notAllowed", False)),
    ],
)
def test_which_uses_count(signer: "c2pa.Signer", use: str, value: str, counts: bool) -> None:
    found = in_file(sign(signer, "cawg.training-mining", {f"cawg.{use}": value}), OPT_OUTS)
    assert (found is not None) == counts


def test_an_assertion_outlives_damage_and_later_edits(signer: "c2pa.Signer") -> None:
    marked = sign(signer, "cawg.training-mining", {"cawg.ai_training": "notAllowed"})
    changed = marked[:-40] + bytes(20) + marked[-20:]  # the pixels no longer fit the signature
    assert in_file(changed, OPT_OUTS) is not None
    assert in_file(sign(signer, "cawg.training-mining", {}, parent=marked), OPT_OUTS) is not None
    headless = b"\xff\xd8\xff" + marked[marked.index(b"jumb") :]  # a store that the library cannot read
    assert in_file(headless, OPT_OUTS) == "content-credentials: training-mining notAllowed"


def test_credentials_without_an_opt_out(signer: "c2pa.Signer") -> None:
    assert in_file(sign(signer, "", {}), OPT_OUTS) is None


def test_a_manifest_elsewhere_is_not_fetched(signer: "c2pa.Signer", site: Site) -> None:
    signed = io.BytesIO()
    with c2pa.Builder({"claim_generator_info": [{"name": "test", "version": "1"}], "assertions": []}, context=_quick()) as builder:
        builder.set_no_embed()
        builder.set_remote_url(f"{site.url}/good")
        builder.sign(signer, "image/jpeg", io.BytesIO(GOOD), signed)
    data = signed.getvalue() + b"jumb c2pa"
    assert f"{site.url}/good".encode() in data
    assert in_file(data, OPT_OUTS) is None
    assert site.requests == []


def test_plain_and_broken_files_carry_none(signer: "c2pa.Signer") -> None:
    """Cut, flipped and spliced in a seeded way: never an exception."""
    originals = [sign(signer, "c2pa.training-mining", {"c2pa.ai_training": "allowed"}), png_with(xmp("DMI-ALLOWED"), True), GOOD]
    assert [in_file(original, OPT_OUTS) for original in originals] == [None] * 3
    chance = random.Random(7)
    for number in range(150):
        data = bytearray(originals[number % 3])
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        in_file(bytes(data[: chance.randrange(len(data)) if number % 2 else len(data)]), OPT_OUTS)
    for data in (b"", b"\x89PNG", b"jumb c2pa", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, b"DataMining DMI-PROHIBITE"):
        assert in_file(data, OPT_OUTS) is None
