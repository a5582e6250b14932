"""Reading tickets from any SQL database by SQLAlchemy: a table with a column map, or the user's own query.

Rows come in the order of the key column and are streamed by the server. The key is the cursor: after a kill, reading
goes on behind the last sealed ticket, whatever was added to the table meanwhile. Text is never put into SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.data.rows import Record
from adapters.errors import SourceError
from adapters.settings import SourceSettings, expand

if TYPE_CHECKING:
    from sqlalchemy import Engine, TextClause

_BUFFERED_ROWS = 1_000


def read_sql(source: SourceSettings, after: int | str | None = None) -> Iterator[Record]:
    """Give one record per row behind the key `after`."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        engine = create_engine(expand(source.url or ""), hide_parameters=True)
    except (ArgumentError, ModuleNotFoundError, SQLAlchemyError) as exc:
        raise SourceError(
            f"source `{source.name}`: the url cannot be used ({type(exc).__name__}); it must be a SQLAlchemy URL "
            "such as postgresql+psycopg://user:password@host/name, with its driver installed"
        ) from exc
    try:
        yield from _rows(engine, source, after)
    except SQLAlchemyError as exc:
        where = engine.url.render_as_string(hide_password=True)
        reason = str(exc.__cause__ or exc).strip().partition("\n")[0]
        raise SourceError(f"source `{source.name}` ({where}): {reason}") from exc
    finally:
        engine.dispose()


def _rows(engine: Engine, source: SourceSettings, after: int | str | None) -> Iterator[Record]:
    key = source.columns.id or ""
    label = source.table or source.name
    with engine.connect().execution_options(stream_results=True, max_row_buffer=_BUFFERED_ROWS) as connection:
        parameters = {} if after is None else {"after": after}
        for row in connection.execute(_statement(engine, source, after), parameters).mappings():
            if key not in row:
                raise SourceError(f"source `{source.name}`: no column `{key}`; there are {', '.join(map(str, row))}")
            cursor = row[key]
            if not isinstance(cursor, int | str):
                raise SourceError(
                    f"source `{source.name}`: column `{key}` is a {type(cursor).__name__}; it must be a unique integer "
                    "or text: cast it in `query`"
                )
            yield Record(f"{label}:{cursor}", cursor, dict(row))


def _statement(engine: Engine, source: SourceSettings, after: int | str | None) -> TextClause:
    from sqlalchemy import text

    quote = engine.dialect.identifier_preparer.quote
    if source.table is not None:
        origin = ".".join(quote(part) for part in source.table.split("."))
    else:
        origin = f"({(source.query or '').strip().rstrip(';')}) AS source"
    key = quote(source.columns.id or "")
    turns = [quote(source.columns.created_at)] if source.shape == "thread" and source.columns.created_at else []
    where = "" if after is None else f" WHERE {key} > :after"
    return text(f"SELECT * FROM {origin}{where} ORDER BY {', '.join([key, *turns])}")  # noqa: S608  # quoted names, bound values
