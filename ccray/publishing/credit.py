"""How an image is credited: title, author, source, licence, in one sentence; as text, as HTML, and as patterns for the page's script.

The wording stands here once. What strangers wrote (titles, names, addresses) is escaped, and only http(s) addresses become links.
"""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UNTITLED = "This work"
# http or https, a host, nothing that a browser would drop or that hides where the link leads: no blanks, control characters or user names.
WEB = re.compile(r"https?://(?P<host>\[[0-9a-f:.]+\]|[^\s\x00-\x20\x7f/?#@:\\\[\]]+)(?::\d+)?(?:[/?#][^\s\x00-\x20\x7f]*)?", re.IGNORECASE)
# Licences and tools that ask for no credit: nobody *licenses* what is in the public domain.
PUBLIC_DOMAIN = ("CC0", "CC-PDM", "CC-PDDC")


@dataclass(frozen=True)
class Credit:
    """What is known of one image's origin; None where the source does not say."""

    title: str | None
    creator: str | None
    creator_url: str | None
    source: str | None
    source_url: str | None
    license: str | None
    license_url: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Credit":
        """From a row of the catalog or of a copy."""
        return cls(*(_clean(row.get(name)) for name in cls.__dataclass_fields__))

    def text(self) -> str:
        """The sentence, plain; the addresses of the work and of its licence in brackets."""
        return self._sentence(lambda words, url: f"{words} ({url})" if url else words, ("work", "license"))

    def html(self) -> str:
        """The sentence as HTML: the title links to its page, creator and licence to theirs."""
        return self._sentence(_link, ("work", "creator", "license"))

    def _sentence(self, link: Callable[[str, str | None], str], links_on: tuple[str, ...]) -> str:
        urls = {"work": self.source_url, "creator": self.creator_url, "license": self.license_url}
        words = {
            "work": f"“{self.title}”" if self.title else UNTITLED,
            "creator": self.creator or "",
            "source": self.source or "",
            "license": self.license or "an unstated licence",
        }
        filled = {name: link(value, safe_url(urls[name]) if name in links_on else None) for name, value in words.items()}
        return pattern(self.creator is not None, self.source is not None, is_public_domain(self.license)).format(**filled)


def pattern(created: bool, sourced: bool, public_domain: bool) -> str:
    """The sentence with holes {work} (its title in quotes, or `UNTITLED`), {creator}, {source}, {license}."""
    by = " by {creator}" if created else " (the source names no creator)"
    via = ", found through {source}" if sourced else ""
    tail = ", in the public domain under {license}." if public_domain else ", used under {license}."
    return "{work}" + by + via + tail


def patterns() -> dict[str, str]:
    """Every pattern under three digits: created, sourced, public domain; for the page's script."""
    return {f"{number:03b}": pattern(*(digit == "1" for digit in f"{number:03b}")) for number in range(8)}


def is_public_domain(license: str | None) -> bool:
    return (license or "").startswith(PUBLIC_DOMAIN)


def safe_url(url: str | None) -> str | None:
    """The address if it may become a link, as `WEB` reads it; else None."""
    return url if url and WEB.fullmatch(url) else None


def host(url: str | None) -> str | None:
    """The host of such an address, lower case, without `www.`; None for anything else."""
    found = WEB.fullmatch(url) if url else None
    return found["host"].lower().removeprefix("www.") if found else None


def _clean(value: Any) -> str | None:
    """One line of text; None when nothing is left."""
    return " ".join(str(value).split()) or None if value is not None else None


def _link(words: str, url: str | None) -> str:
    if url is None:
        return f"<bdi>{html.escape(words)}</bdi>"
    return f'<a href="{html.escape(url, quote=True)}" rel="noopener noreferrer nofollow"><bdi>{html.escape(words)}</bdi></a>'
