"""The catalog stage on a local cluster: what is taken, what is rejected and why, and what a second run does."""

import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccray import config, recipes, schema
from ccray.config import Recipe, ScoreFilter
from ccray.data.pictures.pixels import read_images
from ccray.data.pictures.scoring import ScoreImages
from ccray.interfaces import Failed, Refused
from ccray.stages import catalog
from ccray.storage import Manifest, Root, sealed_shards, shard_name
from tests import folders
from tests.conftest import Corridor

pytestmark = pytest.mark.ray


def tiny(*words: str) -> Recipe:
    return config.build(recipes.named("tiny"), words)


def reasons(root: Root) -> dict[str, str]:
    """`source_ref` -> reason of every reject."""
    tables = [root.read_table(f"rejects/{shard_name(shard)}") for shard in sealed_shards(root, "rejects")]
    return {row["source_ref"]: row["reason"] for table in tables for row in table.to_pylist()}


def accepted(root: Root) -> set[str]:
    tables = [root.read_table(f"catalog/{shard_name(shard)}") for shard in sealed_shards(root, "catalog")]
    return {ref for table in tables for ref in table.column("source_ref").to_pylist()}


def test_the_corridors_catalog(corridor: Corridor) -> None:
    root = corridor.root
    manifest = catalog.run(corridor.recipe, root)
    assert (manifest.status, manifest.rows, manifest.counts) == ("finished", 96, {})
    assert manifest.facts["listed"] == manifest.facts["accepted"] == 96
    assert manifest.facts["licenses"] == {"CC0-1.0": 96}
    assert 0 < manifest.facts["splits"]["validation"] < 40
    for name, rows in manifest.shards.items():
        table = root.read_table(f"catalog/{name}")
        assert table.schema == schema.CATALOG
        assert table.num_rows == rows
        keys = table.column("key").to_numpy()
        assert (np.diff(keys) > 0).all()
        images = read_images(root, int(name[6:-8]), keys)
        for key, sha256 in zip(keys, table.column("sha256").to_pylist(), strict=True):
            assert hashlib.sha256(images[int(key)]).hexdigest() == sha256
            assert schema.hex_key(int(key)) == sha256[:16]
    assert not root.exists("catalog/.staging")


def test_images_have_small_row_groups_and_all_columns(corridor: Corridor) -> None:
    table = corridor.root.read_table("images/shard-00000.parquet")
    assert table.schema == schema.IMAGES
    assert table.num_rows == 32


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (24, 24), (40 * number, 10, 200)).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "twin.png")
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:60])
    Image.new("RGB", (300, 8)).save(folder / "flat.png")
    return folder


def test_rejects_twins_and_a_second_run(ray_cluster: None, pictures: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    recipe = tiny(f"catalog.source=folder:{pictures}", "catalog.license=CC-BY-4.0", "catalog.rows_per_shard=4")
    manifest = catalog.run(recipe, root)
    found = reasons(root)
    twin = next(iter({"0.png", "twin.png"} & found.keys()))
    assert found == {twin: "duplicate_exact", "cut.png": found["cut.png"], "flat.png": "too_small"}
    assert found["cut.png"] in ("truncated", "undecodable")
    assert accepted(root) == {f"{number}.png" for number in range(1, 6)} | ({"0.png", "twin.png"} - {twin})
    assert manifest.facts["accepted"] + manifest.facts["rejected"] == manifest.facts["listed"] == 9
    details = [row["detail"] for shard in sealed_shards(root, "rejects") for row in root.read_table(f"rejects/{shard_name(shard)}").to_pylist()]
    kept = ({"0.png", "twin.png"} - {twin}).pop()
    assert f"the same bytes as {kept}" in details

    before = {name: root.read(name) for name in root.files("")}
    assert catalog.run(recipe, root).finished_at == manifest.finished_at
    assert {name: root.read(name) for name in root.files("")} == before

    with pytest.raises(Refused, match=r"catalog\.license is 'CC0-1\.0'.*CC-BY-4\.0"):
        catalog.run(tiny(f"catalog.source=folder:{pictures}", "catalog.license=CC0-1.0", "catalog.rows_per_shard=4"), root)
    root.delete("catalog")
    with pytest.raises(Refused, match="listing"):
        catalog.run(tiny("catalog.shapes.count=4"), root)
    assert catalog.run(recipe, root).rows == 6
    assert reasons(root) == found


def test_nothing_left_is_a_failure_that_says_why(ray_cluster: None, pictures: Path, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    with pytest.raises(Failed, match=r"all 9 were rejected \(license_missing 9\)"):
        catalog.run(tiny(f"catalog.source=folder:{pictures}"), root)
    assert set(reasons(root).values()) == {"license_missing"}
    assert len(reasons(root)) == 9
    assert "license_missing" in root.read("catalog/report.html").decode()


def test_refusals_write_nothing(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    for source in ("folder:/nowhere/at/all", "table:/nowhere.csv", "ftp://x"):
        with pytest.raises(Refused):
            catalog.run(tiny(f"catalog.source={source}"), root)
    assert not Path(root.uri).exists()


def test_a_root_inside_the_folder_of_pictures_is_refused(pictures: Path) -> None:
    before = sorted(pictures.rglob("*"))
    with pytest.raises(Refused, match="lies in the source's folder"):
        catalog.run(tiny(f"catalog.source=folder:{pictures}", "catalog.license=CC0-1.0"), Root(str(pictures / "runs" / "tiny")))
    assert sorted(pictures.rglob("*")) == before


def test_a_filter_scores_what_was_fetched(ray_cluster: None, pictures: Path, tmp_path: Path) -> None:
    model = folders.classifier_folder(tmp_path / "classifier", ("clean", "marked"))
    names = sorted(f"{number}.png" for number in range(6))
    images = np.array([(pictures / name).read_bytes() for name in names], object)
    empty = np.full(len(names), None, object)
    judge = ScoreImages((ScoreFilter(name="watermark", model=model, label="marked", threshold=0.5),), "cpu", 1)
    scores = [found[0]["score"] for found in judge({"image": images, "reason": empty, "detail": empty})["scores"]]
    ordered = sorted(scores)
    threshold = (ordered[2] + ordered[3]) / 2  # three on either side
    assert ordered[2] < threshold < ordered[3]
    (pictures / "twin.png").unlink()
    rule = json.dumps([{"name": "watermark", "model": model, "label": "marked", "threshold": threshold}])
    root = Root(str(tmp_path / "root"))
    words = (f"catalog.source=folder:{pictures}", "catalog.license=CC0-1.0", f"catalog.filters={rule}", "catalog.near_duplicate_bits=null")
    manifest = catalog.run(tiny(*words), root)
    marked = {name for name, score in zip(names, scores, strict=True) if score > threshold}
    assert {name for name, reason in reasons(root).items() if reason == "filter_watermark"} == marked
    assert accepted(root) == set(names) - marked
    assert manifest.counts["filter_watermark"] == 3


def test_a_table_of_urls(ray_cluster: None, pictures: Path, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(pictures)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    rows = [{"id": name, "url": f"{here}/{name}", "license": "CC0-1.0"} for name in ("1.png", "2.png", "gone.png")]
    table = tmp_path / "urls.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        root = Root(str(tmp_path / "allowed"))
        catalog.run(tiny(f"catalog.source=table:{table}", "catalog.download.allowed_hosts=[127.0.0.1]"), root)
        assert accepted(root) == {"1.png", "2.png"}
        assert reasons(root) == {"gone.png": "download_not_found"}
        closed = Root(str(tmp_path / "closed"))
        with pytest.raises(Failed, match="blocked_address 3"):
            catalog.run(tiny(f"catalog.source=table:{table}"), closed)
    finally:
        server.shutdown()
        server.server_close()


def run_on(source: str, root: Root, *words: str) -> Manifest:
    return catalog.run(tiny(f"catalog.source={source}", *words), root)


def test_real_photos_under_the_commercial_policy(ray_cluster: None, shared_data: Path, tmp_path: Path) -> None:
    manifest = run_on(f"table:{shared_data / 'coco_cc_photos' / 'manifest.jsonl'}", Root(str(tmp_path)))
    assert manifest.facts["accepted"] == 51
    assert manifest.counts == {"license_noncommercial": 50, "license_noderivatives": 58}


def test_pillows_broken_pictures_as_a_folder(ray_cluster: None, shared_data: Path, tmp_path: Path) -> None:
    folder, root = shared_data / "broken_images", Root(str(tmp_path))
    manifest = run_on(f"folder:{folder}", root, "catalog.license=CC0-1.0")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    rejected = reasons(root)
    assert accepted(root) | rejected.keys() == names
    assert manifest.facts["accepted"] + manifest.facts["rejected"] == len(names)
    assert all(rejected.values())
    records = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    unopened = {record["file"] for record in records if record["pillow"].get("load") != "ok"}
    assert unopened <= rejected.keys()
