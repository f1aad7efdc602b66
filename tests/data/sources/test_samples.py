"""Every adapter on real records of its kind: each row once, known fields right, licences as the sample has them."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ccray.config import CatalogConfig
from ccray.data.listing import open_source
from ccray.interfaces import Refused
from tests.data.sources.listings import as_json, by_ref, listed, spdx

BY = "https://creativecommons.org/licenses/by/2.0/"


def has(row: dict[str, Any], **wanted: Any) -> None:
    assert {name: row[name] for name in wanted} == wanted


def test_flickr_landscapes(shared_data: Path) -> None:
    folder = shared_data / "catalog_flickr_landscapes"
    records = [record for path in folder.glob("*.json") for record in json.loads(path.read_text()).values()]
    rows = listed(f"flickr:{folder}")
    assert len(rows) == len(records) == 2108
    assert Counter(row["image_url"] for row in rows) == Counter(record["url"] for record in records)
    names = {"1": "BY-NC-SA-2.0", "2": "BY-NC-2.0", "3": "BY-NC-ND-2.0", "4": "BY-2.0", "5": "BY-SA-2.0", "6": "BY-ND-2.0", "9": "CC0", "10": "PDM"}
    found = spdx(rows)
    for number, name in names.items():
        wanted = sum(record["license"] == number for record in records)
        assert sum(count for id, count in found.items() if id and id.startswith(("CC-" + name, name))) == wanted
    row = next(row for row in rows if row["source_ref"] == "11624560624")
    has(
        row,
        license_text="https://creativecommons.org/licenses/by-nc-sa/2.0/",
        license_evidence="license=1",
        license_basis="source record",
        creator="Another Eye",
        creator_url="https://www.flickr.com/people/46418486@N04/",
        title="City lights",
        source_url="https://www.flickr.com/photos/46418486@N04/11624560624",
        image_url="https://farm4.staticflickr.com/3779/11624560624_600b918603.jpg",
        private=None,
    )
    commons = next(row for row in rows if row["license_evidence"] == "license=7")
    assert commons["license_text"] == "No known copyright restrictions"


@pytest.mark.parametrize("name", ["flickr_example_photo_list.json", "flickr_example_pretty.json"])
def test_flickr_search(shared_data: Path, name: str) -> None:
    path = shared_data / "catalog_openverse/flickr" / name
    rows = by_ref(f"flickr:{path}", keep=("user_id",))
    assert len(rows) == 30
    assert spdx(rows.values()) == {"CC-BY-NC-SA-2.0": 30}
    assert all(row["creator"] and row["title"] and json.loads(row["private"])["user_id"]["owner"] in row["creator_url"] for row in rows.values())
    has(rows["49515017212"], creator="Claude Lafontaine", title="2012-WFM-155", alt_text="2012 Wickham Lafontaine")
    assert rows["49515017212"]["image_url"].endswith("_b.jpg")


def test_open_images(shared_data: Path) -> None:
    path = shared_data / "catalog_openimages_xm3600/image_attributions.csv"
    with path.open(newline="") as file:
        truth = {row["ImageID"]: row for row in csv.DictReader(file)}
    for scheme in ("openimages", "table"):
        rows = by_ref(f"{scheme}:{path}")
        assert rows.keys() == truth.keys()
        assert spdx(rows.values()) == {"CC-BY-2.0": 1800}
        for id, row in rows.items():
            has(row, image_url=truth[id]["OriginalURL"], source_url=truth[id]["OriginalLandingURL"], creator_url=truth[id]["AuthorProfileURL"])
            assert (row["title_original"] or row["title"]) == (truth[id]["Title"].strip() or None)
            if row["title_original"] is not None:
                assert "&" in row["title_original"]
        has(rows["69c585b2a529af93"], title="IMG_4894", creator="coloredby", license_text=BY, license_evidence=f"License={BY}")
        mended = next(row for row in rows.values() if row["creator"] == "Seán A. O'Hara")
        assert mended["creator_original"] == "Seán A. O&#x27;Hara"


def test_coco_captions(shared_data: Path) -> None:
    path = shared_data / "coco_captions_val2017/captions_val2017_less_held.json"
    truth = json.loads(path.read_text())
    rows = by_ref(f"coco:{path}")
    assert len(rows) == 4920
    assert sum(len(row["captions"]) for row in rows.values()) == len(truth["annotations"])
    found = spdx(rows.values())
    expected = {"CC-BY-NC-SA-2.0": 1412, "CC-BY-NC-ND-2.0": 1390, "CC-BY-2.0": 839, "CC-BY-NC-2.0": 621, "CC-BY-SA-2.0": 410, "CC-BY-ND-2.0": 243}
    assert {id: count for id, count in found.items() if id and id.startswith("CC-")} == expected
    row = rows["397133"]
    has(
        row,
        license_text="http://creativecommons.org/licenses/by/2.0/",
        image_url="http://images.cocodataset.org/val2017/000000397133.jpg",
        source_url="https://www.flickr.com/photo.gne?id=6255196340",
    )
    assert row["license_seen_at"].isoformat() == "2013-11-14T17:02:52+00:00"
    assert [one["column"] for one in row["captions"][:3]] == ["caption", "caption-2", "caption-3"]
    spoken = Counter(one["text"] for row in rows.values() for one in row["captions"])
    assert spoken == Counter(one["caption"].replace("\n", " ").strip() for one in truth["annotations"])
    commons = [row for row in rows.values() if row["license_text"] == "No known copyright restrictions"]
    assert len(commons) == 5


def test_coco_with_its_files_beside_it(shared_data: Path, tmp_path: Path) -> None:
    document = json.loads((shared_data / "coco_captions_val2017/captions_val2017_less_held.json").read_text())
    document["images"] = [*document["images"][:3], 7, {"id": "x"}]
    (tmp_path / document["images"][0]["file_name"]).touch()
    rows = by_ref(f"coco:{as_json(tmp_path / 'captions.json', document)}")
    assert {row["locator"] for row in rows.values()} >= {f"file:{image['file_name']}" for image in document["images"][:3]}
    assert sorted(row["locator"].split(":")[1] for row in rows.values() if row["locator"].startswith("none")) == ["malformed_row", "no_image"]


def test_coco_photos_as_a_table(shared_data: Path) -> None:
    path = shared_data / "coco_cc_photos/manifest.jsonl"
    truth = {str(row["coco_id"]): row for row in map(json.loads, path.read_text().splitlines())}
    rows = by_ref(f"table:{path}")
    assert rows.keys() == truth.keys()
    assert all(rows[id]["locator"] == f"file:{row['file']}" and rows[id]["license_text"] == row["license_url"] for id, row in truth.items())


def test_img2dataset_urls(shared_data: Path) -> None:
    folder = shared_data / "catalog_img2dataset"
    rows = listed(f"img2dataset:{folder}", license="CC0-1.0")
    assert len(rows) == 1000
    assert {row["license_basis"] for row in rows} == {"declared"}
    assert any(row["alt_text"] == "Classical Masterpieces: Xerses & More, Vol. 8 by Various Artists" for row in rows)


def test_web_pages_are_no_images(shared_data: Path) -> None:
    path = shared_data / "catalog_commoncrawl_cc/part-00000.snappy.parquet"
    with pytest.raises(Refused, match="no column that we know as an image"):
        open_source(CatalogConfig(source=f"table:{path}"))


def test_smithsonian(shared_data: Path) -> None:
    [row] = listed(f"smithsonian:{shared_data}/catalog_openverse/smithsonian/actual_record_data.json", keep=("geolocation",))
    has(
        row,
        source_ref="http://n2t.net/ark:/65665/m36e850c7c-c23c-442a-a13d-6a9c4fc3da31",
        image_url="https://collections.nmnh.si.edu/media/?irn=15814382",
        license_text="CC0",
        license_evidence="usage.access=CC0",
        creator="Seymour H. Levy",
        title="Passerculus sandwichensis nevadensis",
        source_url="http://n2t.net/ark:/65665/34857ca78-9195-4156-849b-1ec47f7cd1ce",
    )
    assert row["license_seen_at"].isoformat() == "2022-05-27T17:31:34+00:00"
    assert "Picacho Reservation" in row["private"]


def test_wikimedia(shared_data: Path) -> None:
    folder = shared_data / "catalog_openverse/wikimedia"
    page = by_ref(f"wikimedia:{folder}/image_data_example.json")["81754323"]
    has(
        page,
        license_text="https://creativecommons.org/licenses/by-sa/4.0",
        creator="PtrQs",
        creator_original='<a href="//commons.wikimedia.org/wiki/User:PtrQs" title="User:PtrQs">PtrQs</a>',
        creator_url="https://commons.wikimedia.org/wiki/User:PtrQs",
        title="20120925 PlozevetBretagne LoneTree DSC07971 PtrQs",
        title_original=None,
        source_url="https://commons.wikimedia.org/wiki/File:20120925_PlozevetBretagne_LoneTree_DSC07971_PtrQs.jpg",
        image_url="https://upload.wikimedia.org/wikipedia/commons/2/25/20120925_PlozevetBretagne_LoneTree_DSC07971_PtrQs.jpg",
        private=None,
    )
    assert "LicenseShortName=CC BY-SA 4.0" in page["license_evidence"]
    pages = by_ref(f"wikimedia:{folder}/response_large_1.json")
    assert {id: row["creator"] for id, row in pages.items()} == {"456": "Alice Bobby", "789": "Charlie Doe"}
    assert spdx(pages.values()) == {"CC-BY-SA-4.0": 1, "CC-BY-SA-2.0": 1}
    [linked] = listed(f"wikimedia:{folder}/image_info_artist_partial_link.json")
    has(linked, creator="Jeff & Brian from Eastbourne", creator_url="https://www.flickr.com/people/16707908@N07")
    everything = listed(f"wikimedia:{folder}")
    assert len(everything) == len(list(folder.glob("*.json"))) + 1  # one answer has two pages
    assert sum(row["locator"].startswith("none:no_image:") for row in everything) == sum(
        '"url":' not in path.read_text() for path in folder.glob("*.json")
    )


OPENVERSE = {
    "image_table_sample.tsv": (20, {"CC0-1.0": 19, "CC-BY-SA-2.0": 1}),
    "example_output/brooklynmuseum_1559050316.tsv": (176, {"CC-BY-3.0": 176}),
    "example_output/flickr_truncated.tsv": (15, {"CC-BY-NC-ND-2.0": 13, "CC-BY-2.0": 1, "CC-PDM-1.0": 1}),
    "example_output/metmuseum_1551822422.tsv": (21, {"CC0-1.0": 21}),
    "example_output/rawpixel_1562166170.tsv": (100, {"CC0-1.0": 100}),
    "example_output/wmc_1562444224.tsv": (4, {"CC-BY-SA-2.5": 4}),
}


@pytest.mark.parametrize("name", OPENVERSE)
def test_openverse_catalogue(shared_data: Path, name: str) -> None:
    path = shared_data / "catalog_openverse" / name
    count, licenses = OPENVERSE[name]
    rows = listed(f"openverse:{path}")
    assert (len(rows), spdx(rows)) == (count, licenses)
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    addresses = {f"https://{line.removeprefix('https://')}" for line in (fields[7 if len(fields) == 20 else 2] for fields in lines)}
    assert {row["image_url"] for row in rows} == addresses
    assert not any(r"\N" in str(value) for row in rows for value in row.values())


def test_openverse_catalogue_as_a_folder(shared_data: Path) -> None:
    assert len(listed(f"openverse:{shared_data}/catalog_openverse/example_output")) == sum(count for count, _ in list(OPENVERSE.values())[1:])


def test_openverse_fields(shared_data: Path) -> None:
    rows = by_ref(f"openverse:{shared_data}/catalog_openverse/image_table_sample.tsv")
    row = rows["000000ea-9a81-47dd-a83c-a2093ea4741b"]
    has(
        row,
        creator="Susan Gabriella Stokes",
        creator_url=None,
        title="Eriogonum latifolium Sm.",
        source_url="https://n2t.net/ark:/65665/3f07eb37b-d022-4d44-90de-179a4aaf1c82",
        license_basis="source record",
    )
    assert row["license_seen_at"].isoformat() == "2020-10-15T08:10:42.421899+00:00"
    flickr = listed(f"openverse:{shared_data}/catalog_openverse/example_output/flickr_truncated.tsv")
    nystrom = next(row for row in flickr if row["source_ref"] == "47030104294")
    has(
        nystrom,
        creator="Andy E. Nystrom",
        creator_url="https://www.flickr.com/photos/24917258@N05",
        license_evidence="license=by-nc-nd; license_version=2.0",
    )
