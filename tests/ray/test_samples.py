"""Real records of catalogs of CC images, from listing to index: every row ends as accepted or as rejected with its reason.

The records are real; their pictures come from a server here, because their hosts cannot be asked again on every test.
"""

import io
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray import config, licenses, recipes
from ccray.data.index.indexing import LISTING
from ccray.stages import catalog
from ccray.storage import Root, sealed_shards, shard_name

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HOSTS = re.compile(r"https?:(\\?/\\?/)([a-z0-9.-]*(?:staticflickr\.com|upload\.wikimedia\.org|images\.cocodataset\.org|ids\.si\.edu))")


class Pictures(BaseHTTPRequestHandler):
    """Any address has its own picture; one in fifty has none."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = zlib.crc32(self.path.encode())
        there = not self.path.endswith((".txt", ".json", "/")) and number % 50
        body = picture(number) if there else b""
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def picture(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Sample:
    """Where records lie in the shared data, what reads them, and how many there are."""

    source: str
    path: str
    rows: int | None  # None: as many as are listed


SAMPLES = [
    Sample("coco", "coco_captions_val2017/captions_val2017_less_held.json", 4920),
    Sample("flickr", "catalog_flickr_landscapes", 2108),
    Sample("openimages", "catalog_openimages_xm3600/image_attributions.csv", 1800),
    Sample("openverse", "catalog_openverse/image_table_sample.tsv", None),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.source)
def test_every_row_is_accepted_or_rejected(ray_cluster: None, sample: Sample, pictures: str, shared_data: Path, tmp_path: Path) -> None:
    place = copied(shared_data / sample.path, tmp_path / "records", pictures)
    words = [f"catalog.source={sample.source}:{place}", "catalog.download.allowed_hosts=[127.0.0.1]", "catalog.rows_per_shard=1024"]
    root = Root(str(tmp_path / "root"))
    manifest = catalog.run(config.build(recipes.named("tiny"), words), root)
    facts = manifest.facts
    listed = rows(root, LISTING)
    print(sample.source, facts["listed"], "listed", facts["accepted"], "accepted", manifest.counts)
    assert facts["accepted"] + facts["rejected"] == facts["listed"] == len(listed)
    assert sample.rows in (None, facts["listed"])
    rejected = Counter(row["reason"] for row in rows(root, "rejects"))
    assert rejected == manifest.counts
    for reason in ("license_missing", "license_unknown", "license_noncommercial", "license_noderivatives"):
        assert rejected[reason] == sum(expected(row) == reason for row in listed), reason
    others = set(rejected) - {"license_missing", "license_unknown", "license_noncommercial", "license_noderivatives", "no_image"}
    assert others <= {"download_not_found", "duplicate_exact", "duplicate_near", "blocked_address", "download_failed", "malformed_row"}
    assert facts["accepted"] > 0


def copied(place: Path, target: Path, host: str) -> Path:
    """The records with the pictures' hosts replaced by ours; the page addresses stay."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    target.mkdir()
    for path in files:
        if path.name != "SOURCE.txt":
            text = path.read_text(encoding="utf-8")
            (target / path.name).write_text(HOSTS.sub(lambda found: f"http:{found.group(1)}{host}/{found.group(2)}", text), encoding="utf-8")
    return target if place.is_dir() else target / place.name


def rows(root: Root, directory: str) -> list[dict[str, object]]:
    return [row for shard in sealed_shards(root, directory) for row in root.read_table(f"{directory}/{shard_name(shard)}").to_pylist()]


def expected(row: dict[str, object]) -> str | None:
    """What the licence alone makes of a listed row that names a picture."""
    if str(row["locator"]).startswith("none:"):
        return None
    if row["license_text"] is None:
        return "license_missing"
    return licenses.refusal(licenses.parse(str(row["license_text"])), "commercial")
