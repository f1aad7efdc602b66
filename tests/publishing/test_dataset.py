"""published/dataset/: the right rows and no others, papers whose figures are those of the rows, the same bytes every time."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from mlcroissant import Dataset as Croissant
from PIL import Image

from ccray import storage, takedowns
from ccray.config import Recipe
from ccray.interfaces import Failed, Refused
from ccray.publishing import table
from ccray.publishing.credit import Credit
from ccray.publishing.summary import top_domains
from ccray.publishing.table import SPLITS
from ccray.schema import hex_key
from ccray.stages import publish
from ccray.storage import Root
from tests.publishing import roots

COUNT = 150
REASONS = {"duplicate_exact": 12, "opted_out": 3, "license_unknown": 40}
WORDS = ("publish.page_rows=40", "publish.rows_per_file=30", "publish.provider=ACME", "publish.contact=down@acme.example")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Recipe]:
    recipe = roots.recipe_of(*WORDS)
    root = roots.finished(tmp_path_factory.mktemp("made"), recipe, COUNT, shards=5, reasons=REASONS)
    publish.run(recipe, root)
    return root, recipe


def files(root: Root) -> dict[str, bytes]:
    return {name.removeprefix("published/dataset/"): root.read(name) for name in root.files("published/dataset")}


def rows(root: Root) -> dict[str, dict[str, Any]]:
    """Key -> row of every data file."""
    names = [name for name in root.files("published/dataset/data") if name.endswith(".parquet")]
    every = [row for name in names for row in pq.read_table(root.path(name)).to_pylist()]
    assert len({row["key"] for row in every}) == len(every)
    return {row["key"]: row for row in every}


def test_every_image_of_the_catalog_is_there_once(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    found = rows(root)
    expected = {hex_key(one["key"]): one for one in map(roots.row, range(COUNT))}
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        row = found[key]
        for name in ("sha256", "license", "license_url", "title", "creator", "creator_url", "source", "source_url", "image_url", "split", "width"):
            assert row[name] == one[name], name
        assert row["phash"] == row["duplicate_group"] == key
        assert row["license_seen_at"] == one["license_seen_at"]
        assert "private" not in row
        number = int(one["source_ref"])
        failed = number % 50 == 49
        assert (row["caption_shapes_blip2"], row["caption_shapes_blip2_status"]) == (
            (None, "undecodable") if failed else (f"a picture, number {number}", "ok")
        )
        shipped = number % 5 == 0 and one["source"] == "yfcc100m"
        assert row["caption_source_blip2_caption_language"] == ("fr" if shipped else None)


def test_files_hold_whole_shards_of_one_split_and_know_their_number(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    names = root.names("published/dataset/data")
    for split in SPLITS:
        own = [name for name in names if name.startswith(f"{split}-")]
        assert own == [f"{split}-{number:05d}-of-{len(own):05d}.parquet" for number in range(len(own))]
        for name in own:
            found = pq.read_table(root.path(f"published/dataset/data/{name}"))
            assert set(found.column("split").to_pylist()) == {split}
    assert len([name for name in names if name.startswith("train-")]) == 5, "about 26 train rows a shard, 30 a file"
    for name in ("evaluation-00000-of-00001.parquet", "train-00000-of-00005.parquet"):
        found = pq.read_table(root.path(f"published/dataset/data/{name}"))
        assert all(found.column("derivatives").to_pylist()) == (not name.startswith("evaluation"))


def test_attribution_names_everyone(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    found = {row["key"]: row for row in pq.read_table(root.path("published/dataset/attribution.parquet")).to_pylist()}
    assert len(found) == COUNT
    for one in map(roots.row, range(COUNT)):
        row = found[hex_key(one["key"])]
        assert row["credit"] == Credit.of(one).text()
        assert [copy["creator"] for copy in row["copies"] or []] == [copy["creator"] for copy in one["copies"] or []]


def test_the_same_inputs_make_the_same_bytes(made: tuple[Root, Recipe], tmp_path: Path) -> None:
    root, recipe = made
    again = roots.finished(tmp_path, recipe, COUNT, shards=5, reasons=REASONS)
    again.write("catalog/manifest.json", root.read("catalog/manifest.json"))  # which tells the time
    publish.run(recipe, again)
    assert files(again) == files(root)


def test_a_finished_folder_is_left_alone(made: tuple[Root, Recipe]) -> None:
    root, recipe = made
    before = Path(root.path("published/dataset/croissant.json")).stat().st_mtime_ns
    manifest = publish.run(recipe, root)
    assert manifest.rows == COUNT
    assert Path(root.path("published/dataset/croissant.json")).stat().st_mtime_ns == before
    assert root.names("published") == ["dataset", "manifest.json"]


def test_what_was_taken_down_is_absent_and_counted(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 40)
    publish.run(recipe, root)
    gone = [hex_key(roots.row(number)["key"]) for number in (3, 11)]
    assert set(gone) <= rows(root).keys()
    root.write("takedowns/1.jsonl", "".join(f'{{"key": "{key}"}}\n' for key in gone).encode())
    publish.run(recipe, root)
    assert len(rows(root)) == 38
    text = {name: data for name, data in files(root).items() if not name.endswith(".parquet")}
    assert not [name for name, data in text.items() for key in gone if key.encode() in data]
    assert not set(gone) & set(pq.read_table(root.path("published/dataset/attribution.parquet")).column("key").to_pylist())
    assert "taken down since and are not in this folder: 2." in text["README.md"].decode()
    manifest = storage.read_manifest(root, "published")
    assert manifest is not None
    assert (manifest.rows, manifest.facts["dataset"]["images"]) == (38, 38)


def test_copies_that_were_taken_down_are_not_named(tmp_path: Path) -> None:
    """Images 0, 10, 20 and 30 have one copy each: that of 10 goes by its row, that of 30 by its page."""
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 40)
    publish.run(recipe, root)
    named = [
        takedowns.Record("creator", "Somebody else", None, "", (), (10,)),
        takedowns.Record("url", "http://elsewhere.example.org/30/", None, "", (), (30,)),
    ]
    takedowns.record(root, named)
    publish.run(recipe, root)
    credits = pq.read_table(root.path("published/dataset/attribution.parquet")).to_pylist()
    assert {one["source_ref"] for row in credits for one in row["copies"] or []} == {"copy 0", "copy 20"}
    assert len(credits) == 40
    text = b"".join(data for name, data in files(root).items() if not name.endswith(".parquet"))
    assert b"copy of 20" in text
    assert b"copy of 10" not in text
    assert b"copy of 30" not in text
    assert b"Copies named in `attribution.parquet`: 2, of 2 of the images." in text


def test_nothing_left_is_a_failure_that_leaves_the_old_folder(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 6)
    publish.run(recipe, root)
    before = files(root)
    keys = [hex_key(roots.row(number)["key"]) for number in range(6)]
    root.write("takedowns/1.jsonl", "".join(f'{{"key": "{key}"}}\n' for key in keys).encode())
    with pytest.raises(Failed, match="all were taken down"):
        publish.run(recipe, root)
    assert files(root) == before


def test_images_travel_where_their_licence_lets_them(tmp_path: Path) -> None:
    recipe = roots.recipe_of("publish.images=true")
    root = roots.finished(tmp_path, recipe, 90, images=True)
    root.write("takedowns/1.jsonl", f'{{"key": "{hex_key(roots.row(0)["key"])}"}}\n'.encode())
    publish.run(recipe, root)
    found = rows(root)
    assert len(found) == 89
    for number in range(1, 90):
        one = roots.row(number)
        image = found[hex_key(one["key"])]["image"]
        if not one["derivatives"]:
            assert image is None
            continue
        assert image["bytes"] == roots.picture(number)
        assert image["path"] == f"{hex_key(one['key'])}.png"
        assert Image.open(io.BytesIO(image["bytes"])).size == (one["width"], one["height"])
    schema = pq.read_schema(root.path("published/dataset/data/train-00000-of-00001.parquet"))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["width"] == {"dtype": "int32", "_type": "Value"}


def test_bytes_that_are_missing_stop_publication(tmp_path: Path) -> None:
    recipe = roots.recipe_of("publish.images=true")
    root = roots.finished(tmp_path, recipe, 12, images=True)
    path = root.path("images/shard-00001.parquet")
    pq.write_table(pq.read_table(path).slice(2), path)
    with pytest.raises(Failed, match="2 images of the catalog have no row"):
        publish.run(recipe, root)
    assert not root.exists("published/dataset")


def test_a_missing_caption_shard_stops_publication(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 12)
    root.delete(f"{storage.stage_of(recipe, 'caption').directory}/shard-00002.parquet")
    with pytest.raises(Failed, match=r"shard-00002\.parquet is missing"):
        publish.run(recipe, root)


def test_two_caption_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 12)
    root.write("captions/source-blip2.caption/shard-00000.parquet", root.read(f"captions/{roots.IMPORTED}/shard-00000.parquet"))
    with pytest.raises(Failed, match=r"source-blip2\.caption"):
        publish.run(recipe, root)


def test_a_dataset_needs_its_catalog_and_captions_alone(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    with pytest.raises(Refused, match="catalog"):
        publish.run(recipe, Root(str(tmp_path / "empty")))
    root = roots.finished(tmp_path / "full", recipe, 12)
    both = roots.recipe_of("publish.parts=[model,dataset]")
    with pytest.raises(Refused, match="ccray encode"):
        publish.run(both, root)
    assert not root.exists("published")
    publish.run(recipe, root)
    assert "../model" not in root.read("published/dataset/README.md").decode()


def test_card(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    text = root.read("published/dataset/README.md").decode()
    front = DatasetCard(text).data
    assert (front.license, front.license_name) == ("other", "per-image")
    assert front.language == ["en", "fr"]
    assert front.size_categories == ["n<1K"]
    assert front.annotations_creators == ["machine-generated"]
    counts = {split: sum(roots.row(number)["split"] == split for number in range(COUNT)) for split in SPLITS}
    assert [one["path"] for one in front.to_dict()["configs"][0]["data_files"]] == [f"data/{split}-*.parquet" for split in SPLITS]
    assert f"train {counts['train']}, validation {counts['validation']}, evaluation {counts['evaluation']}" in text
    licenses = [roots.row(number)["license"] for number in range(COUNT)]
    for name in set(licenses):
        assert f"[{name}](https://creativecommons.org/" in text
        assert f") | {licenses.count(name)} | " in text.split(f"[{name}]")[1].splitlines()[0]
    assert "| `license_unknown` | licence statement not recognised | 40 |" in text
    assert "images kept out by them: 3." in text
    assert f"Images listed: {COUNT + sum(REASONS.values())}; accepted: {COUNT}." in text
    assert "Copies named in `attribution.parquet`: 15, of 15 of the images." in text
    assert "down@acme.example" in text
    assert "is **synthetic**: written by the model `shapes:captioner`" in text
    assert str(root.uri) not in text


def test_one_licence_stands_in_the_front_matter(tmp_path: Path) -> None:
    recipe = roots.recipe_of()
    root = roots.finished(tmp_path, recipe, 6)
    keep_license(root, "CC-BY-SA-4.0", "https://creativecommons.org/licenses/by-sa/4.0/")
    publish.run(recipe, root)
    assert DatasetCard(root.read("published/dataset/README.md").decode()).data.license == "cc-by-sa-4.0"
    other = roots.finished(tmp_path / "other", recipe, 6)
    keep_license(other, "CC-BY-SA-2.0", "https://creativecommons.org/licenses/by-sa/2.0/")
    publish.run(recipe, other)
    front = DatasetCard(other.read("published/dataset/README.md").decode()).data
    assert (front.license, front.license_name) == ("other", "cc-by-sa-2.0")


def keep_license(root: Root, license: str, url: str) -> None:
    """Put every image of a root under one licence."""
    for name in root.files("catalog"):
        if name.endswith(".parquet"):
            found = root.read_table(name)
            for column, value in (("license", license), ("license_url", url)):
                found = found.set_column(found.schema.get_field_index(column), column, pa.array([value] * found.num_rows))
            root.write_table(name, found)


def test_croissant_is_valid_and_its_records_are_the_rows(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    place = root.path("published/dataset/croissant.json")
    dataset = Croissant(place)
    assert not dataset.metadata.issues.errors
    assert not dataset.metadata.issues.warnings
    records = list(dataset.records("images"))
    expected = rows(root)
    assert len(records) == COUNT
    for record in records:
        row = expected[record["images/key"].decode()]
        assert record["images/sha256"].decode() == row["sha256"]
        assert record["images/width"] == row["width"]
        assert record["images/split"].decode() == row["split"]
        title = record["images/title"]
        assert (title.decode() if isinstance(title, bytes) else None) == row["title"]
    values = json.loads(root.read("published/dataset/croissant.json"))
    assert values["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert values["isLiveDataset"] is False
    assert values["datePublished"] == storage.read_manifest(root, "catalog").finished_at[:10]  # type: ignore[union-attr]
    assert {one["prov:label"] for one in values["prov:wasDerivedFrom"]} == set(roots.SOURCES)
    assert {one["@id"] for one in values["prov:wasGeneratedBy"]} == {"cataloguing", "captioning-shapes-blip2"}
    assert "synthetic captions by shapes:captioner" in values["rai:machineAnnotationTools"][0]
    assert "down@acme.example" in values["rai:dataReleaseMaintenancePlan"]
    listed = {one["contentUrl"]: one["sha256"] for one in values["distribution"] if "sha256" in one}
    parquet = {name: hashlib.sha256(data).hexdigest() for name, data in files(root).items() if name.endswith(".parquet")}
    assert listed == parquet


def test_croissant_streams_pictures(tmp_path: Path) -> None:
    recipe = roots.recipe_of("publish.images=true")
    root = roots.finished(tmp_path, recipe, 12, images=True)
    publish.run(recipe, root)
    dataset = Croissant(root.path("published/dataset/croissant.json"))
    assert not dataset.metadata.issues.errors
    sizes = {record["images/key"].decode(): record["images/image"].size for record in dataset.records("images")}
    assert sizes == {hex_key(one["key"]): (one["width"], one["height"]) for one in map(roots.row, range(12))}


def test_training_content_summary(made: tuple[Root, Recipe]) -> None:
    root, _ = made
    values = json.loads(root.read("published/dataset/training-content-summary.json"))
    general, sources, processing = (values[name] for name in ("1 General information", "2 List of data sources", "3 Data processing aspects"))
    assert general["1.1 Provider"] == {
        "name": "ACME",
        "contact": "down@acme.example",
        "authorised representative": "to be filled in by the provider",
    }
    assert general["1.3 Modalities and size"]["image: training data size"] == "less than 1 million images"
    assert sources["2.1 Publicly available datasets"]["datasets (all are listed, large or not)"] == {
        "openverse": "50 images",
        "table": "50 images",
        "yfcc100m": "50 images",
    }
    crawled = sources["2.3 Data crawled and scraped from online sources"]
    assert crawled["images downloaded"] == 75
    assert crawled["domains"]["static1.example.net"] == 25
    assert processing["3.1 Respect of reservations of rights from text and data mining"]["images left out for such a signal"] == 3
    text = root.read("published/dataset/training-content-summary.md").decode()
    assert "# 2 List of data sources" in text
    assert "| static1.example.net | 25 |" in text


def test_domains_are_the_top_tenth_and_no_fewer_than_a_thousand() -> None:
    few = Counter({f"{number}.example": 1 for number in range(1200)})
    assert len(top_domains(few)) == 1000
    many = Counter({f"{number:05d}.example": number + 1 for number in range(20_005)})
    listed = top_domains(many)
    assert len(listed) == 2001
    assert listed[0] == ("20004.example", 20_005)


def test_plan_fills_files_with_whole_shards(made: tuple[Root, Recipe]) -> None:
    root, recipe = made
    layout = table.layout(recipe, root, takedowns.load(root))
    every = table.plan(root, layout, 10**9)
    assert {split: len(groups) for split, groups in every.files.items()} == {"train": 1, "validation": 1, "evaluation": 1}
    single = table.plan(root, layout, 1)
    assert single.files["train"] == tuple((shard,) for shard in range(5))
