"""Licences in files' own metadata."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from tests.data.sources.listings import as_lines, by_ref

DEED = "https://creativecommons.org/licenses/by-sa/3.0/"
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
RIGHTS = 'xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"'
CC = 'xmlns:cc="http://creativecommons.org/ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


def packet(inside: str, attributes: str = "") -> bytes:
    description = f'<rdf:Description rdf:about="" {RIGHTS} {CC} {DC} {attributes}>{inside}</rdf:Description>'
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>{description}</rdf:RDF></x:xmpmeta>'
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{text}<?xpacket end="w"?>'.encode()


STATEMENTS = {
    "web statement": packet(f"<xmpRights:WebStatement>{DEED}</xmpRights:WebStatement>"),
    "attribute": packet("", f'xmpRights:WebStatement="{DEED}"'),
    "cc:license": packet(f'<cc:license rdf:resource="{DEED}"/>'),
    "dc:rights": packet(f'<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">Under {DEED} by Ann</rdf:li></rdf:Alt></dc:rights>'),
}


def save(path: Path, xmp: bytes) -> None:
    image = Image.new("RGB", (20, 20), (200, 10, 10))
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip="zipped" in path.name)
        image.save(path, pnginfo=info)
    else:
        image.save(path, xmp=xmp)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "zipped.png", "a.webp"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_file_states_its_licence(name: str, statement: str, tmp_path: Path) -> None:
    save(tmp_path / name, STATEMENTS[statement])
    row = by_ref(f"folder:{tmp_path}", license="CC0-1.0")[name]
    assert DEED in row["license_text"]
    assert row["license_basis"] == "file metadata"
    assert DEED in row["license_evidence"]
    assert row["license_evidence"].partition("=")[0] in ("xmpRights:WebStatement", "cc:license", "dc:rights")
    assert row["license_seen_at"].timestamp() == pytest.approx((tmp_path / name).stat().st_mtime, abs=1e-3)


def test_the_strictest_of_several_counts(tmp_path: Path) -> None:
    both = "<xmpRights:WebStatement>https://creativecommons.org/licenses/by/4.0/</xmpRights:WebStatement>"
    save(tmp_path / "a.jpg", packet(f'{both}<cc:license rdf:resource="https://creativecommons.org/licenses/by-nc/4.0/"/>'))
    save(tmp_path / "b.jpg", packet(f"{both}<dc:rights>All rights reserved</dc:rights>"))
    rows = by_ref(f"folder:{tmp_path}")
    assert rows["a.jpg"]["license_text"] == "https://creativecommons.org/licenses/by-nc/4.0/"
    assert rows["b.jpg"]["license_text"] == "All rights reserved"


def test_a_sidecar_goes_before_the_file_and_the_file_before_a_declaration(tmp_path: Path) -> None:
    for name in ("said.jpg", "own.jpg"):
        save(tmp_path / name, STATEMENTS["cc:license"])
    Image.new("RGB", (20, 20)).save(tmp_path / "bare.jpg")
    as_lines(tmp_path / "metadata.jsonl", [{"file": "said.jpg", "license": "CC-BY-4.0"}, {"file": "own.jpg", "license": None, "creator": "Ann"}])
    rows = by_ref(f"folder:{tmp_path}", license="CC0-1.0")
    assert {name: (row["license_text"], row["license_basis"]) for name, row in rows.items()} == {
        "said.jpg": ("CC-BY-4.0", "source record"),
        "own.jpg": (DEED, "file metadata"),
        "bare.jpg": ("CC0-1.0", "declared"),
    }
    assert rows["own.jpg"]["creator"] == "Ann"
    assert rows["bare.jpg"]["license_evidence"] == "catalog.license=CC0-1.0"
    assert rows["bare.jpg"]["license_seen_at"] is None


def test_no_licence_in_it_is_no_statement(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", packet("<xmpRights:WebStatement>https://example.org/terms</xmpRights:WebStatement>"))
    assert by_ref(f"folder:{tmp_path}")["a.jpg"]["license_text"] is None


def test_broken_files_are_survived(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    save(good, STATEMENTS["cc:license"])
    data = good.read_bytes()
    for cut in (1, 3, 5, 20, 100):
        (tmp_path / f"cut-{cut}.jpg").write_bytes(data[:cut])
    (tmp_path / "zero.jpg").write_bytes(b"\xff\xd8\xff\xe1\x00\x00" + bytes(100))
    (tmp_path / "not-xml.jpg").write_bytes(data.replace(b"<x:xmpmeta", b"<x:xmpmetb"))
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]>' + STATEMENTS["cc:license"]
    (tmp_path / "bomb.webp").write_bytes(b"RIFF\x00\x00\x00\x00WEBPXMP " + struct.pack("<I", len(bomb)) + bomb)
    chunk = b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zlib.compress(bytes(50_000_000))
    (tmp_path / "deflated.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk)) + b"iTXt" + chunk + bytes(4))
    (tmp_path / "endless.png").write_bytes(b"\x89PNG\r\n\x1a\n" + (b"\x00\x00\x00\x00abcd" + bytes(4)) * 1000)
    rows = by_ref(f"folder:{tmp_path}")
    assert {name for name, row in rows.items() if row["license_text"]} == {"good.jpg"}


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    import os

    outside, folder = tmp_path / "outside.jpg", tmp_path / "folder"
    folder.mkdir()
    save(outside, STATEMENTS["cc:license"])
    (folder / "link.jpg").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    rows = by_ref(f"folder:{folder}")
    assert {name: row["license_text"] for name, row in rows.items()} == {"link.jpg": None, "pipe.jpg": None}


def test_real_broken_images(shared_data: Path) -> None:
    folder = shared_data / "broken_images"
    rows = by_ref(f"folder:{folder}")
    assert len(rows) == sum(1 for path in folder.rglob("*") if path.is_file() and path.parent.name != "metadata")
