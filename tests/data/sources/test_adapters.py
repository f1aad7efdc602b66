"""Adapters whose data are too large to lie about: rows written from the published schemas (YFCC100M, CommonCatalog, PD12M, Megalith, img2dataset, APIs)."""

import bz2
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ccray.data.sources.listed import located_bytes
from ccray.data.sources.places import HubRoot
from ccray.data.sources.yfcc100m import COLUMNS_23, COLUMNS_25
from tests.data.sources.listings import as_json, as_lines, by_ref, listed, spdx

BY_NC_SA = "http://creativecommons.org/licenses/by-nc-sa/2.0/"


def picture(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (colour, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def yfcc_row(number: int, **changes: str) -> dict[str, str]:
    return {
        "line": str(number),
        "photoid": str(4_000_000_000 + number),
        "hash": f"{number:032x}",
        "uid": "39019111%40N00",
        "unickname": "J%C3%BCrgen+M%C3%BCller",
        "datetaken": "2004-03-07 01:52:53.0",
        "dateuploaded": "1111111111",
        "capturedevice": "Canon+PowerShot+S40",
        "title": "%E6%9D%B1%E4%BA%AC+100%25",
        "description": "A+%3Cb%3Ebridge%3C%2Fb%3E",
        "usertags": "night,tokyo",
        "machinetags": "geo:lat=35.6",
        "longitude": "139.7",
        "latitude": "35.6",
        "accuracy": "14",
        "pageurl": f"http://www.flickr.com/photos/39019111@N00/{4_000_000_000 + number}/",
        "downloadurl": f"http://farm3.staticflickr.com/2/{number}.jpg",
        "licensename": "Attribution-NonCommercial-ShareAlike License",
        "licenseurl": BY_NC_SA,
        "serverid": "2",
        "farmid": "3",
        "secret": "abc",
        "secretoriginal": "def",
        "ext": "jpg",
        "marker": "0",
    } | changes


def yfcc_lines(rows: list[dict[str, str]], columns: tuple[str, ...]) -> bytes:
    return "".join("\t".join(row[name] for name in columns) + "\n" for row in rows).encode()


YFCC = [
    yfcc_row(0),
    yfcc_row(1, marker="1", ext="mov"),
    yfcc_row(2, licenseurl="", licensename=""),
    yfcc_row(3, downloadurl=""),
    yfcc_row(4, title="", unickname=""),
]


@pytest.mark.parametrize("columns", [COLUMNS_25, COLUMNS_23])
@pytest.mark.parametrize("suffix", ["", ".bz2", ".gz", ".tsv"])
def test_yfcc100m(columns: tuple[str, ...], suffix: str, tmp_path: Path) -> None:
    pack: Any = {".bz2": bz2.compress, ".gz": gzip.compress}.get(suffix, bytes)
    path = tmp_path / f"yfcc100m_dataset{suffix}"
    path.write_bytes(pack(yfcc_lines(YFCC, columns)[:-1] + b"\nonly\tthree\tfields\n"))
    rows = by_ref(f"yfcc100m:{path}")
    assert len(rows) == 6
    row = rows["4000000000"]
    assert (row["creator"], row["title"], row["alt_text"]) == ("Jürgen Müller", "東京 100%", "A bridge")
    assert row["creator_url"] == "https://www.flickr.com/people/39019111@N00/"
    assert row["source_url"] == "http://www.flickr.com/photos/39019111@N00/4000000000/"
    assert row["image_url"] == "http://farm3.staticflickr.com/2/0.jpg"
    assert (row["license_text"], row["private"]) == (BY_NC_SA, None)
    assert rows["4000000001"]["locator"] == "none:no_image:the row is a video's (marker 1)"
    assert rows["4000000002"]["license_text"] is None
    assert rows["4000000003"]["locator"].startswith("none:no_image:")
    assert (rows["4000000004"]["title"], rows["4000000004"]["creator"]) == (None, None)
    assert rows[f"{path.name}#5"]["locator"] == "none:malformed_row:line 6 has 3 fields, expected 25 or 23"


def test_yfcc100m_in_parts(tmp_path: Path) -> None:
    (tmp_path / "yfcc100m_dataset-0.bz2").write_bytes(
        bz2.compress(yfcc_lines(YFCC[:2], COLUMNS_23)) + bz2.compress(yfcc_lines(YFCC[2:3], COLUMNS_23))
    )
    (tmp_path / "yfcc100m_dataset-1.bz2").write_bytes(bz2.compress(yfcc_lines(YFCC[3:], COLUMNS_23)))
    (tmp_path / "yfcc100m_autotags.bz2").write_bytes(bz2.compress(b"1\tsky:0.9\n"))
    assert len(listed(f"yfcc100m:{tmp_path}")) == 5


def test_private_facts_stay_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "yfcc100m_dataset"
    path.write_bytes(yfcc_lines(YFCC[:1], COLUMNS_25))
    [bare] = listed(f"yfcc100m:{path}")
    told = json.dumps(bare, default=str)
    assert not any(secret in told for secret in ("139.7", "35.6", "PowerShot", "geo:lat"))
    [place] = listed(f"yfcc100m:{path}", keep=("geolocation",))
    kept = {"geolocation": {"longitude": "139.7", "latitude": "35.6", "accuracy": "14", "machinetags": "geo:lat=35.6"}}
    assert json.loads(place["private"]) == kept
    [all_of_it] = listed(f"yfcc100m:{path}", keep=("exif", "user_id", "geolocation"))
    assert json.loads(all_of_it["private"]) == kept | {"exif": {"capturedevice": "Canon+PowerShot+S40"}, "user_id": {"uid": "39019111%40N00"}}


def common_row(number: int, **changes: Any) -> dict[str, Any]:
    told = {name: value for name, value in yfcc_row(number).items() if name not in ("line", "hash", "marker")}
    return (
        told
        | {"jpg": picture(number), "blip2_caption": f"a red square {number}", "caption": "my square", "width": 20, "height": 20}
        | {"photoid": number, "longitude": 139.7, "latitude": 35.6, "accuracy": 14, "exif": '{"Make": "Canon"}', "status": "success"}
        | {"uid": "39019111@N00", "licenseurl": "http://creativecommons.org/licenses/by/2.0/", "licensename": "Attribution License"}
        | changes
    )


@pytest.mark.parametrize("nested", [False, True])
def test_commoncatalog(nested: bool, tmp_path: Path) -> None:
    names = ("0/least_dim_range=512-768/aspect_ratio_bucket=1-1", "1/least_dim_range=2048-4096/aspect_ratio_bucket=16-15")
    for shard, folder in enumerate(names):
        rows = [common_row(10 * shard + number, blip2_caption=None if number else "a red square") for number in range(3)]
        if nested:
            rows = [row | {"jpg": {"bytes": row["jpg"], "path": None}} for row in rows]
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / folder / "part-00000-tid-1-c000.parquet")
    (tmp_path / "README.md").write_text("license: cc-by-4.0")
    rows = by_ref(f"commoncatalog:{tmp_path}")
    assert spdx(rows.values()) == {"CC-BY-2.0": 6}
    row = rows["10"]
    assert row["locator"] == f"row:{names[1]}/part-00000-tid-1-c000.parquet#0"
    assert (row["image_url"], row["title"], row["creator"]) == (None, "東京 100%", "Jürgen Müller")
    assert row["captions"] == [
        {"column": "blip2_caption", "text": "a red square", "language": "en"},
        {"column": "caption", "text": "my square", "language": None},
    ]
    assert [one["column"] for one in rows["11"]["captions"]] == ["caption"]
    assert "139.7" not in json.dumps(row, default=str)
    kept = json.loads(by_ref(f"commoncatalog:{tmp_path}", keep=("exif",))["10"]["private"])
    assert kept == {"exif": {"exif": '{"Make": "Canon"}', "capturedevice": "Canon+PowerShot+S40"}}


def test_commoncatalog_text_that_is_not_encoded(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([common_row(1, title="C++ and 100%", unickname="Ann B"), common_row(2, title="C++")]), tmp_path / "a.parquet")
    rows = by_ref(f"commoncatalog:{tmp_path}/a.parquet")
    assert (rows["1"]["title"], rows["1"]["creator"], rows["2"]["title"]) == ("C++ and 100%", "Ann B", "C++")


def test_the_hub_is_files_like_any_other() -> None:
    root = HubRoot("hf://datasets/common-canvas/commoncatalog-cc-by/")
    assert root.path("0/a.parquet") == "datasets/common-canvas/commoncatalog-cc-by/0/a.parquet"
    assert root.filesystem.type_name.startswith("py::fsspec")


def test_pd12m(tmp_path: Path) -> None:
    pdm = "https://creativecommons.org/publicdomain/mark/1.0/"
    current = {"id": "a1", "url": "https://pd12m.s3.us-west-2.amazonaws.com/images/a1.jpeg", "caption": "A map.", "width": 10, "height": 10}
    current |= {"mime_type": "image/jpeg", "hash": "00", "license": pdm, "source": "https://www.loc.gov/item/1"}
    older = {"s3_key": "images/b2.jpeg", "md5_hash": "11", "license_type": "CC0", "caption": "A bird.", "source": "Library"}
    pq.write_table(pa.Table.from_pylist([current]), tmp_path / "current.parquet")
    pq.write_table(pa.Table.from_pylist([older]), tmp_path / "older.parquet")
    rows = by_ref(f"pd12m:{tmp_path}")
    assert spdx(rows.values()) == {"CC-PDM-1.0": 1, "CC0-1.0": 1}
    assert rows["a1"]["source_url"] == "https://www.loc.gov/item/1"
    assert rows["a1"]["captions"] == [{"column": "caption", "text": "A map.", "language": "en"}]
    assert rows["images/b2.jpeg"]["image_url"] == "https://pd12m.s3.us-west-2.amazonaws.com/images/b2.jpeg"
    assert rows["images/b2.jpeg"]["license_evidence"] == "license_type=CC0"


def test_megalith(tmp_path: Path) -> None:
    page = "https://www.flickr.com/photos/nasa/12345678901/"
    rows: list[dict[str, Any]] = [{"url_highres": "https://live.staticflickr.com/1/12345678901_aa_b.jpg", "url_source": page}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    [row] = listed(f"megalith:{tmp_path}")
    assert (row["source_ref"], row["source_url"], row["license_text"]) == ("12345678901", page, None)
    pq.write_table(pa.Table.from_pylist([rows[0] | {"license": 9}]), tmp_path / "a.parquet")
    [row] = listed(f"megalith:{tmp_path}")
    assert (row["license_text"], row["license_evidence"]) == ("https://creativecommons.org/publicdomain/zero/1.0/", "license=9")


def shard_rows() -> list[dict[str, Any]]:
    said = {"caption": "a cat", "license": "CC BY 4.0", "exif": '{"Image Make": "Canon"}', "error_message": None}
    rows = [said | {"url": f"https://example.org/{number}.jpg", "key": f"0000{number}", "status": "success"} for number in range(3)]
    return [*rows, said | {"url": "https://example.org/gone.jpg", "key": "00003", "status": "failed_to_download", "error_message": "HTTP Error 404"}]


def test_img2dataset_tar(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(shard_rows()), tmp_path / "00000.parquet")
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(2):
            for name, data in ((f"0000{number}.jpg", picture(number)), (f"0000{number}.json", b"{}")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows = by_ref(f"img2dataset:{tmp_path}")
    for number in range(2):
        path, offset, length = located_bytes(rows[f"0000{number}"]["locator"])
        assert (tmp_path / path).read_bytes()[offset : offset + length] == picture(number)
    assert rows["00002"]["locator"] == "none:file_missing:no picture 00002 in 00000.tar"
    assert rows["00003"]["locator"] == "none:download_failed:img2dataset: failed_to_download: HTTP Error 404"
    assert (rows["00000"]["alt_text"], rows["00000"]["license_text"], rows["00000"]["private"]) == ("a cat", "CC BY 4.0", None)


def test_img2dataset_files_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "files/00000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(shard_rows()), tmp_path / "files/00000.parquet")
    (tmp_path / "files/00000/00001.png").touch()
    rows = by_ref(f"img2dataset:{tmp_path}/files")
    assert (rows["00000"]["locator"], rows["00001"]["locator"]) == ("file:00000/00000.jpg", "file:00000/00001.png")
    (tmp_path / "inside").mkdir()
    pq.write_table(pa.Table.from_pylist([row | {"jpg": b"x"} for row in shard_rows()]), tmp_path / "inside/00000.parquet")
    assert by_ref(f"img2dataset:{tmp_path}/inside")["00002"]["locator"] == "row:00000.parquet#2"


def test_flickr_info(tmp_path: Path) -> None:
    photo = {
        "id": "53123456789",
        "secret": "aa",
        "server": "65535",
        "farm": 66,
        "license": "12",
        "originalsecret": "bb",
        "originalformat": "png",
        "owner": {"nsid": "1@N00", "username": "ann", "realname": "Ann Å.", "location": "Oslo", "path_alias": "ann"},
        "title": {"_content": "Fjord &amp; sky"},
        "description": {"_content": 'See <a href="http://x">x</a>'},
        "urls": {"url": [{"type": "photopage", "_content": "https://www.flickr.com/photos/ann/53123456789/"}]},
        "location": {"latitude": "59.9", "longitude": "10.7", "accuracy": "16"},
        "media": "photo",
    }
    film = photo | {"id": "2", "media": "video"}
    path = as_lines(tmp_path / "info.jsonl", [{"photo": photo, "stat": "ok"}, {"photo": film, "stat": "ok"}, {"stat": "fail", "code": 1}])
    rows = by_ref(f"flickr:{path}", keep=("geolocation",))
    row = rows["53123456789"]
    assert row["license_text"] == "https://creativecommons.org/licenses/by-sa/4.0/"
    assert row["image_url"] == "https://live.staticflickr.com/65535/53123456789_bb_o.png"
    assert (row["creator"], row["title"], row["title_original"], row["alt_text"]) == ("Ann Å.", "Fjord & sky", "Fjord &amp; sky", "See x")
    assert row["source_url"] == "https://www.flickr.com/photos/ann/53123456789/"
    assert json.loads(row["private"])["geolocation"]["latitude"] == "59.9"
    assert rows["2"]["locator"].startswith("none:no_image:")
    assert rows["info.jsonl#2"]["locator"] == "none:malformed_row:line 3 holds no record"


def test_flickr_largest_size_first(tmp_path: Path) -> None:
    sizes = {f"url_{size}": f"https://live.staticflickr.com/1/3_{size}.jpg" for size in ("sq", "t", "m", "l", "k", "o")}
    photos = [{"id": "1", "owner": "1@N00", "license": 4} | sizes, {"id": "2", "owner": "1@N00", "license": 99} | dict(list(sizes.items())[:4])]
    rows = by_ref(f"flickr:{as_json(tmp_path / 'page.json', {'photos': {'page': 1, 'photo': [*photos, None]}})}")
    assert rows["1"]["image_url"].endswith("_o.jpg")
    assert rows["2"]["image_url"].endswith("_l.jpg")
    assert rows["2"]["license_text"] == "99"
    assert rows["1"]["creator"] is None
    assert rows["page.json#2"]["locator"].startswith("none:malformed_row:")


def wikimedia_page(id: int, **facts: str) -> dict[str, Any]:
    extmetadata = {name: {"value": value, "source": "commons-desc-page"} for name, value in facts.items()}
    return {
        "pageid": id,
        "title": f"File:{id}.jpg",
        "imageinfo": [{"url": f"https://upload.wikimedia.org/{id}.jpg", "user": "Uploader", "extmetadata": extmetadata}],
    }


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"LicenseShortName": "CC BY-NC 4.0", "LicenseUrl": "https://creativecommons.org/licenses/by/4.0"}, "CC BY-NC 4.0"),
        (
            {"LicenseShortName": "CC BY 4.0", "LicenseUrl": "https://creativecommons.org/licenses/by-sa/4.0"},
            "https://creativecommons.org/licenses/by-sa/4.0",
        ),
        ({"LicenseShortName": "Fair use", "LicenseUrl": "https://creativecommons.org/licenses/by/4.0"}, "Fair use"),
        ({"LicenseShortName": "GFDL", "LicenseUrl": "http://www.gnu.org/copyleft/fdl.html"}, "http://www.gnu.org/copyleft/fdl.html"),
        ({"LicenseShortName": "CC0", "UsageTerms": "All rights reserved"}, "All rights reserved"),
        ({"LicenseShortName": ""}, None),
        ({}, None),
    ],
)
def test_wikimedia_takes_the_stricter_licence(facts: dict[str, str], wanted: str | None, tmp_path: Path) -> None:
    [row] = listed(f"wikimedia:{as_lines(tmp_path / 'pages.jsonl', [wikimedia_page(1, **facts)])}")
    assert row["license_text"] == wanted


def test_wikimedia_creators(tmp_path: Path) -> None:
    own = wikimedia_page(1, Credit='<span class="int-own-work">Own work</span>', GPSLatitude="1.5")
    nobody = wikimedia_page(2, Credit="a book")
    film = wikimedia_page(3)
    film["imageinfo"][0]["mediatype"] = "VIDEO"
    rows = by_ref(f"wikimedia:{as_json(tmp_path / 'a.json', {'query': {'pages': [own, nobody, film, {'title': 'File:No.jpg', 'missing': True}]}})}")
    assert (rows["1"]["creator"], rows["2"]["creator"], rows["1"]["title"]) == ("Uploader", None, "1.jpg")
    assert rows["3"]["locator"].startswith("none:no_image:")
    assert rows["File:No.jpg"]["locator"].startswith("none:no_image:")


def smithsonian_record(id: str, media: list[Any]) -> dict[str, Any]:
    facts = {"record_ID": id, "metadata_usage": {"access": "CC0"}, "online_media": {"media": media}, "guid": f"http://n2t.net/{id}"}
    names = [{"label": "Donor", "content": "Rich"}, {"label": "Artist", "content": "Ann &amp; Co"}]
    return {"id": id, "title": "Vase", "content": {"descriptiveNonRepeating": facts, "freetext": {"name": names}}, "timestamp": 1653672694}


def test_smithsonian_media_speak_for_themselves(tmp_path: Path) -> None:
    large = [
        {"label": "High-resolution TIFF", "url": "https://ids.si.edu/a.tif"},
        {"label": "High-resolution JPEG", "url": "https://ids.si.edu/a.jpg"},
    ]
    media = [
        {"idsId": "a", "type": "Images", "content": "https://ids.si.edu/a", "usage": {"access": "CC0"}, "resources": large},
        {"idsId": "b", "type": "Images", "content": "https://ids.si.edu/b", "usage": {"access": "Usage conditions apply"}},
        {"idsId": "c", "type": "Images", "content": "https://ids.si.edu/c"},
        {"idsId": "d", "type": "3d_voyager", "content": "https://3d.si.edu/d", "usage": {"access": "CC0"}},
        "odd",
    ]
    path = as_lines(tmp_path / "edan/00.txt", [smithsonian_record("r1", media), smithsonian_record("r2", [])])
    rows = by_ref(f"smithsonian:{path}")
    assert by_ref(f"smithsonian:{tmp_path}/edan").keys() == rows.keys()
    assert (rows["a"]["image_url"], rows["a"]["license_text"], rows["a"]["creator"]) == ("https://ids.si.edu/a.jpg", "CC0", "Ann & Co")
    assert (rows["b"]["license_text"], rows["c"]["license_text"]) == ("Usage conditions apply", None)
    assert rows["d"]["locator"] == "none:no_image:the medium is of type 3d_voyager"
    assert rows["r2"]["locator"] == "none:no_image:the record lists no media"
    assert len(rows) == 6
