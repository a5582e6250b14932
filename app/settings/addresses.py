"""Values with a form of their own: addresses of stores and servers, secrets that travel in a header.

What is wrong is said without the value: addresses hold passwords.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.storage.database import DRIVERS
from app.storage.redis_connection import Address

_WEB = re.compile(r"https?://[^\s/]+(/\S*)?")
_ESCAPED = "special characters of a password are percent-encoded"


def with_port(url: str) -> str:
    """An address whose host and port can be such; raises ValueError."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("expected an address such as http://host:8000, its port from 1 to 65535")
    return url


def web_addresses(text: str) -> str:
    """Addresses of servers, separated by commas; raises ValueError."""
    urls = [url.strip() for url in text.split(",")] if text else []
    if not all(_WEB.fullmatch(url) for url in urls):
        raise ValueError("expected http:// or https:// addresses, separated by commas")
    for url in urls:
        with_port(url)
    return text


def redis_address(text: str) -> str:
    """The address of a Redis server; raises ValueError."""
    try:
        Address.of(text)
    except (ValueError, TypeError):
        raise ValueError(f"expected redis://host:port/0, rediss:// or unix:///path; {_ESCAPED}") from None
    except OSError as exc:
        raise ValueError(f"the file that its ssl_ca_certs names cannot be read ({exc.strerror})") from None
    return text


def database_address(text: str) -> str:
    """The address of a database; raises ValueError."""
    expected = f"expected postgresql://user:password@host:5432/name or sqlite:///path; {_ESCAPED}"
    try:
        address = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(expected) from None
    if address.drivername.split("+")[0] not in DRIVERS:
        raise ValueError(expected)
    if "sslmode" in address.query:
        raise ValueError("expected `ssl` where `sslmode` stands, as in postgresql://host/name?ssl=require")
    return text


def header_secret(text: str) -> str:
    """A secret that callers send in a header; raises ValueError for one that no client could send."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("expected printable ASCII characters: no others can be sent in a header")
    return text
