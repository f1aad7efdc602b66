"""From a text to the licences that it names.

Two readings. *Addresses*: every deed or legal-code URL in the text, whatever stands around it. *Names*: SPDX ids, catalog codes, titles in
several languages. Words that are neither are kept apart: beside a deed URL they must not speak against it, without one there may be none.
"""

import html
import re
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote

from ccray.license_names import (
    BETWEEN,
    COUNTRY,
    DEED_FAMILIES,
    DEEDS,
    ELEMENTS,
    FAMILY_OF,
    FILLERS,
    FLICKR,
    INNER_FILLERS,
    JURISDICTION_OF,
    NAMED,
    NOISE,
    ONLY_VERSION,
    PORTS,
    PUBLIC_TOOLS,
    SPELT,
    STATEMENT_PATHS,
    VERSION_OF,
    WHOLE_TEXTS,
    Deed,
)

ADDRESS = "deed URL"
CHARACTERS_AT_MOST = 10_000  # a licence statement is a line; what is longer is a page, and pages name many licences


@dataclass(frozen=True)
class Mention:
    """A licence that a text names. `stated` is False where the text shows it without stating it: a button, an address inside another one."""

    deed: Deed
    form: str
    stated: bool = True
    is_address: bool = False


@dataclass
class Reading:
    """What a text says: its mentions, the words that are no part of one, and what looks like a licence but is not one that exists."""

    mentions: list[Mention] = field(default_factory=list)
    elements: set[str] = field(default_factory=set)  # every by, nc, nd, sa among the words, also outside a whole name
    words: list[str] = field(default_factory=list)
    rest: str = ""  # the text without its addresses
    faults: list[str] = field(default_factory=list)

    @property
    def addresses(self) -> list[Mention]:
        return [mention for mention in self.mentions if mention.is_address]


def read(text: str) -> Reading:
    """Every licence that `text` names. Never raises; time grows linearly with the text, which is bounded."""
    plain = normal(text) if len(text) <= CHARACTERS_AT_MOST else text
    if len(plain) > CHARACTERS_AT_MOST:  # one ligature can be eighteen letters
        return Reading(faults=[f"longer than {CHARACTERS_AT_MOST:,} characters"])
    reading = Reading()
    reading.rest = _read_addresses(plain, reading)
    if plain in FLICKR and plain.isascii():
        _read_number(plain, reading)
    else:
        _read_names(reading.rest.strip(), reading)
    is_broken = not reading.faults and not reading.addresses and (reading.words or not reading.mentions)
    return (_closed_up(plain) if is_broken else None) or reading


def normal(text: str) -> str:
    """Lower case, entities and percent-encoding decoded, invisible characters gone, every dash a hyphen, one blank for any blank."""
    for _ in range(3):  # a title that went through two forms has "%2520" or "&amp;quot;"
        decoded = unquote(html.unescape(text))
        if decoded == text:
            break
        text = decoded
    text = unicodedata.normalize("NFKC", text.replace(r"\/", "/")).lower()  # JSON may escape a slash
    kinds = ((character, unicodedata.category(character)) for character in text)
    return " ".join(
        "".join("-" if kind == "Pd" or character == "−" else " " if kind == "Cc" else character for character, kind in kinds if kind != "Cf").split()
    )


# Addresses

_TOKEN = re.compile(r"[^\s\"'<>|^`{}\\,;()\[\]*“”‘’«»]+")
_HOST = re.compile(r"(?:creativecommons\.org|licensebuttons\.net|rightsstatements\.org|flickr\.com|usa\.gov)\.?(?::\d{1,5})?(?=/)")
_HEAD = re.compile(r"(?:[a-z0-9_.:-]{1,40}[=:])?(?:https?:)?/{0,4}(?:https?:/{0,4})?")
_SCHEME = re.compile(r"https?:/*|^/+")
_SECTION = re.compile(r"/+(licen[cs]es?|publicdomain|l|p)/+(.*)")
_DOCUMENT = re.compile(r"(?:deed|legalcode)(?:[._-][a-z]{2,4}(?:[_-][a-z0-9]{2,8}){0,2})?(?:\.html?|\.txt)?|rdf|index\.(?:html?|php)")
_PICTURE = re.compile(r"[a-z0-9_.-]{1,40}\.(?:png|gif|svg|jpe?g)")
_STATEMENT_HOSTS = ("rightsstatements.org", "flickr.com", "usa.gov")
_FAMILY_ALIASES = {"cc0": "zero", "pdm": "mark"}


def _read_addresses(plain: str, reading: Reading) -> str:
    """Adds the licences that the text's addresses name; the text without them."""

    def read_token(token: re.Match[str]) -> str:
        hosts = list(_HOST.finditer(token[0]))
        if not hosts:
            return token[0]
        kept = []
        for host, following in zip(hosts, [*hosts[1:], None], strict=True):
            head = token[0][: host.start()] if host is hosts[0] else ""
            tail = token[0][host.end() : following.start() if following else None]
            kept.append(_read_address(head, host[0].partition(":")[0].rstrip("."), tail, host is hosts[0], reading))
        return " ".join(kept)

    return _TOKEN.sub(read_token, plain)


def _read_address(head: str, host: str, tail: str, first: bool, reading: Reading) -> str:
    """Reads one address; what of it is left to read as words. `head` is what its token has before the host, scheme and subdomain too."""
    front = head.rstrip("abcdefghijklmnopqrstuvwxyz0123456789.-_")
    end = min((tail.find(mark) for mark in "?#&" if mark in tail), default=len(tail))
    found = _named_by(head[len(front) :], host, tail[:end])
    if isinstance(found, str):
        reading.faults.append(found)
    elif found is not None:
        deed, form = found
        if not first or _HEAD.fullmatch(front) is None:
            form = "address inside another one"
        reading.mentions.append(Mention(deed, form, form == ADDRESS, True))
    else:  # an ordinary page, such as a photo's
        return head + host + tail
    return f"{_SCHEME.sub('', front)} {tail[end:]}"


def _named_by(subdomain: str, host: str, path: str) -> tuple[Deed, str] | str | None:
    """The licence of an address and its form; None for any other page, and why where it looks like a deed's but is none."""
    if host in _STATEMENT_HOSTS:
        family = STATEMENT_PATHS.get(_trimmed(re.sub(r"/+", "/", host + path)))
        return (Deed(family), ADDRESS) if family is not None and subdomain in ("", "www.") else None
    section = _SECTION.fullmatch(path)
    if section is None or not _trimmed(section[2]):
        return None
    if subdomain not in ("", "www.", "i."):
        return f"not Creative Commons' host: {subdomain}{host}"
    return _deed_of(section[1], [part for part in _trimmed(section[2]).split("/") if part])


def _trimmed(path: str) -> str:
    """Without the slashes and the punctuation at its end; "+" belongs to names."""
    end = len(path)
    while end and not (path[end - 1].isalnum() or path[end - 1] == "+"):
        end -= 1
    return path[:end]


def _deed_of(section: str, parts: list[str]) -> tuple[Deed, str] | str:
    """The deed of a path such as by/3.0/us/deed.en and its form; or why there is none."""
    shown = "/".join([section, *parts])[:80]
    family = _FAMILY_ALIASES.get(parts[0], parts[0])
    parts = parts[1:]
    is_button = section in ("l", "p")
    if parts and _PICTURE.fullmatch(parts[-1]):
        is_button, parts = True, parts[:-1]
    elif parts and _DOCUMENT.fullmatch(parts[-1]):
        parts = parts[:-1]
    version = parts.pop(0) if parts and parts[0] in VERSION_OF and "." in parts[0] else None
    port = parts.pop(0) if parts else None
    deed = Deed("by-nd-nc" if (family, version) == ("by-nc-nd", "1.0") else family, version or ONLY_VERSION.get(family), port)
    is_known = deed in DEEDS or (deed.version is None and deed.jurisdiction is None)
    if parts or not is_known or deed.family not in (PUBLIC_TOOLS if section == "publicdomain" else DEED_FAMILIES):
        return f"no such deed: {shown!r}"
    return deed, "button" if is_button else ADDRESS


def _closed_up(plain: str) -> Reading | None:
    """A deed URL broken by blanks, which a page's layout left in it; None when the text is more than that."""
    reading = Reading()
    rest = _read_addresses(plain.replace(" ", ""), reading)
    return reading if len(reading.mentions) == 1 and not reading.faults and not rest.strip("/: ") else None


# Names

_WORD = re.compile(r"cc0(?![^\W_])|\d+(?:\.\d+)*|[^\W\d_]+\+?|\S")
_GLUED, _GLUED_PART = re.compile("(?:cc|by|nc|nd|sa){2,}"), re.compile("cc|by|nc|nd|sa")  # ccbync: too vague to permit, clear enough to forbid
_TAG = re.compile(r"</?[a-z][a-z0-9]{0,10} ?/?>")
# A hyphen that joins nothing, empty brackets: "by- 4.0" has lost a part of its name.
_GAP = re.compile(r"[-_/]{2}|(?<=[^\W_])[-_/](?![^\W_])|(?<![^\W_])(?<!^)[-_/](?=[^\W_])|\( ?\)|, ?,")
_VERSION_WORD = re.compile(r"(?<![^\W_])(?:version |ver\.? ?|v\.?)(?=\d)")
_DASHED_VERSION = re.compile(r"(?<=[ _-])([1-4])[_-]([015])(?![\d.])")  # cc_by_4_0, cc-by-4-0


@dataclass
class _Name:
    """A name as far as it is read."""

    marked: bool = False  # says that it is Creative Commons': in English prose "by" is only a word
    elements: list[str] = field(default_factory=list)
    family: str | None = None
    version: str | None = None
    port: str | None = None


def _read_number(text: str, reading: Reading) -> None:
    deed = FLICKR[text]
    if deed is None:
        reading.faults.append("Flickr licence 0: all rights reserved")
    else:
        reading.mentions.append(Mention(deed, f"Flickr licence {text}"))


def _read_names(text: str, reading: Reading) -> None:
    """Adds the licences that the words name."""
    if text.startswith("{{") and text.endswith("}}"):  # a wiki's template
        text = text[2:-2].strip()
    if _GAP.search(text):
        reading.words.append("-")
    whole = " ".join(re.sub(r"[^\w+]|_", " ", text).split())
    if whole in WHOLE_TEXTS and not reading.words:
        reading.mentions.append(Mention(WHOLE_TEXTS[whole], "catalog name"))
    else:
        for name in _names(_TAG.sub(" ", text).removeprefix("licenseref-"), reading):
            _close(name, reading)


def _names(text: str, reading: Reading) -> list[_Name]:
    text = _DASHED_VERSION.sub(r"\1.\2", _VERSION_WORD.sub("", text))
    text = COUNTRY.sub(lambda found: f" {JURISDICTION_OF[found[0].strip()]} ", text)
    for pattern, word in SPELT:
        text = pattern.sub(word, text)
    names = [_Name()]
    fresh = False  # the last word was this name's version, so a jurisdiction may follow
    for word in _WORD.findall(text):
        name = names[-1]
        if word in NOISE:
            continue
        if fresh and word in PORTS and _exists(name, word):
            name.port, fresh = word, False
        elif word in ELEMENTS or word in NAMED or word == "cc":
            names = _begun(names, word)
            fresh = False
        elif word in VERSION_OF and name.version is None and (name.elements or name.family) and ("." in word or name.marked):
            name.version, fresh = VERSION_OF[word], True
            name.marked |= "." in word
        elif word in BETWEEN:
            names.append(_Name())
            fresh = False
        elif word not in (INNER_FILLERS if name.elements and not name.version else FILLERS):
            reading.words.append(word)
            reading.elements.update(_GLUED_PART.findall(word) if _GLUED.fullmatch(word) else ())
            names.append(_Name())  # in "Creative Commons work by Ann 4.0" nothing is named
            fresh = False
    reading.elements.update(element for name in names for element in name.elements)
    return names


def _begun(names: list[_Name], word: str) -> list[_Name]:
    """Puts a word into the name that is being read, or begins the next one."""
    name = names[-1]
    is_full = (
        name.family is not None or name.version is not None or (word in (*NAMED, "cc") and name.elements) or (word == "by" and "by" in name.elements)
    )
    if is_full:
        name = _Name()
        names = [*names, name]
    if word == "cc":
        name.marked = True
    elif word in NAMED:
        name.family = NAMED[word]
    else:
        name.elements.append(word)
    return names


def _deed_named(name: _Name) -> Deed | None:
    family = name.family or FAMILY_OF.get(frozenset(name.elements))
    if family is None or len(set(name.elements)) != len(name.elements):
        return None
    version = name.version or ONLY_VERSION.get(family)
    return Deed("by-nd-nc" if (family, version) == ("by-nc-nd", "1.0") else family, version, name.port)


def _exists(name: _Name, port: str) -> bool:
    deed = _deed_named(name)
    return deed is not None and Deed(deed.family, deed.version, port) in DEEDS


def _close(name: _Name, reading: Reading) -> None:
    is_sure = name.marked or name.family is not None or len(name.elements) > 1 or not reading.words
    if not is_sure or (name.family is None and not name.elements):
        return
    deed = _deed_named(name)
    if deed is None or (deed.version is not None and deed not in DEEDS):
        reading.faults.append(f"no such licence: {'-'.join(name.elements) if deed is None else deed}")
    else:
        reading.mentions.append(Mention(deed, "name"))
