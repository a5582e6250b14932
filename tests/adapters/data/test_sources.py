from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from adapters.data.files import LINE_BYTES_MAX, read_csv, read_jsonl, read_parquet
from adapters.data.rows import Record
from adapters.data.sql import read_sql
from adapters.errors import BadFileError, ConfigurationError, SourceError
from adapters.settings import Columns, SourceSettings
from adapters.types import Message, Role
from tests.adapters.data.sources import COLUMNS, TICKETS, fetched, jsonl, source
from tests.support.postgres import new_database, running_postgres


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    """JSONL, CSV and Parquet of the same tickets differ in nothing but their origins."""
    jsonl(tmp_path / "t.jsonl", TICKETS)
    lines = [",".join(TICKETS[0]), *(",".join(str(value) for value in row.values()) for row in TICKETS)]
    (tmp_path / "t.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(TICKETS), tmp_path / "t.parquet")
    seen = []
    for kind in ("jsonl", "csv", "parquet"):
        rows, drops = fetched(tmp_path / kind, source(kind, tmp_path / f"t.{kind}"))
        assert not drops
        seen.append([(row.id, row.messages, row.customer, row.topic, row.satisfaction, row.created_at) for row in rows])
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0][3] == "billing"
    assert seen[0][0][2] == seen[0][2][2] != seen[0][1][2]
    assert "w1" not in seen[0][0][2]


def test_sql_by_table_and_by_query(tmp_path: Path) -> None:
    """A table with a column map and a query give the same rows, in the order of their keys."""
    url = f"sqlite:///{tmp_path}/t.db"
    _fill(url)
    by_table, _ = fetched(tmp_path / "a", source("sql", url=url, table="tickets"))
    query = "SELECT id, who, about, q, a, stars, at FROM tickets WHERE id <> 3;"
    by_query, _ = fetched(tmp_path / "b", source("sql", url=url, query=query))
    assert [row.id for row in by_table] == [f"data:{n}" for n in range(1, 6)]
    assert [row.messages for row in by_query] == [row.messages for row in by_table if row.id != "data:3"]
    assert by_table[0].origin == "tickets:1"


def test_sql_goes_on_behind_a_key(tmp_path: Path) -> None:
    """Reading behind a cursor gives what comes after it, for integer and text keys."""
    url = f"sqlite:///{tmp_path}/t.db"
    _fill(url)
    assert [record.cursor for record in read_sql(source("sql", url=url, table="tickets"), 3)] == [4, 5]
    texts = source("sql", url=url, query="SELECT 'k' || id AS id, q, a FROM tickets")
    assert [record.cursor for record in read_sql(texts, "k3")] == ["k4", "k5"]


@pytest.mark.postgres
def test_postgres_streams_its_own_types(tmp_path: Path) -> None:
    """Timestamps with zones, JSON columns and numerics of a real PostgreSQL, read by a schema-qualified table."""
    with TemporaryDirectory() as folder, running_postgres(Path(folder)) as server:
        url = new_database(server).replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA help"))
            connection.execute(
                text("CREATE TABLE help.chats (id bigint, at timestamptz, stars numeric, chat jsonb, took float8)")
            )
            chat = json.dumps([{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}])
            insert = text("INSERT INTO help.chats VALUES (:id, '2026-10-01 12:00+02', 4.5, cast(:chat AS jsonb), 60)")
            connection.execute(insert, [{"id": n, "chat": chat} for n in (2, 1)])
        engine.dispose()
        columns = Columns(
            id="id", created_at="at", satisfaction="stars", messages="chat", resolution_seconds="took"
        )  # fmt: skip
        rows, drops = fetched(tmp_path, SourceSettings(kind="sql", url=url, table="help.chats", columns=columns))
    assert not drops
    assert [row.id for row in rows] == ["data:1", "data:2"]
    assert rows[0].created_at == datetime(2026, 10, 1, 10, tzinfo=UTC).timestamp()
    assert (rows[0].satisfaction, rows[0].resolution_seconds) == (4.5, 60.0)
    assert rows[0].messages[0] == Message(Role.USER, "hi there")


def test_a_bad_source_fails_with_counts_and_the_first_ten(tmp_path: Path) -> None:
    """Above its share of broken rows a source fails; nothing of it is left as a whole stage."""
    rows: list[Any] = [TICKETS[0]] * 5 + [b"{"] * 12
    with pytest.raises(BadFileError) as caught:
        fetched(tmp_path, source("jsonl", jsonl(tmp_path / "t.jsonl", rows)))
    words = str(caught.value)
    assert "t.jsonl: 12 of 17 rows are broken (not_json 12)" in words
    assert "t.jsonl:6: line: not_json" in words
    assert words.count("\n") == 10
    assert not list((tmp_path / "work").glob("fetch-*/manifest.json"))
    rows, _ = fetched(tmp_path / "again", source("jsonl", tmp_path / "t.jsonl", broken_share=1))
    assert len(rows) == 5


def test_lines_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    """A line that is too long or no UTF-8, a CSV row of another width or encoding: one problem each, and it goes on."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * LINE_BYTES_MAX + b'"}\n\xff\n{"ok": 1}')
    assert _problems(read_jsonl(path)) == ["broken:line_too_long", "broken:not_utf8", None]
    table = tmp_path / "t.csv"
    table.write_bytes(b"a,b\n1,2\n1\n1,2,3\n\xe9,2\n")
    assert _problems(read_csv(table)) == [None, "broken:csv_columns", "broken:csv_columns", "broken:not_utf8"]


def test_files_go_on_behind_a_line(tmp_path: Path) -> None:
    """Every kind of file can be read from behind a place, without losing its line numbers."""
    jsonl(tmp_path / "t.jsonl", [{"n": n} for n in range(5)])
    (tmp_path / "t.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(5)))
    pq.write_table(pa.Table.from_pylist([{"n": n} for n in range(5)]), tmp_path / "t.parquet")
    for reader, name in ((read_jsonl, "t.jsonl"), (read_csv, "t.csv"), (read_parquet, "t.parquet")):
        whole, rest = list(reader(tmp_path / name)), list(reader(tmp_path / name, 3))
        assert rest == whole[3:]
        assert len(whole) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "jsonl", "path": "/nowhere.jsonl"}, r"/nowhere\.jsonl: cannot be read"),
        ({"kind": "sql", "url": "no url at all", "table": "t"}, "the url cannot be used"),
        ({"kind": "sql", "url": "nosuchdb://x", "table": "t"}, "with its driver installed"),
        ({"kind": "sql", "url": "sqlite://", "table": "missing"}, "no such table: missing"),
        ({"kind": "sql", "url": "sqlite://", "query": "SELECT 1 AS other"}, "no such column: id"),
        ({"kind": "sql", "url": "sqlite://", "query": "SELECT 1 AS ID"}, "no column `id`; there are ID"),
        ({"kind": "jsonl", "path": "/"}, "/: cannot be read"),
        ({"kind": "sql", "url": "sqlite://", "query": "SELECT 1.5 AS id"}, "cast it in `query`"),
    ],
)
def test_a_source_that_cannot_be_read_is_said_in_words(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """The source is named, and what to do next."""
    with pytest.raises(SourceError, match=words):
        fetched(tmp_path, SourceSettings.model_validate({"shape": "ticket", "columns": COLUMNS, **changes}))


def test_passwords_of_databases_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password comes from the environment and is in no error; an unset name is an error."""
    url = "postgresql+psycopg://user:${SUPPORT_PASSWORD}@127.0.0.1:1/x"
    with pytest.raises(ConfigurationError, match="export SUPPORT_PASSWORD"):
        fetched(tmp_path, source("sql", url=url, table="t"))
    monkeypatch.setenv("SUPPORT_PASSWORD", "hunter2")
    with pytest.raises(SourceError) as caught:
        fetched(tmp_path, source("sql", url=url, table="t"))
    assert "hunter2" not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_damaged_csv_file_is_said_in_words(tmp_path: Path) -> None:
    """A field larger than any line may be ends the file with its line; a long mail does not."""
    (tmp_path / "long.csv").write_text("a,b\n1," + "x" * 200_000 + "\n")
    assert len(list(read_csv(tmp_path / "long.csv"))) == 1
    (tmp_path / "t.csv").write_text("a,b\n1," + "x" * (LINE_BYTES_MAX + 1) + "\n")
    with pytest.raises(SourceError, match=r"t\.csv:2: is not CSV"):
        list(read_csv(tmp_path / "t.csv"))
    with pytest.raises(SourceError, match=r"none\.parquet: cannot be read"):
        list(read_parquet(tmp_path / "none.parquet"))


def test_a_damaged_parquet_file_is_said_in_words(tmp_path: Path) -> None:
    """A file of another kind under the name."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(SourceError, match="is not a Parquet file"):
        fetched(tmp_path, source("parquet", tmp_path / "t.parquet"))


@dataclass(frozen=True)
class _Killed(Exception):
    """Stands for kill -9 in the middle of a source."""


def test_fetch_goes_on_behind_the_last_sealed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second of two sources: the first is not read again, the second from behind its last part."""
    jsonl(tmp_path / "one.jsonl", TICKETS[:3])
    jsonl(tmp_path / "two.jsonl", TICKETS)
    sources = tuple(source("jsonl", tmp_path / f"{name}.jsonl", name=name) for name in ("one", "two"))
    read: list[str] = []

    def breaking(path: Path, after: int = 0) -> Iterator[Record]:
        for record in read_jsonl(path, after):
            if record.origin == "two.jsonl:4" and not read[-1:] == ["again"]:
                raise _Killed
            read.append(record.origin)
            yield record

    monkeypatch.setattr("adapters.data.fetch.read_jsonl", breaking)
    with pytest.raises(_Killed):
        fetched(tmp_path, *sources, rows_per_part=2)
    read.append("again")
    monkeypatch.setattr("adapters.data.fetch.read_jsonl", lambda path, after=0: _noted(read, read_jsonl(path, after)))
    examples, _ = fetched(tmp_path, *sources, rows_per_part=2)
    assert read[read.index("again") + 1 :] == ["two.jsonl:3", "two.jsonl:4", "two.jsonl:5"]
    assert [row.origin for row in examples] == [f"one.jsonl:{n}" for n in (1, 2, 3)] + [
        f"two.jsonl:{n}" for n in range(1, 6)
    ]


def _noted(read: list[str], records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        read.append(record.origin)
        yield record


def _problems(records: Iterator[Record]) -> list[str | None]:
    return [record.problem.reason if record.problem else None for record in records]


def _fill(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE tickets (id integer, who text, about text, q text, a text, stars real, at text)")
        )
        insert = text("INSERT INTO tickets VALUES (:id, :who, :about, :q, :a, :stars, :at)")
        connection.execute(insert, TICKETS[::-1])
    engine.dispose()
