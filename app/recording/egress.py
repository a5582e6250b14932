"""A way out to addresses that tenants name: only to public ones, and to exactly the address that was judged.

Races removed: a name that resolves to a public address when it is looked at and to a private one when it is used (DNS
rebinding). The connector resolves through `PublicResolver`, and what that returns is what is connected to. Redirects
are not followed, for a receiver could send the gateway to itself.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

NAT64 = ipaddress.ip_network("64:ff9b::/96")
MAX_URL = 2000


class ForbiddenAddress(OSError):
    """The address is not one that tenants may send the gateway to."""


def is_public(address: str) -> bool:
    """Whether an IP address is out in the internet, judged by what it finally means (mapped, 6to4, Teredo, NAT64)."""
    try:
        found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast and not found.is_reserved


def check_url(url: str, *, allow_private: bool = False) -> str | None:
    """What is wrong with an address that a tenant names, in words, or None."""
    try:
        parts = URL(url)
        parts.port  # noqa: B018 - raises when it is none
    except ValueError:
        return "expected a URL such as https://example.com/webhooks"
    if len(url) > MAX_URL or not parts.host or parts.user is not None or parts.fragment:
        return "expected a URL such as https://example.com/webhooks, without user or fragment"
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        return "expected https://"
    if not allow_private and _is_literal(parts.host) and not is_public(parts.host):
        return "expected a public address"
    return None


class PublicResolver(AbstractResolver):
    """Resolves names, and forgets every address that is not public; a name with none left is refused."""

    def __init__(self, inner: AbstractResolver, *, allow_private: bool = False) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses of a name."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._allow_private or is_public(result["host"])]
        if not allowed:
            raise ForbiddenAddress("the name has no public address")
        return allowed

    async def close(self) -> None:
        """Close what is inside."""
        await self._inner.close()


@asynccontextmanager
async def public_client(*, timeout_seconds: float, allow_private: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that reaches public addresses only; give its requests `allow_redirects=False`."""
    resolver = PublicResolver(aiohttp.ThreadedResolver(), allow_private=allow_private)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=20, force_close=True)
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as client:
        yield client


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
