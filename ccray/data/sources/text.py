"""Titles and names as plain text on one line: markup, entities and mojibake mended, everything else left as it stands.

What is right must come out as it went in: no Unicode normalisation, no straightened quotes, no narrowed letters, and blanks stay where a
writer put them. Mojibake is ftfy's work; here it only loses the habits that change good text.
"""

import re
from html import unescape
from html.parser import HTMLParser

import ftfy

MAX_CHARACTERS = 10_000  # of a text that is kept; far above any title, far below what would burden a table
FTFY = ftfy.TextFixerConfig(unescape_html=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False, normalization=None)

# Words between angle brackets are markup only when they are elements of HTML: "<3", "a < b" and "<unknown>" are text.
INLINE = "a|abbr|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|img|ins|kbd|mark|nobr|q|s|samp|small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
BLOCK = "address|blockquote|body|br|center|dd|div|dl|dt|figure|h[1-6]|head|hr|html|iframe|li|link|meta|object|ol|p|pre|script|style|table|tbody|td|th|tr|ul"
TAG = re.compile(rf"</?(?:{INLINE}|{BLOCK})(?:\s[^<>]*)?/?>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
BLOCK_TAG = re.compile(rf"</?(?:{BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
UNSEEN = re.compile(r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
LINE_BREAKS = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
LAYERS = 3  # of escaping that are undone: "&amp;amp;" is common, more is not


def mend(text: str) -> str | None:
    """`text` as plain text on one line; None when nothing is left. A text that is fine comes back unchanged, but for outer blanks."""
    plain = text[:MAX_CHARACTERS]
    if "<" in plain or "&" in plain:
        plain = without_markup(plain)
    if not plain.isascii() or not plain.isprintable():
        plain = LINE_BREAKS.sub(" ", ftfy.fix_text(plain, FTFY))
    return plain.strip() or None


def without_markup(text: str) -> str:
    """Text without HTML tags and entities, also where those were escaped once more."""
    for _ in range(LAYERS):
        stripped = TAG.sub("", BLOCK_TAG.sub(" ", UNSEEN.sub(" ", text)))
        if stripped != text:
            stripped = " ".join(stripped.split())  # blanks between tags are layout
        plain = ENTITY.sub(lambda found: unescape(found[0]).replace("\xa0", " "), stripped)
        if plain == text:
            break
        text = plain
    return text


def first_link(markup: str) -> str | None:
    """Where the first link of a piece of HTML leads."""
    finder = _Links()
    finder.feed(markup[:MAX_CHARACTERS])
    return next(iter(finder.found), None)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
