"""One way to a run's files, on a local disk or an object store. All writes are atomic: a reader sees a whole file or none."""

import json
import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ccray.interfaces import Refused
from ccray.schema import PLAIN


class Root:
    """The URI a run lives under: a local path or `s3://bucket/prefix`. Paths given to its methods are relative to it.

    S3 takes its credentials and `AWS_ENDPOINT_URL` from the environment, as boto3 does.
    """

    def __init__(self, uri: str) -> None:
        """Raises:
        Refused: when the scheme is not one we read.
        """
        self.is_local = "://" not in uri
        if self.is_local:
            self.uri = str(Path(uri).expanduser().absolute())
            self._base = self.uri
        elif uri.startswith("s3://") and len(uri) > len("s3://"):
            self.uri = uri.rstrip("/")
            self._base = self.uri.removeprefix("s3://")
        else:
            raise Refused(f"--root {uri!r} cannot be used: expected a path or s3://bucket/prefix")

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system to which `path` belongs."""
        if self.is_local:
            return pafs.LocalFileSystem()
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:  # stores older than 2025 do not know the checksum trailers that AWS's libraries now send unasked
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return pafs.S3FileSystem(endpoint_override=endpoint, region=region or ("us-east-1" if endpoint else None))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "filesystem"}

    def path(self, relative: str = "") -> str:
        """The path of a file for `filesystem`: absolute on a local disk, bucket/key on S3."""
        return f"{self._base}/{relative}" if relative else self._base

    def check_writable(self) -> None:
        """Raises:
        Refused: when the root cannot be read or written.
        """
        try:
            if self.is_local:
                folder = next(p for p in (Path(self.uri), *Path(self.uri).parents) if p.exists())
                if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise Refused(f"--root {self.uri} cannot be written: {folder} is not a folder that this user may read and write")
            else:
                self.filesystem.get_file_info(self.path())
        except OSError as error:
            raise Refused(f"--root {self.uri} cannot be read: {error}") from None

    def exists(self, relative: str) -> bool:
        return self.filesystem.get_file_info(self.path(relative)).type != pafs.FileType.NotFound

    def names(self, relative: str) -> list[str]:
        """Names directly inside a directory, sorted; empty when there is none."""
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def files(self, relative: str) -> list[str]:
        """Files anywhere below a directory, relative to the root, sorted."""
        selector = pafs.FileSelector(self.path(relative), recursive=True, allow_not_found=True)
        found = (info.path for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File)
        return sorted(path.removeprefix(self._base + "/") for path in found)

    def read(self, relative: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(relative), compression=None) as stream:
            return stream.read()

    def write(self, relative: str, data: bytes) -> None:
        """Write a whole file in one atomic step."""
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path(relative), compression=None) as stream:
                stream.write(data)
            return
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except OSError as error:  # a full disk, which half a file would keep full
            draft.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(target)) from error

    def create(self, relative: str, data: bytes) -> bool:
        """Write a file only if there is none; False when another was first."""
        if not self.is_local:
            return self._create_s3(relative, data)
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        draft.write_bytes(data)
        try:
            os.link(draft, target)  # fails when the target exists; the name appears with its content
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _create_s3(self, relative: str, data: bytes) -> bool:
        import boto3
        from botocore.exceptions import ClientError

        bucket, _, key = self.path(relative).partition("/")
        try:
            boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    def delete(self, relative: str) -> None:
        """Remove a file or a directory with all below it, if there."""
        kind = self.filesystem.get_file_info(self.path(relative)).type
        if kind == pafs.FileType.File:
            self.filesystem.delete_file(self.path(relative))
        elif kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path(relative))

    def read_json(self, relative: str) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.read(relative)))

    def write_json(self, relative: str, value: Any) -> None:
        self.write(relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_table(self, relative: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
        """One Parquet file; `filters` (pyarrow's) skip whole row groups where statistics allow."""
        return pq.read_table(self.path(relative), columns=columns, filters=filters, filesystem=self.filesystem, partitioning=None)

    def write_table(self, relative: str, table: pa.Table, row_group_rows: int = 4096) -> None:
        """One Parquet file, written as `coding` says."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=row_group_rows, **coding(table.schema))
        self.write(relative, sink.getvalue())

    def local(self, relative: str, cache: Path) -> Path:
        """A directory as local files: the place itself on a local disk, a copy below `cache` otherwise."""
        if self.is_local:
            return Path(self.path(relative))
        target = cache / relative
        for name in self.files(relative):
            place = cache / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.read(name))
        return target

    def upload(self, folder: Path, relative: str) -> None:
        """Put all files of a local folder below `relative`."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.write(f"{relative}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def coding(columns: pa.Schema) -> dict[str, Any]:
    """How a Parquet file of these columns is written, as pyarrow's writers take it: with zstd, those of `schema.PLAIN` as they are."""
    if not set(columns.names) & set(PLAIN):
        return {"compression": "zstd"}
    leaves = _leaves(columns)
    coded = [leaf for leaf in leaves if leaf.partition(".")[0] not in PLAIN]
    return {"compression": {leaf: "zstd" if leaf in coded else "none" for leaf in leaves}, "use_dictionary": coded, "write_statistics": coded}


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of a table's columns in Parquet's words: `crop.list.element`."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [columns.column(number).path for number in range(len(columns))]
