"""Who is credited in a published dataset: attribution.parquet, and attribution/, a page that searches it in a browser without a server.

The page must also work from a disk (file:), where scripts may not fetch data: rows lie in small scripts, loaded one by one as the search
goes on. Keys are hashes, so a key's place among them says in which file its row is: rows go to files by key, and one file is enough to find
an image by its key, however many there are. Rows are gathered on disk between, so memory does not grow with the dataset.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccray.publishing.credit import Credit, patterns, safe_url
from ccray.publishing.folders import Draft
from ccray.schema import COPIES

PAGE = "attribution"
TABLE = "attribution.parquet"
ASSETS = ("index.html", "page.css", "page.js")
BUFFER_ROWS = 100_000  # held before they go to the files on disk
FILES_PER_FOLDER = 1000
CREDITS = pa.schema(
    [
        ("key", pa.string()),  # 16 hex digits
        ("title", pa.string()),
        ("creator", pa.string()),
        ("creator_url", pa.string()),
        ("source", pa.string()),
        ("source_url", pa.string()),
        ("license", pa.string()),
        ("license_url", pa.string()),
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("credit", pa.string()),  # the sentence
        ("copies", COPIES),  # whom else to name
    ]
)


class Credits:
    """Takes the rows of shard after shard; `finish` writes what is left."""

    def __init__(self, draft: Draft, scratch: Path, rows: int, page_rows: int, plain_up_to: int, title: str) -> None:
        """Args:
        draft: the dataset folder.
        scratch: a local folder for rows on their way.
        rows: how many will come, about.
        page_rows: rows of one file of the page.
        plain_up_to: rows up to which plain HTML pages are written too.
        title: of the page.
        """
        self._draft, self._title, self._plain = draft, title, rows <= plain_up_to
        self._files = max(1, -(-rows // page_rows))
        self._buckets = scratch / "buckets"
        self._buckets.mkdir()
        self._licenses: dict[tuple[str | None, str | None], int] = {}
        self._waiting: dict[int, list[str]] = {}
        self._waiting_rows = self._rows = 0
        self._writer = pq.ParquetWriter(draft.path(TABLE), CREDITS, compression="zstd")

    def add(self, table: pa.Table) -> None:
        """Rows of one shard (`table.shards`)."""
        rows = table.select([*CREDITS.names[:-2], "copies"]).to_pylist()
        credit = pa.array([Credit.of(row).text() for row in rows], pa.string())
        self._writer.write_table(table.append_column("credit", credit).select(CREDITS.names).cast(CREDITS))
        for row in rows:
            self._waiting.setdefault(int(row["key"], 16) * self._files >> 64, []).append(self._line(row))
        self._rows += len(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= BUFFER_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the page."""
        self._writer.close()
        self._draft.done(TABLE)
        self._flush()
        for number in range(self._files):
            lines = self._sorted(number)
            self._draft.write(f"{PAGE}/{rows_name(number)}", f"ccrayRows({number},[\n{','.join(lines)}\n]);\n")
            if self._plain:
                self._draft.write(f"{PAGE}/{plain_name(number)}", self._plain_page(number, [json.loads(line) for line in lines]))
        self._draft.write(f"{PAGE}/index.js", f"ccrayIndex({_script(self._index())});\n")
        for name in ASSETS:
            text = (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")
            if name == "index.html":
                text = text.replace("{{title}}", html.escape(self._title)).replace("{{without_script}}", self._without_script())
            self._draft.write(f"{PAGE}/{name}", text)

    def _line(self, row: dict[str, Any]) -> str:
        """A row for the page, as JSON: key, title, creator, creator_url, source, source_url, licence number, copies; empty ends are cut."""
        values: list[Any] = [row["key"], *self._origin(row), [self._origin(copy) for copy in row["copies"] or []]]
        while values[-1] in (None, []):
            values.pop()
        return _script(values) + "\n"

    def _origin(self, row: dict[str, Any]) -> list[Any]:
        one = Credit.of(row)
        number = self._licenses.setdefault((one.license, safe_url(one.license_url)), len(self._licenses))
        return [one.title, one.creator, safe_url(one.creator_url), one.source, safe_url(one.source_url), number]

    def _flush(self) -> None:
        for number, lines in self._waiting.items():
            with (self._buckets / str(number)).open("a", encoding="utf-8") as file:
                file.writelines(lines)
        self._waiting.clear()
        self._waiting_rows = 0

    def _sorted(self, number: int) -> list[str]:
        """A file's rows by key, which is the first thing in a line."""
        path = self._buckets / str(number)
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = sorted(file)
        path.unlink()
        return lines

    def _index(self) -> dict[str, Any]:
        licenses = [[license, url] for license, url in self._licenses]
        return {"title": self._title, "rows": self._rows, "files": self._files, "licenses": licenses, "patterns": patterns()}

    def _without_script(self) -> str:
        if self._plain:
            return f'<a href="{plain_name(0)}">Read the list as plain pages</a>, or open <code>{TABLE}</code>.'
        return f"The same list is in <code>{TABLE}</code>, in the folder above."

    def _plain_page(self, number: int, rows: Sequence[list[Any]]) -> str:
        licenses = list(self._licenses)
        entries = "\n".join(_entry(row, licenses) for row in rows)
        ways = [
            f'<a href="{number + step:05d}.html">{words}</a>' for step, words in ((-1, "Previous"), (1, "Next")) if 0 <= number + step < self._files
        ]
        way = f"<nav><p>Page {number + 1} of {self._files}. {' '.join(ways)}</p></nav>"
        return (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'self' file:\">\n"
            f'<title>{html.escape(self._title)}, page {number + 1}</title>\n<link rel="stylesheet" href="../page.css">\n'
            f"<main>\n<h1>{html.escape(self._title)}</h1>\n{way}\n<ul>\n{entries}\n</ul>\n{way}\n</main>\n</html>\n"
        )


def rows_name(number: int) -> str:
    """Where the page finds its rows; the script knows the same rule."""
    return f"rows/{number // FILES_PER_FOLDER:03d}/{number:06d}.js"


def plain_name(number: int) -> str:
    return f"plain/{number:05d}.html"


def _entry(row: list[Any], licenses: Sequence[tuple[str | None, str | None]]) -> str:
    key, *origin = row[:7]
    copies = "".join(f"<li>Copy: {_credit(copy, licenses).html()}</li>" for copy in (row[7] if len(row) > 7 else []))
    return f'<li id="{key}">{_credit(origin, licenses).html()} <code>{key}</code>{f"<ul>{copies}</ul>" if copies else ""}</li>'


def _credit(origin: Sequence[Any], licenses: Sequence[tuple[str | None, str | None]]) -> Credit:
    title, creator, creator_url, source, source_url, number = origin
    return Credit(title, creator, creator_url, source, source_url, *licenses[number])


def _script(value: Any) -> str:
    """JSON that is safe inside a script wherever it may be pasted: no tag can begin in it, no line separator can break it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
