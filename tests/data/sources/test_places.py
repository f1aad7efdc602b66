"""Sources that lie on S3 and on the Hugging Face hub, each behind a server of its protocol."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray.config import CatalogConfig
from ccray.data.listing import open_source
from ccray.data.sources.places import find_files
from ccray.interfaces import Refused
from ccray.storage import Root
from tests.data.sources.listings import by_ref, listed
from tests.data.sources.test_adapters import common_row
from tests.data.sources.test_xmp import STATEMENTS, save
from tests.test_storage import s3_uri  # noqa: F401

ROWS = [{"id": f"p{number}", "url": f"https://example.org/{number}", "license": "CC0-1.0", "title": "t"} for number in range(4)]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.fixture
def bucket(s3_uri: str) -> Root:  # noqa: F811
    return Root(f"{s3_uri}/sources")


def test_tables_on_s3(bucket: Root) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[:2])
    bucket.write("x.parquet", parquet(ROWS))
    name, _, key = bucket.path("parts/a.jsonl.gz").partition("/")
    boto3.client("s3").put_object(Bucket=name, Key=key, Body=gzip.compress(lines.encode()))
    bucket.write("parts/deep/b.csv", b"id,url,license\np2,https://example.org/2,CC0-1.0\n")
    assert by_ref(f"table:{bucket.uri}/x.parquet").keys() == {"p0", "p1", "p2", "p3"}
    assert by_ref(f"table:{bucket.uri}/parts").keys() == {"p0", "p1", "p2"}
    assert by_ref(f"table:{bucket.uri}/parts/*.gz").keys() == {"p0", "p1"}
    for nowhere in ("y.parquet", "nothing/*.csv"):
        with pytest.raises(Refused, match="is not there"):
            open_source(CatalogConfig(source=f"table:{bucket.uri}/{nowhere}"))
    with pytest.raises(Refused, match=r"cannot be read|is not there"):
        open_source(CatalogConfig(source="table:s3://no-such-bucket-anywhere/x.parquet"))


def test_catalogs_on_s3(bucket: Root) -> None:
    place = "cc/0/least_dim_range=512-768/aspect_ratio_bucket=1-1/part-00000.parquet"
    bucket.write(place, parquet([common_row(1), common_row(2)]))
    rows = by_ref(f"commoncatalog:{bucket.uri}/cc")
    assert rows["2"]["locator"] == f"row:{place.removeprefix('cc/')}#1"


def test_a_folder_on_s3_states_its_licences(bucket: Root, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.webp"):
        save(tmp_path / name, STATEMENTS["cc:license"])
        bucket.write(f"pictures/{name}", (tmp_path / name).read_bytes())
    bucket.write("pictures/metadata.csv", b"file,license\nb.png,CC0-1.0\n")
    rows = by_ref(f"folder:{bucket.uri}/pictures")
    assert {name: row["license_basis"] for name, row in rows.items()} == {
        "a.jpg": "file metadata",
        "b.png": "source record",
        "c.webp": "file metadata",
    }
    assert all(row["license_seen_at"] is not None for row in rows.values())


def test_img2dataset_on_s3(bucket: Root, tmp_path: Path) -> None:
    import tarfile

    row = {"url": "https://example.org/1.jpg", "key": "00000", "status": "success", "license": "CC0-1.0"}
    bucket.write("i2d/00000.parquet", parquet([row]))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("00000.jpg")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"12345"))
    bucket.write("i2d/00000.tar", out.getvalue())
    [row] = listed(f"img2dataset:{bucket.uri}/i2d")
    assert row["locator"] == "bytes:00000.tar#512+5"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as reading a data set takes: revision, tree, paths-info and the files."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/datasets/own/set/tree/main"):
            below = path.removeprefix("/api/datasets/own/set/tree/main").lstrip("/")
            self._json([self._entry(name) for name in self.files if name.startswith(below)])
        elif path.startswith("/api/datasets/own/set"):
            self._json({"id": "own/set", "sha": "0" * 40, "siblings": [], "private": False, "tags": ["license:cc-by-4.0"]})
        elif path.startswith("/datasets/own/set/resolve/"):
            self._file(path.split("/", 6)[6])
        else:
            self._answer(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        folders = [{"type": "directory", "path": name, "oid": "0" * 40} for name in asked if any(file.startswith(f"{name}/") for file in self.files)]
        self._json([*(self._entry(name) for name in asked if name in self.files), *folders])

    def _entry(self, name: str) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": "0" * 40}

    def _file(self, name: str) -> None:
        data = self.files[name]
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1 if end else None]
        self._answer(
            206, part, {"ETag": '"0"', "X-Repo-Commit": "0" * 40, "Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}
        )

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files = {f"{shard}/least_dim_range=512-768/aspect_ratio_bucket=1-1/part-0.parquet": parquet([common_row(shard)]) for shard in range(2)}
    Hub.files["README.md"] = b"license: cc-by-4.0"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import json, sys
from ccray.data.listing import open_source, shards
from ccray.config import CatalogConfig
config = CatalogConfig(source=sys.argv[1])
source = open_source(config)
rows = [row for table in shards(source, config) for row in table.to_pylist()]
size = len(source.base.read(rows[0]["locator"].removeprefix("row:").rpartition("#")[0]))
print(json.dumps([{row["source_ref"]: [row["locator"], row["license_text"]] for row in rows}, size]))
"""


def test_commoncatalog_on_the_hub(hub: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PROGRAM, "commoncatalog:hf://datasets/own/set"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    rows, size = json.loads(done.stdout)
    assert {ref: said[1] for ref, said in rows.items()} == dict.fromkeys(("0", "1"), "http://creativecommons.org/licenses/by/2.0/")
    assert rows["1"][0] == "row:1/least_dim_range=512-768/aspect_ratio_bucket=1-1/part-0.parquet#0"
    assert size in map(len, Hub.files.values())


def test_brackets_in_a_name_that_is_there_are_no_pattern(tmp_path: Path) -> None:
    for name in ("photos [1].csv", "photos 1.csv", "set [a]/t.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("file,license\np.jpg,CC0\n")
    assert find_files(f"{tmp_path}/photos [1].csv", "it", is_csv).names == ("photos [1].csv",)
    assert find_files(f"{tmp_path}/set [a]", "it", is_csv).names == ("t.csv",)
    assert find_files(f"{tmp_path}/photos [12].csv", "it", is_csv).names == ("photos 1.csv",)
    assert find_files(f"{tmp_path}/photos*.csv", "it", is_csv).names == ("photos 1.csv", "photos [1].csv")


def is_csv(name: str) -> bool:
    return name.endswith(".csv")
