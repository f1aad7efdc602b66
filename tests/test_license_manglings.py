"""No mangling of a licence's address or name may raise what it permits."""

import collections
import re
import unicodedata
import urllib.parse

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ccray import license_names
from ccray.license_names import DEEDS
from ccray.licenses import License, parse
from tests.test_licenses import claims, looseness


def not_looser(license: License, than: License) -> bool:
    """What is known of a licence may be lost (True or False becomes None, a bucket `none`), but nothing may be gained."""
    if license.bucket == "none":
        return claims(license) <= claims(than)
    return claims(license) <= claims(than) and looseness(license)[-1] <= looseness(than)[-1]


URLS = [
    f"https://creativecommons.org/{path}/"
    for path in ("licenses/by/4.0", "licenses/by-sa/3.0", "licenses/by-nc/2.0", "licenses/by-nc-sa/2.5", "licenses/by-nd/3.0/us", "licenses/by-nc-nd/4.0",
                 "licenses/by-nd-nc/1.0", "licenses/nc-sampling+/1.0", "licenses/devnations/2.0", "publicdomain/zero/1.0", "licenses/by-nc-sa/2.1/jp")
]  # fmt: skip
NAMES = [
    "CC-BY-4.0", "CC BY-SA 3.0 de", "CC-BY-NC-2.0", "cc-by-nc-sa-2.5", "CC BY-ND 3.0", "CC BY-NC-ND 4.0", "by-nc 2.0", "CC0-1.0", "CC-PDM-1.0",
    "Attribution-NonCommercial License", "Attribution-NonCommercial-NoDerivs License", "Attribution-ShareAlike License",
    "Creative Commons Attribution-NonCommercial 4.0 International", "No known copyright restrictions", "United States Government Work",
]  # fmt: skip
JUNK = st.sampled_from(
    list(" \t\n\x00-_/.,;:!?()[]<>\"'&=#%+*|\\@~0123456789") + list("abcdensyABCDNSY") + list("\u200b\u200d\ufeff\u00adаесуԁｂｃ０–—\u0301é中😀")
)


def spells_another(text: str, original: str) -> bool:
    """Whether an edit happened to write another licence's own address or name: then it is that licence, not a mangled one."""
    plain = unicodedata.normalize("NFKC", urllib.parse.unquote(text)).lower()
    families = re.findall(r"/(?:licen[cs]es|publicdomain)/+([a-z0-9+-]+)/+\d\.\d", plain)
    if any(family in license_names.TERMS and f"/{family}/" not in original.lower() for family in families):
        return True
    return any(parse(name) != parse(original) for name in NAMES_BY_WORDS.get(split(plain), ()))


def split(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z+]+|[0-9]+", text.lower()))


ALL_NAMES = [
    *license_names.WHOLE_TEXTS,
    *license_names.FLICKR,
    *(f"{prefix}{deed}" for deed in DEEDS for prefix in ("cc ", "") if deed.family not in ("zero", "mark")),
    *(f"{prefix}{deed.family} {version}" for deed in DEEDS for prefix in ("cc ", "") for version in ("3", "4")),
    *(f"creative commons attribution {version}{end}" for version in ("1.0", "2.0", "2.5", "3.0", "4.0", "3", "4") for end in ("", " international")),
    *("cc0", "cc0 1.0", "cc 0", "pdm", "pdm 1.0", "public domain mark", "cc by"),
]
NAMES_BY_WORDS: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
for each in ALL_NAMES:
    NAMES_BY_WORDS[split(each)].append(each)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(
    st.sampled_from([*URLS, *NAMES]),
    st.lists(st.tuples(st.sampled_from(["insert", "delete", "replace", "cut", "swap"]), st.integers(0, 80), JUNK), min_size=1, max_size=4),
)
@example(URLS[2], [("delete", 40, " ")] * 3)
@example("CC-BY-NC-2.0", [("delete", 6, " "), ("delete", 6, " ")])
@example("Attribution-NonCommercial License", [("delete", 12, " ")] * 4)
def test_no_edit_raises_permission(text: str, edits: list[tuple[str, int, str]]) -> None:
    mangled = text
    for kind, place, junk in edits:
        at = place % (len(mangled) + 1)
        after = mangled[at + 1 :]
        if kind == "swap":
            mangled = mangled[:at] + mangled[at : at + 2][::-1] + mangled[at + 2 :]
        else:
            mangled = mangled[:at] + {"insert": junk + mangled[at : at + 1] + after, "delete": after, "replace": junk + after, "cut": ""}[kind]
    assume(not spells_another(mangled, text))
    assert not_looser(parse(mangled), parse(text)), mangled


def encoded(text: str, places: list[int]) -> str:
    return "".join(urllib.parse.quote(letter, safe="") if index in places else letter for index, letter in enumerate(text))


@settings(max_examples=800, deadline=None, derandomize=True)
@given(
    st.sampled_from(URLS),
    st.sampled_from(["https:", "http:", "", "HTTP:", "https://http:"]),
    st.sampled_from(["creativecommons.org", "www.creativecommons.org", "CreativeCommons.ORG", "creativecommons.org.", "creativecommons.org:443"]),
    st.sampled_from(
        ["", "deed", "deed.en", "legalcode", "deed.pt_BR", "legalcode.fr", "?lang=en", "#x", ".", ")", "'", '">', ";", "&#x27;", "%22", "\u200b"]
    ),
    st.sampled_from(["{}", " {}\r\n", "<{}>", '<a href="{}">', "href='{}'", "({})", "License: {}", "\ufeff{}", "{}\x00"]),
    st.lists(st.integers(0, 80), max_size=6),
    st.booleans(),
)
def test_another_spelling_of_a_url_is_the_same_licence(
    url: str, scheme: str, host: str, tail: str, around: str, places: list[int], upper: bool
) -> None:
    written = f"{scheme}//{host}{url.removeprefix('https://creativecommons.org')}"
    written = encoded(written.upper() if upper else written, places)
    assert looseness(parse(around.format(written + tail))) == looseness(parse(url))
    assert parse(around.format(written + tail)).id == parse(url).id


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from([*URLS, *NAMES]),
    st.sampled_from([*URLS, *NAMES]),
    st.sampled_from(["", " ", ", ", " or ", "/", "-", "; ", "\n", "</a>", "+", " \u200b", "%20"]),
)
def test_two_licences_permit_what_both_permit(one: str, other: str, between: str) -> None:
    both = parse(one + between + other)
    assert not_looser(both, parse(one)), both
    assert not_looser(both, parse(other)), both


WORDS = (
    "cc by nc nd sa - - / . , 4.0 3.0 2.0 1.0 de license attribution noncommercial sharealike noderivs creative commons public domain cc0 pdm or and ( ) "
    "international sampling https://creativecommons.org/licenses/by/4.0/ https://creativecommons.org/licenses/ by-nc/4.0 mark zero photo"
)
PIECES = st.sampled_from(WORDS.split())


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.lists(st.tuples(PIECES, st.sampled_from([" ", "-", "_", ", ", "\n"])), max_size=10))
def test_a_word_that_forbids_is_never_overheard(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece + between for piece, between in pieces)
    license = parse(text)
    said = {piece for piece, _ in pieces}
    if said & {"nc", "noncommercial", "by-nc/4.0"}:
        assert license.commercial is not True, text
        assert license.bucket not in ("C",), text
    if said & {"nd", "noderivs"}:
        assert license.derivatives is not True, text
        assert license.bucket in ("ND", "none"), text
    if said & {"sa", "sharealike"}:
        assert license.share_alike is not False, text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_any_text_has_an_answer(text: str) -> None:
    license = parse(text)
    assert license.bucket == "none" or license.id is not None
    if license.id is not None:
        assert looseness(parse(license.id)) == looseness(license)
