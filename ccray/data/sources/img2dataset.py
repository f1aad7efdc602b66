"""img2dataset's output as a source: `img2dataset:FOLDER`, Parquet shards beside the .tar files or folders of pictures that it wrote, or with the pictures in them.

Rows that it could not download keep its own reason. A shard without a `status` column is a list of URLs yet to be downloaded.
"""

import tarfile
from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.listed import bytes_locator, declared_license, file_locator, nothing
from ccray.data.sources.places import find_files
from ccray.data.sources.records import RecordSource, Said, some, text_of, url_locator
from ccray.data.sources.rows import Row, kind_of, open_table
from ccray.interfaces import Refused
from ccray.schema import Reject
from ccray.storage import Root

FORMATS = ("jpg", "jpeg", "png", "webp")  # of `encode_format`, and the name of the column with the bytes
Members = dict[str, tuple[int, int]]  # name in a tar -> offset and length of its bytes
LICENSES = ("license_url", "license", "licence", "LICENSE", "cc_license")


class Shards:
    """Where the picture of each row of a shard lies; one shard's tar is looked through at a time."""

    def __init__(self, base: Root, image_column: str | None) -> None:
        self._base = base
        self._image_column = image_column
        self._tar: tuple[str, Members | None] = ("", None)

    def locator(self, row: Row, file: str, number: int) -> str:
        """Where a row's picture is: in the Parquet row, in the tar or folder of its shard, or still on the web."""
        status, key = text_of(row.get("status")), text_of(row.get("key"))
        if status is None:
            return url_locator(some(row.get("url"), row.get("URL")))
        if status != "success" or key is None:
            return nothing(Reject.DOWNLOAD_FAILED, f"img2dataset: {status}: {text_of(row.get('error_message'))}")
        if self._image_column is not None:
            return f"row:{file}#{number}"
        shard = file.removesuffix(".parquet")
        members = self._members(f"{shard}.tar")
        if members is None:
            return self._file(f"{shard}/{key}")
        found = next((members[name] for kind in FORMATS if (name := f"{key}.{kind}") in members), None)
        return bytes_locator(f"{shard}.tar", *found) if found else nothing(Reject.FILE_MISSING, f"no picture {key} in {shard}.tar")

    def _file(self, stem: str) -> str:
        names = [f"{stem}.{kind}" for kind in FORMATS]
        return file_locator(next((name for name in names if self._base.exists(name)), names[0]))

    def _members(self, name: str) -> Members | None:
        if self._tar[0] != name:
            self._tar = (name, tar_members(self._base, name) if self._base.exists(name) else None)
        return self._tar[1]


def tar_members(base: Root, name: str) -> Members:
    """The regular files of a plain tar; only its headers are read.

    Raises:
        Refused: when it cannot be read.
    """
    try:
        with base.filesystem.open_input_file(base.path(name)) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            return {member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()}
    except (tarfile.TarError, OSError) as error:
        raise Refused(f"{base.path(name)} cannot be read as a tar: {error}") from None


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when nothing is there.
    """
    declared_license(config.license)
    place = find_files(config.source.removeprefix("img2dataset:"), f"catalog.source {config.source!r}", lambda name: kind_of(name) == "parquet")
    table = open_table(place.base, place.names[0])
    image_column = next((name for name in FORMATS if name in table.binary), None)
    shards = Shards(place.base, image_column)

    def read(row: Row, file: str, number: int) -> Iterator[Said]:
        url = some(row.get("url"), row.get("URL"))
        yield Said(
            shards.locator(row, file, number),
            id=some(row.get("key"), url),
            license=[(name, row.get(name)) for name in LICENSES],
            creator=some(row.get("creator"), row.get("author")),
            title=row.get("title"),
            alt_text=some(*(row.get(name) for name in ("caption", "alt", "TEXT", "text"))),
            source_url=some(row.get("page_url"), row.get("source_url")),
            private={"exif": {"exif": row.get("exif")}},
        )

    return RecordSource("img2dataset", place, read, config, image_column=image_column)
