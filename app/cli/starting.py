"""What stops a start, in a sentence or two on standard error: 2 for settings that cannot be used, 1 for the rest."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from app.cli.reasons import why

if TYPE_CHECKING:
    from app.settings import Settings

_CONNECTING = (None, errno.EHOSTUNREACH, errno.ENETUNREACH)  # None: tries at several addresses, told as one error
_BINDING = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def read_settings(config: Path | None) -> Settings:
    """The settings; says what is wrong with them and leaves with 2."""
    from app.settings import SettingsError, load

    try:
        return load(config)
    except SettingsError as exc:
        _refuse(exc)


@contextmanager
def plainly_started(settings: Settings) -> Iterator[None]:
    """Around what opens the stores: an obstacle that the operator can take away is said, and ends the process."""
    from asyncpg import PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from app.settings import SettingsError
    from app.storage.database import UnknownSchema

    try:
        yield
    except SettingsError as exc:
        _refuse(exc)
    except UnknownSchema as exc:
        _end(str(exc))
    except (SQLAlchemyError, PostgresError) as exc:
        _end(database_lacks(settings, exc))
    except OSError as exc:
        says = _of_the_system(settings, exc)
        if says is None:
            raise
        _end(says)


def database_lacks(settings: Settings, exc: BaseException) -> str:
    """Why the database cannot be used, and what to do."""
    if settings.database_url is None:
        folder = settings.data_folder
        return f"SQLite in {folder} cannot be used: {why(exc)}; set DATABASE_URL, or TUNEGATE_DATA to a folder you own"
    return f"the database cannot be used: {why(exc)}; check DATABASE_URL and that the server runs"


def folder_lacks(folder: Path, exc: OSError) -> str:
    """Why the data folder cannot be used, and what to do."""
    return f"the data folder {folder} cannot be used: {why(exc)}; set TUNEGATE_DATA to a folder you own"


def _of_the_system(settings: Settings, exc: OSError) -> str | None:
    """What is said of an error that names a file, a port or nothing; None for one that nobody can place."""
    if isinstance(exc.filename, str | Path):
        folder = settings.data_folder.absolute()
        if Path(exc.filename).absolute() in (folder, *folder.parents) or folder in Path(exc.filename).parents:
            return folder_lacks(folder, exc)
        return f"{exc.filename} cannot be used: {why(exc)}"
    if exc.errno in _BINDING and "bind" in str(exc):
        server = settings.server
        places = f"{server.host}:{server.port} or {server.metrics_host}:{server.metrics_port}"
        return f"{places} cannot be opened: {why(exc)}; choose another address or port under `server`"
    connecting = isinstance(exc, ConnectionError | TimeoutError | socket.gaierror) or exc.errno in _CONNECTING
    return database_lacks(settings, exc) if connecting and settings.database_url is not None else None


def _refuse(exc: Exception) -> NoReturn:
    typer.echo(f"tunegate: the settings cannot be used:\n{exc}", err=True)
    raise typer.Exit(2) from None


def _end(says: str) -> NoReturn:
    typer.echo(f"tunegate: {says}", err=True)
    raise typer.Exit(1) from None
