"""captions/report.html: captions beside real pictures, nothing of a stranger's text acts, nothing of what was taken down stays."""

import json
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ccray.data.captioning import report
from ccray.data.captioning.report import REPORT, write_anew, write_report
from ccray.flags import FLAGS
from ccray.schema import hex_key, key_of
from ccray.shapes import world
from ccray.storage import Root
from tests.data.captioning import written
from tests.data.index.shards import Row
from tests.data.index.test_report import EVIL, Page, picture

JAPANESE = "茶色い犬が、古い家の前の芝生に横たわっている。髙﨑𠮷野家"
HOSTILE = [EVIL, "'\"><b onclick=x>", "\u202edlrow olleh", "a\x00\x1bb", "&lt;&amp;", "x" * 100_000, "</p></li></main><h1>mine</h1>", "a\nb\n\n\nc"]
ROWS = [
    Row("first", picture(1), title="Sea", creator="Ada Lovelace", source_url="https://example.org/1", size=(60, 40)),
    Row("evil", picture(2), title=EVIL, creator=EVIL, source_url="javascript:alert(1)", creator_url="data:text/html,x"),
    *(Row(f"more {number}", picture(3 + number)) for number in range(10)),
]
KEYS = [key_of(row.bytes) for row in ROWS]


def page(root: Root) -> Page:
    return Page(root.read(REPORT).decode())


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    fill(root)
    return root


def fill(root: Root) -> None:
    written.catalog(root, ROWS)
    written.captions(root, "short", {key: (f"a picture of number {place}", "ok", -0.5) for place, key in enumerate(KEYS)})
    written.captions(root, "japanese", dict.fromkeys(KEYS, (JAPANESE, "ok", -1.25)), "ja")
    hostile: dict[int, written.Said] = {key: (text, flag, None) for key, text, flag in zip(KEYS, HOSTILE, FLAGS, strict=False)}
    written.captions(root, "hostile", hostile, '"><script>')
    written.captions(root, "source-caption", {KEYS[0]: ("as shipped", "ok", None), KEYS[1]: (None, "worker_died", None)}, "und", None)


def test_all_captions_of_an_image_stand_beside_it(root: Root) -> None:
    write_report(root)
    text = root.read(REPORT).decode()
    card = text.partition(f'<article id="k{hex_key(KEYS[0])}">')[2].partition("</article>")[0]
    found = Page(card)
    assert [image["alt"] for image in found.of("img")] == ["Sea"]
    assert "by Ada Lovelace" in " ".join(found.words.split())
    assert [link["href"] for link in found.of("a") if "example.org" in (link["href"] or "")] == ["https://example.org/1"]
    for name, words in (("short", "a picture of number 0"), ("japanese", JAPANESE), ("hostile", EVIL), ("source-caption", "as shipped")):
        assert name in found.words
        assert words in found.words
    assert "−1.25" in found.words
    assert "empty" in found.words  # the flag of the hostile one
    assert len(page(root).of("article")) == len(ROWS)


def test_japanese_is_there_byte_for_byte_and_said_to_be_japanese(root: Root) -> None:
    write_report(root)
    assert f'<p lang="ja" dir="auto">{JAPANESE}</p>'.encode() in root.read(REPORT)
    assert JAPANESE.encode() in root.read("captions/statistics.json")


def test_nothing_of_others_acts_and_nothing_is_loaded(root: Root) -> None:
    write_report(root)
    found, text = page(root), root.read(REPORT).decode()
    assert not found.of("script")
    assert not found.of("link")
    assert len(found.of("h1")) == 1
    assert EVIL in found.words
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in found.of("img"))
    assert all((link["href"] or "").startswith(("https://", "#")) for link in found.of("a"))
    assert {one.get("lang") for one in found.of("p") if "lang" in one} == {"en", "ja", ""}
    policy = next(meta["content"] or "" for meta in found.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "url(" not in text
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "x" * (report.SHOWN_CHARACTERS + 1) not in text
    assert "98,800 more characters" in found.words
    assert "unicode-bidi: isolate" in text  # ends what a mark of direction began


def test_each_flag_has_its_meaning_and_examples(root: Root) -> None:
    write_report(root)
    text = root.read(REPORT).decode()
    flags = text.partition('<section id="flags">')[2].partition("</section>")[0]
    assert all(flag in flags and Page(text).words.count(FLAGS[flag][:20]) for flag in FLAGS)
    assert len(Page(flags).of("figure")) == len(HOSTILE)


def test_examples_come_from_each_table_in_turn(root: Root) -> None:
    written.captions(root, "a", dict.fromkeys(KEYS, ("no no no no", "looping", None)))
    written.captions(root, "b", dict.fromkeys(KEYS[:2], ("go go go go", "looping", None)))
    write_report(root)
    text = root.read(REPORT).decode().partition("<code>looping</code> the same")[2].partition("<h3>")[0]
    assert len(Page(text).of("figure")) == report.EXAMPLES
    assert (text.count("no no no no"), text.count("go go go go")) == (2, 2)


def test_what_was_taken_down_leaves_the_page(root: Root) -> None:
    write_report(root)
    assert "a picture of number 0" in page(root).words
    root.write("takedowns/1.jsonl", json.dumps({"key": hex_key(KEYS[0])}).encode())
    assert write_anew(root)
    after = page(root)
    assert "a picture of number 0" not in after.words
    assert "as shipped" not in after.words
    assert "Sea" not in {image["alt"] for image in after.of("img")}
    assert b"as shipped" not in root.read("captions/statistics.json")


def test_the_same_page_every_time(root: Root) -> None:
    write_report(root)
    first = root.read(REPORT)
    write_report(root)
    assert root.read(REPORT) == first


def test_a_run_without_captions_has_no_page(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    written.catalog(root, ROWS[:1])
    assert not write_anew(root)
    assert not root.exists(REPORT)


def test_some_tables_only(root: Root) -> None:
    assert [one.table for one in write_report(root, "catalog", ["captions/short"]).tables] == ["short"]
    assert JAPANESE not in page(root).words


def test_a_picture_that_cannot_be_read_does_not_hide_its_flag(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    row = Row("cut", b"not a picture")
    written.catalog(root, [row])
    written.captions(root, "one", {key_of(row.bytes): ("no no no no no", "looping", None)})
    write_report(root)
    assert "no no no no no" in page(root).words
    assert not page(root).of("img")


def test_drawn_scenes_show_their_truth(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    scenes = written.drawn(root, 80)
    written.captions(root, "telephone", {key: (world.caption(scene), "ok", -0.1) for key, scene in scenes.items()})
    write_report(root)
    found = page(root)
    assert len(found.of("article")) == report.IMAGES
    truth = root.read(REPORT).decode().partition('<section id="truth">')[2].partition("</section>")[0]
    assert Page(truth).words.count("100.0%") == 7


def test_real_photos_with_their_five_captions(tmp_path: Path, shared_data: Path) -> None:
    lines = (shared_data / "coco_cc_photos/manifest.jsonl").read_text().splitlines()
    photos = [one for line in lines if (one := json.loads(line))["class"] == "free"][:8]
    rows = [Row(one["file"], (shared_data / "coco_cc_photos" / one["file"]).read_bytes(), size=(one["width"], one["height"])) for one in photos]
    root = Root(str(tmp_path))
    written.catalog(root, rows)
    for number in range(5):
        said = {key_of(row.bytes): (one["captions_en"][number], "ok", None) for row, one in zip(rows, photos, strict=True)}
        written.captions(root, f"person-{number}", said, model=None)
    result = write_report(root)
    found = page(root)
    assert len(found.of("article")) == len(found.of("img")) == 8
    assert all(caption in found.words for one in photos for caption in one["captions_en"])
    assert len(result.agreements) == 10
    assert all(0.1 < one.unigram_f1 < 0.7 for one in result.agreements)  # five people see one picture


def test_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    try:
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="captions-page")
        root = Root("s3://captions-page/run")
        fill(root)
        write_report(root)
        assert JAPANESE.encode() in root.read(REPORT)
        write_report(root)
        assert len(page(root).of("article")) == len(ROWS)
    finally:
        server.stop()
