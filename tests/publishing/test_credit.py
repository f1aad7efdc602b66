"""The sentence that credits an image, whatever strangers wrote into it."""

import html
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ccray.publishing.credit import Credit, host, patterns, safe_url

BY = ("CC-BY-2.0", "https://creativecommons.org/licenses/by/2.0/")
FULL = Credit("Bridge", "Jane", "https://p.example/jane", "yfcc100m", "https://p.example/1", *BY)


def test_all_that_is_known_is_said() -> None:
    assert FULL.text() == (
        "“Bridge” (https://p.example/1) by Jane, found through yfcc100m, used under CC-BY-2.0 (https://creativecommons.org/licenses/by/2.0/)."
    )
    link = 'rel="noopener noreferrer nofollow"'
    assert FULL.html() == (
        f'<a href="https://p.example/1" {link}><bdi>“Bridge”</bdi></a> by <a href="https://p.example/jane" {link}><bdi>Jane</bdi></a>, '
        f'found through <bdi>yfcc100m</bdi>, used under <a href="https://creativecommons.org/licenses/by/2.0/" {link}><bdi>CC-BY-2.0</bdi></a>.'
    )


def test_what_is_not_known_is_not_made_up() -> None:
    assert Credit(None, None, None, None, None, *BY).text().startswith("This work (the source names no creator), used under CC-BY-2.0")
    assert Credit("a", "b", None, None, None, None, None).text() == "“a” by b, used under an unstated licence."
    assert "in the public domain under CC0-1.0" in Credit("a", None, None, "met", None, "CC0-1.0", None).text()
    assert "in the public domain under CC-PDM-1.0" in Credit("a", None, None, "met", None, "CC-PDM-1.0", None).text()
    assert Credit.of({"title": "  two\n lines ", "creator": " "}) == Credit("two lines", None, None, None, None, None, None)


def test_only_web_addresses_become_links() -> None:
    assert safe_url("https://a.example/x?y=1#z") == "https://a.example/x?y=1#z"
    assert host("HTTPS://www.A.example:443/x@y") == "a.example"
    assert host("http://bücher.example?x") == "bücher.example"
    for bad in (
        None,
        "",
        "javascript:alert(1)",
        " https://a.example",
        "https://",
        "data:text/html,x",
        "//a.example",
        "ftp://a.example",
        "https://good.example@bad.example/",
        "https://a.example/\u2028",
        "https://a\nb",
        "http://[",
        "JAVASCRIPT:x",
    ):
        assert (safe_url(bad), host(bad)) == (None, None)


def test_every_pattern_is_there_for_the_page() -> None:
    assert len(patterns()) == 8
    assert patterns()["110"] == "{work} by {creator}, found through {source}, used under {license}."


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]


words = st.one_of(st.none(), st.text(), st.sampled_from(["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{0}{work}%s", "&lt;b&gt;"]))


@given(words, words, words, words, words, words)
def test_no_stranger_writes_html(
    title: str | None, creator: str | None, creator_url: str | None, source: str | None, url: str | None, license: str | None
) -> None:
    one = Credit.of({"title": title, "creator": creator, "creator_url": creator_url, "source": source, "source_url": url, "license": license})
    reader = Reader()
    reader.feed(one.html())
    assert reader.tags <= {"a", "bdi"}
    assert reader.attributes <= {"href", "rel"}
    assert all(re.match("https?://", link) for link in reader.links)
    if one.title:
        assert html.escape(one.title) in one.html()
        assert one.title in one.text()
