"""Opt-outs from training, in every place where owners write them: answers' headers, a site's rules, the picture file itself.

Of two readings the stricter counts. A rule binds us when it is for everyone or for our own name (the first word of
`download.user_agent`); a rule for another crawler's name speaks to that crawler.

Sources: X-Robots-Tag as Google documents it, with the noai, noimageai and noml words of DeviantArt and noml.info; TDM Reservation
Protocol, W3C Community Group report of 2024-05-10; robots.txt, RFC 9309; Content-Usage, the IETF's AI preferences drafts, and
Cloudflare's Content-Signal; training-and-data-mining assertions of C2PA 1.4 and CAWG 1.1; PLUS data mining values in IPTC Photo
Metadata 2023.1.
"""

import io
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from protego import Protego

if TYPE_CHECKING:  # the decoding process, which asks `in_file`, does without the settings
    from ccray.config import OptOut

X_ROBOTS_WORDS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}  # none = noindex, nofollow
X_ROBOTS_KEYS = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}  # take a value after a colon: no agents
USES = {"train-ai", "train-genai", "ai-train"}
WIDER_USES = {"bots", "automated", "tdm", "all"}
NO = {"n", "no", "?0", "0", "false"}
YES = {"y", "yes", "?1", "1", "true"}

XMP_BYTES = 1 << 20  # of a compressed XMP packet that are unpacked
DATA_MINING = re.compile(rb"DataMining\b.{0,200}?DMI-(PROHIBITED[A-Z-]*)", re.DOTALL)
MAGIC = [
    (b"\xff\xd8", 0, "image/jpeg"),
    (b"\x89PNG", 0, "image/png"),
    (b"WEBP", 8, "image/webp"),
    (b"GIF8", 0, "image/gif"),
    (b"ftypavif", 4, "image/avif"),
    (b"ftyp", 4, "image/heif"),
    (b"II*\0", 0, "image/tiff"),
    (b"MM\0*", 0, "image/tiff"),
]
MINING_USES = ("ai_generative_training", "ai_training", "data_mining")
MINING_LABEL = re.compile(r"^(c2pa|cawg)\.training-mining")
MINING_BYTES = re.compile(rb"(?:ai_generative_training|ai_training|data_mining).{1,8}?use.{1,8}?(notAllowed|constrained)", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """A signal and the words that it was read from."""

    signal: "OptOut"
    evidence: str

    def __str__(self) -> str:
        return f"{self.signal}: {self.evidence[:200]}"


def agent_token(user_agent: str) -> str:
    """The name by which rules call us, lower case: the first word of the user agent, or the one after `compatible;`."""
    compatible = re.search(r"compatible;\s*([\w.-]+)", user_agent)
    return (compatible.group(1) if compatible else re.split(r"[/\s(]", user_agent.strip(), maxsplit=1)[0]).lower()


def in_headers(headers: Iterable[tuple[str, str]], agent: str) -> list[Found]:
    """What an answer's headers say, honoured or not; `agent` from `agent_token`."""
    found: list[Found] = []
    for name, value in headers:
        match name.lower():
            case "x-robots-tag" if _x_robots(value, agent):
                found.append(Found("x-robots-tag", value))
            case "tdm-reservation" if value.strip() == "1":
                found.append(Found("tdmrep", "tdm-reservation: 1"))
            case "content-usage" | "content-signal" if _usage_refuses(value):
                found.append(Found("content-usage", value))
    return found


def _x_robots(value: str, agent: str) -> bool:
    """A name before a colon holds for the words after it, up to the next name."""
    for_us = True
    for part in value.lower().split(","):
        name, colon, words = part.rpartition(":")
        if colon and name.strip() in X_ROBOTS_KEYS:
            continue
        if colon and re.fullmatch(r"\s*[\w.*-]+\s*", name):
            for_us = name.strip() in (agent, "*")
        if for_us and X_ROBOTS_WORDS & set(re.split(r"[\s;]+", words)):
            return True
    return False


def _usage_refuses(value: str) -> bool:
    """`train-ai=n`; a wider word counts where nothing narrower says yes."""
    said = dict(re.findall(r"([a-z-]+)\s*=\s*\"?([a-z0-9?]+)", value.lower()))
    narrow = [said[use] for use in USES if use in said]
    if any(word in NO for word in narrow):
        return True
    return not any(word in YES for word in narrow) and any(said.get(use) in NO for use in WIDER_USES)


class SiteRules:
    """What robots.txt and tdmrep.json of one site say; either may be absent."""

    def __init__(self, agent: str, robots: str | None, tdmrep: str | None) -> None:
        self._agent = agent
        self._robots = None if robots is None else Protego.parse(robots)
        self._usages = [] if robots is None else _usage_lines(robots, agent)
        self._reservations = [] if tdmrep is None else _reservations(tdmrep)

    def refusal(self, url: str) -> Found | None:
        """The rule that keeps us from `url`; None when there is none."""
        if self._robots is not None and not self._robots.can_fetch(url, self._agent):
            return Found("robots.txt", f"Disallow for {self._agent}")
        usage = _longest([usage for usage in self._usages if usage.matches(url)])
        if usage is not None and usage.reserved:
            return Found("robots.txt", usage.evidence)
        rules = [rule for rule in self._reservations if rule.matches(url)]
        strict = next((rule for rule in (rules[:1] + [rule for rule in [_longest(rules)] if rule]) if rule.reserved), None)
        return None if strict is None else Found("tdmrep", strict.evidence)


@dataclass(frozen=True)
class PathRule:
    """A path pattern in the manner of robots.txt, and whether rights to what it matches are reserved."""

    location: str
    reserved: bool
    evidence: str
    pattern: Protego

    @classmethod
    def of(cls, location: str, reserved: bool, evidence: str) -> "PathRule":
        return cls(location, reserved, evidence, Protego.parse(f"User-agent: *\nDisallow: {' '.join(location.split())}"))

    def matches(self, url: str) -> bool:
        return not self.pattern.can_fetch(url, "*")


def _longest(rules: list[PathRule]) -> PathRule | None:
    return max(rules, key=lambda rule: len(rule.location), default=None)


def _reservations(text: str) -> list[PathRule]:
    """The rules of a tdmrep.json; what is not written as the protocol says is no rule."""
    try:
        entries = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return []
    entries = entries if isinstance(entries, list) else [entries]
    return [rule for entry in entries if isinstance(entry, dict) for rule in _reservation(entry)]


def _reservation(entry: dict[str, Any]) -> Iterator[PathRule]:
    location, reserved = entry.get("location"), entry.get("tdm-reservation")
    if isinstance(location, str) and location and reserved in (0, 1, "0", "1"):
        yield PathRule.of(location, str(int(reserved)) == "1", f"tdmrep.json: location {location[:100]}, tdm-reservation {reserved}")


def _usage_lines(robots: str, agent: str) -> list[PathRule]:
    """Content-Usage and Content-Signal lines of the group that is for us, or of everyone's."""
    groups: dict[str, list[PathRule]] = {"*": []}
    names, open_group = ["*"], False
    for line in robots.splitlines():
        key, _, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        if key.lower() == "user-agent":
            names = [*names, value.lower()] if open_group else [value.lower()]
        elif key.lower() in ("content-usage", "content-signal"):
            path, _, words = value.partition(" ") if value.startswith(("/", "*")) else ("/", "", value)
            rule = PathRule.of(path, _usage_refuses(words), f"{key}: {value}")
            for name in names:
                groups.setdefault(name, []).append(rule)
        open_group = key.lower() == "user-agent" or (open_group and not key)
    return groups.get(agent) or groups["*"]


def in_file(data: bytes, signals: "Collection[OptOut]") -> str | None:
    """The opt-out that a picture file itself carries, as `<signal>: <evidence>`. No network, never raises, bounded by the file's size."""
    if "iptc" in signals:
        prohibited = next(filter(None, map(DATA_MINING.search, _packets(data))), None)
        if prohibited is not None:
            return str(Found("iptc", f"DMI-{prohibited.group(1).decode()}"))
    if "content-credentials" in signals and b"jumb" in data and b"c2pa" in data:
        evidence = _credentials(data)
        if evidence is not None:
            return str(Found("content-credentials", evidence))
    return None


def _packets(data: bytes) -> Iterator[bytes]:
    """Where XMP may stand: plainly in the file, as UTF-16, or in compressed text chunks of a PNG."""
    if b"DataMining" in data:
        yield data
    if b"D\x00a\x00t\x00a\x00M\x00i\x00n\x00i\x00n\x00g" in data:
        yield data.replace(b"\x00", b"")
    if data.startswith(b"\x89PNG"):
        yield from _unpacked(data)


def _unpacked(data: bytes) -> Iterator[bytes]:
    place = 8
    while place + 12 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind in (b"iTXt", b"zTXt") and data[place + 8 : place + 40].startswith((b"XML:com.adobe.xmp\0", b"Raw profile type xmp\0")):
            chunk = data[place + 8 : place + 8 + size]
            text = _inflated(chunk)
            yield text
            if chunk.startswith(b"Raw"):  # lines of hexadecimal digits after two lines that tell kind and length
                digits = re.sub(rb"[^0-9a-f]", b"", text.split(b"\n", 3)[-1])
                yield bytes.fromhex(digits[: len(digits) & ~1].decode())
        place += 12 + size


def _inflated(chunk: bytes) -> bytes:
    """What follows the first zlib header that unpacks."""
    for start in (match.start() for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", chunk[:300])):
        try:
            return zlib.decompressobj().decompress(chunk[start:], XMP_BYTES)
        except zlib.error:
            continue
    return b""


def _credentials(data: bytes) -> str | None:
    """Of all manifests in the file, also those of its ingredients. Where the library cannot read them, the bytes are searched."""
    try:
        manifests = json.loads(_manifests(data)).get("manifests", {}).values()
        for manifest in manifests:
            for assertion in manifest.get("assertions", []):
                evidence = _mining(assertion.get("label", ""), assertion.get("data"))
                if evidence is not None:
                    return evidence
    except Exception:  # whatever a stranger's file leads a parser to
        pass
    raw = MINING_BYTES.search(data) if b"training-mining" in data else None
    return None if raw is None else f"training-mining {raw.group(1).decode()}"


def _mining(label: str, assertion: Any) -> str | None:
    if not MINING_LABEL.match(label) or not isinstance(assertion, dict):
        return None
    for name, entry in assertion.get("entries", {}).items():
        if name.rpartition(".")[2] in MINING_USES and entry.get("use") in ("notAllowed", "constrained"):
            return f"{label} {name} {entry['use']}"
    return None


def _manifests(data: bytes) -> str:
    import c2pa  # 40 MB that most runs never need

    kind = next((kind for magic, place, kind in MAGIC if data[place : place + len(magic)] == magic), None)
    with c2pa.Reader(kind, io.BytesIO(data), context=_offline()) as reader:
        return str(reader.json())


@cache
def _offline() -> Any:
    """A reader's settings: nothing is fetched, nobody need be trusted."""
    import c2pa

    return c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}})
