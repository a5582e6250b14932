"""Why a part cannot be used, in words and without secrets: a library's own message may hold an address."""

from __future__ import annotations

import errno
import os
import re
import socket
import sqlite3
import ssl
from collections.abc import Iterator

_NAMES = {
    "InvalidPasswordError": "the user or the password is refused",
    "InvalidAuthorizationSpecificationError": "the user is refused",
    "InvalidCatalogNameError": "the server has no database of that name",
    "InsufficientPrivilegeError": "the user may not do what is needed",
    "TooManyConnectionsError": "the server takes no more connections",
}
_CODES = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}
_SEVERAL = re.compile(r"Errno (\d+)")  # asyncio tells of tries at several addresses as one error without a number
_MOST_CAUSES = 10


def why(exc: BaseException, otherwise: str = "") -> str:
    """One clause; an error that is not known here is said `otherwise`, or named by its type."""
    known = (says for one in _causes(exc) if (says := _says(one)) is not None)
    return next(known, otherwise or type(exc).__name__)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    nearest: BaseException | None = exc
    for _ in range(_MOST_CAUSES):
        if nearest is None:
            return
        yield nearest
        if isinstance(nearest, BaseExceptionGroup):
            yield nearest.exceptions[0]
        nearest = nearest.__cause__ or nearest.__context__


def _says(exc: BaseException) -> str | None:
    """What is known of one error by itself."""
    if isinstance(exc, socket.gaierror):
        return "the name of the host is not known"
    if isinstance(exc, ssl.SSLError):
        return "TLS fails; is it a TLS port, with a certificate that this machine trusts?"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, sqlite3.Error):
        return str(exc)
    if isinstance(exc, OSError):
        several = _SEVERAL.search(str(exc))
        number = exc.errno or (int(several[1]) if several else None)
        return None if number is None else _CODES.get(number, os.strerror(number))
    return _NAMES.get(type(exc).__name__)
