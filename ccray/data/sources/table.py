"""Tables as a source: `table:FILE`, a folder or a pattern of them; each row names a picture by bytes, by a file beside the table, or by URL.

Which column holds what is guessed from its name (`columns.py`) or told by `catalog.columns`.
"""

from collections.abc import Iterator

from ccray.config import CatalogConfig
from ccray.data.sources.columns import Columns, find, require
from ccray.data.sources.listed import declared_license, nothing
from ccray.data.sources.places import find_files
from ccray.data.sources.records import RecordSource, Said, named_file, some, text_of, url_locator
from ccray.data.sources.rows import Row, Table, kind_of, open_table
from ccray.schema import Reject


def open_source(config: CatalogConfig) -> RecordSource:
    """Raises:
    Refused: when the table cannot be read, or lacks a column that we need or that was mapped.
    """
    place = find_files(config.source.removeprefix("table:"), f"catalog.source {config.source!r}", lambda name: kind_of(name) is not None)
    table = open_table(place.base, place.names[0])
    columns = find(table.columns, config.columns, config.source, config.keep)
    require(columns, table.columns, config.source, declared_license(config.license))

    def read(row: Row, file: str, number: int) -> Iterator[Said]:
        said = columns.said(row, _locator(row, columns, table, file, number))
        yield said if text_of(said.id) else _named(said, row, columns)

    return RecordSource("table", place, read, config, wanted=columns.present(), image_column=columns.image)


def _named(said: Said, row: Row, columns: Columns) -> Said:
    """Without an id a row is called by the file or the URL that it names."""
    return Said(**(vars(said) | {"id": _image(row, columns)}))


def _image(row: Row, columns: Columns) -> str | None:
    return text_of(some(*(row.get(name) for name in (columns.image, columns.url) if name is not None)))


def _locator(row: Row, columns: Columns, table: Table, file: str, number: int) -> str:
    if columns.image in table.binary:
        return f"row:{file}#{number}"
    named = _image(row, columns)
    if named is None:
        return nothing(Reject.NO_IMAGE, "the row names neither a file nor a URL")
    if "://" in named or named.startswith(("data:", "file:")):
        return url_locator(named)
    return url_locator(named) if columns.image is None or text_of(row.get(columns.image)) is None else named_file(named)
