"""The caption stage on a local cluster: one row a key, the same words as the bare captioner, failures in their own rows."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ccray import __main__, config, schema
from ccray.data.captioning.worker import CaptionImages, described
from ccray.data.pictures.pixels import LoadPixels, read_images, whole_view
from ccray.interfaces import Caption, Refused, Subject
from ccray.models.captioners.blip2 import Blip2Captioner
from ccray.shapes import world
from ccray.stages import caption
from ccray.storage import Root
from tests.conftest import Corridor

pytestmark = pytest.mark.ray
CAPTIONS = "captions/shapes-blip2"


def test_captions_are_those_of_the_bare_captioner(corridor: Corridor) -> None:
    root = corridor.root
    manifest = caption.run(corridor.recipe, root)["shapes-blip2"]
    assert (manifest.status, manifest.rows, manifest.counts) == ("finished", 96, {"ok": 96})
    table = root.read_table(f"{CAPTIONS}/shard-00001.parquet")
    assert table.schema == schema.CAPTIONS
    assert table.column("key").equals(root.read_table("catalog/shard-00001.parquet").column("key"))
    rows = table.to_pylist()[:5]
    images = read_images(root, 1, np.array([row["key"] for row in rows]))
    pictures = [np.array(Image.open(io.BytesIO(images[row["key"]])).convert("RGB")) for row in rows]
    bare = Blip2Captioner(corridor.recipe.caption["shapes-blip2"]).caption([Subject(picture) for picture in pictures])
    assert [row["caption"] for row in rows] == [one.text for one in bare]
    assert np.allclose([row["mean_logprob"] for row in rows], [one.mean_logprob for one in bare], atol=1e-4)
    assert {(row["language"], row["prompt"], row["status"]) for row in rows} == {("en", "", "ok")}


def test_a_row_that_fails_fails_alone(corridor: Corridor) -> None:
    """Bytes that are gone, an image that was taken down: each says so, the others are described."""
    root = corridor.root
    keys = root.read_table("catalog/shard-00000.parquet", columns=["key"]).column("key").to_numpy()[:3]
    batch = {"key": np.append(keys, 12345), "shard": np.zeros(4, np.int32)}
    pixels = LoadPixels(root, whole_view, frozenset([int(keys[1])]))(batch)
    recipe = config.build(corridor.recipe, ["caption.batch_size=4"])
    answer = CaptionImages(recipe.caption["shapes-blip2"], threads=1)(pixels)
    assert answer["status"].tolist() == ["ok", "taken_down", "ok", "bytes_missing"]
    assert [text is None for text in answer["caption"]] == [False, True, False, True]


def test_a_picture_that_breaks_the_batch_costs_only_itself(corridor: Corridor) -> None:
    captioner = Blip2Captioner(config.build(corridor.recipe, ["caption.batch_size=4"]).caption["shapes-blip2"])
    good = Subject(np.zeros((32, 32, 3), np.uint8))
    first, broken, last = described(captioner, [good, Subject(np.zeros((32, 32, 7), np.uint8)), good])
    assert isinstance(first, Caption)
    assert first == last == captioner.caption([good])[0]
    assert isinstance(broken, str)
    assert broken.startswith("RuntimeError: ")


def test_refusals(corridor: Corridor, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"caption reads .*catalog, which is not finished"):
        caption.run(corridor.recipe, Root(str(tmp_path / "empty")))
    root = tmp_path / "root"
    shutil.copytree(Path(corridor.root.uri) / "catalog", root / "catalog")
    with pytest.raises(Refused, match=r"caption\.shapes-blip2\.model is '/no/such'"):
        caption.run(config.build(corridor.recipe, ["caption.model=/no/such"]), Root(str(root)))
    assert not (root / "captions").exists()
    with pytest.raises(Refused, match=r"caption\.shapes-blip2\.prompt is 'a photo of'.*made with ''"):
        caption.run(config.build(corridor.recipe, ["caption.prompt=a photo of"]), corridor.root)


def test_takedowns_are_not_captioned(corridor: Corridor, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    for name in ("catalog", "images"):
        shutil.copytree(Path(corridor.root.uri) / name, Path(root.uri) / name)
    key = root.read_table("catalog/shard-00002.parquet", columns=["key"]).column("key")[3].as_py()
    root.write("takedowns/a.jsonl", (json.dumps({"key": schema.hex_key(key)}) + "\n").encode())
    manifest = caption.run(corridor.recipe, root)["shapes-blip2"]
    assert manifest.counts == {"ok": 95, "taken_down": 1}
    rows = {row["key"]: row for row in root.read_table(f"{CAPTIONS}/shard-00002.parquet").to_pylist()}
    assert (rows[key]["status"], rows[key]["caption"]) == ("taken_down", None)
    others = {row["key"]: row for row in corridor.root.read_table(f"{CAPTIONS}/shard-00002.parquet").to_pylist() if row["key"] != key}
    assert {other: row for other, row in rows.items() if other != key} == others


def test_a_translator_reads_the_other_table(corridor: Corridor, tmp_path: Path) -> None:
    """Every Japanese caption is the true one of its scene, byte for byte; the captions it was made from are left as they are."""
    root = Root(str(tmp_path / "root"))
    for name in ("catalog", "images", "listing", "captions"):
        shutil.copytree(Path(corridor.root.uri) / name, Path(root.uri) / name)
    before = (Path(root.uri) / CAPTIONS / "shard-00000.parquet").read_bytes()
    words = ["caption.ja.family=translate", "caption.ja.model=shapes:translator", "caption.ja.input=shapes-blip2", "caption.ja.language=ja"]
    recipe = config.build(corridor.recipe, words)
    made = caption.run(recipe, root)
    assert made["ja"].counts == {"ok": 96}
    assert (Path(root.uri) / CAPTIONS / "shard-00000.parquet").read_bytes() == before
    catalog = pa.concat_tables([root.read_table(f"catalog/shard-{shard:05d}.parquet", ["key", "source_ref"]) for shard in range(3)])
    scenes = {row["key"]: world.train_scene(*map(int, row["source_ref"].split("/"))) for row in catalog.to_pylist()}
    english = {row["key"]: row for shard in range(3) for row in root.read_table(f"{CAPTIONS}/shard-{shard:05d}.parquet").to_pylist()}
    japanese = {row["key"]: row for shard in range(3) for row in root.read_table(f"captions/ja/shard-{shard:05d}.parquet").to_pylist()}
    assert japanese.keys() == scenes.keys()
    right = [key for key in scenes if english[key]["caption"] == world.caption(scenes[key])]
    assert len(right) >= 94
    assert [japanese[key]["caption"].encode() for key in right] == [world.caption(scenes[key], "ja").encode() for key in right]
    assert {row["language"] for row in japanese.values()} == {"ja"}
    page = root.read("captions/report.html").decode()
    assert world.caption(scenes[right[0]], "ja") in page
    assert json.loads(root.read("captions/statistics.json"))
    assert caption.run(recipe, root)["ja"].finished_at == made["ja"].finished_at
    root.delete("captions/report.html")  # as a kill between the tables and the page leaves it
    __main__._run_stage("caption", recipe, root)
    assert root.read("captions/report.html").decode() == page
