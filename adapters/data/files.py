"""Reading JSONL, CSV and Parquet as a stream of records that know their file and line; no file is held whole."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from adapters.data.rows import Drop, Record
from adapters.errors import MissingLibraryError, SourceError

LINE_BYTES_MAX = 16 * 1024 * 1024
_PARQUET_BATCH = 1_000


def read_jsonl(path: Path, after: int = 0) -> Iterator[Record]:
    """Give one record per line after that line number; a line that is no JSON object becomes a problem, not an end."""
    with _open(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if number <= after or not line.strip():
                continue
            yield _json_record(path, number, line)


def read_csv(path: Path, after: int = 0) -> Iterator[Record]:
    """Give one record per row of a CSV file with a header, in UTF-8.

    The library's limit of a field's length holds for the whole process: it is raised to that of our lines, so that one
    long mail is a row that is too long, and not the end of the file.
    """
    csv.field_size_limit(LINE_BYTES_MAX)
    with _open(path), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for number, row in enumerate(reader, start=1):
                if number > after:
                    yield _csv_record(path, reader.line_num, number, row)
        except csv.Error as exc:
            raise SourceError(f"{path}:{reader.line_num + 1}: is not CSV ({exc}); export it again") from exc


def read_parquet(path: Path, after: int = 0) -> Iterator[Record]:
    """Give one record per row of a Parquet file, in its own order."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise MissingLibraryError.of("pyarrow", "data") from exc
    with _open(path) as file:
        try:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_PARQUET_BATCH):
                rows = batch.to_pylist() if number + batch.num_rows > after else [{}] * batch.num_rows
                for row in rows:
                    number += 1
                    if number > after:
                        yield Record(f"{path.name}:{number}", number, row)
        except pa.ArrowInvalid as exc:
            raise SourceError(f"{path}: is not a Parquet file, or a damaged one; export it again") from exc


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read ({exc.strerror}); check its path") from exc


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Give lines of bounded length: the rest of a longer one is passed over, its head is given and will not parse."""
    while line := file.readline(LINE_BYTES_MAX):
        yield line
        while len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX)


def _json_record(path: Path, number: int, line: bytes) -> Record:
    origin = f"{path.name}:{number}"
    if len(line) == LINE_BYTES_MAX:
        return _broken(origin, number, "line_too_long", f"is longer than {LINE_BYTES_MAX} bytes")
    try:
        line.decode()
    except UnicodeDecodeError as exc:
        return _broken(origin, number, "not_utf8", f"byte {exc.start + 1} is not UTF-8; save the file as UTF-8")
    try:
        row = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError) as exc:
        return _broken(origin, number, "not_json", _where(exc))
    if not isinstance(row, dict):
        return _broken(origin, number, "not_object", "must be a JSON object")
    return Record(origin, number, row)


def _csv_record(path: Path, line: int, number: int, row: Mapping[str | None, Any]) -> Record:
    origin = f"{path.name}:{line}"
    if None in row or any(value is None for value in row.values()):
        return _broken(origin, number, "csv_columns", "has another number of columns than the header")
    if any("\udc80" <= char <= "\udcff" for value in row.values() for char in value if char > "\ud7ff"):
        return _broken(origin, number, "not_utf8", "is not UTF-8; save the file as UTF-8")
    return Record(origin, number, {str(key): value for key, value in row.items()})


def _broken(origin: str, cursor: int, rule: str, detail: str) -> Record:
    return Record(origin, cursor, {}, Drop(origin, f"broken:{rule}", "line", detail))


def _where(exc: Exception) -> str:
    """Give the position of a JSON error; msgspec's words name places only."""
    return str(exc) if isinstance(exc, msgspec.DecodeError) else "is nested too deep"
