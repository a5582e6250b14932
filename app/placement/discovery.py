"""Where a pool's servers are: a list, a DNS name that has one address per server, or a Kubernetes service.

    http://10.0.0.7:8000                    one server
    dns://vllm.models.svc:8000              every address of the name (a headless service)
    k8s://models/vllm:8000                  every ready endpoint of the service `vllm` in the namespace `models`

Kubernetes is asked for EndpointSlices with the pod's own service account, which needs `list` on them. A source that
cannot be asked just now keeps its last answer: a name server's outage takes no server away.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 5.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
_log = structlog.get_logger()

Lookup = Callable[[str], Awaitable[list[str]]]


class DiscoveryFailed(Exception):
    """A source could not be asked."""


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)


class _Slice(msgspec.Struct):
    endpoints: list[_Endpoint] | None = None


class _Slices(msgspec.Struct):
    items: list[_Slice]


class Discovery:
    """Addresses of a pool's sources, the last known ones where a source does not answer."""

    def __init__(self, lookups: dict[str, Lookup] | None = None) -> None:
        self._lookups = lookups if lookups is not None else {"dns": by_dns, "k8s": by_kubernetes}
        self._known: dict[str, list[str]] = {}

    async def addresses(self, sources: Sequence[str]) -> list[str]:
        """Every server's address, each once, sorted within its source."""
        found = await asyncio.gather(*(self._of(source) for source in sources))
        return list(dict.fromkeys(address for addresses in found for address in addresses))

    async def _of(self, source: str) -> list[str]:
        lookup = self._lookups.get(source.partition("://")[0])
        if lookup is None:
            return [source]
        try:
            self._known[source] = sorted(await lookup(source))
        except DiscoveryFailed as exc:
            _log.warning("discovery_failed", source=source, reason=str(exc))
        return self._known.get(source, [])


async def by_dns(source: str) -> list[str]:
    """One server for each address of the name."""
    parts = urlsplit(source)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(SECONDS):
            found = await loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as exc:
        raise DiscoveryFailed(f"{parts.hostname}: {type(exc).__name__}") from exc
    return sorted({_address(str(address[0]), parts.port or 8000) for *_, address in found})


async def by_kubernetes(source: str, *, account: Path = ACCOUNT, api: str | None = None) -> list[str]:
    """One server for each ready endpoint of the service."""
    parts = urlsplit(source)
    service = parts.path.strip("/").partition(":")
    port = int(service[2] or 8000)
    base = api or f"https://{os.environ.get('KUBERNETES_SERVICE_HOST', 'kubernetes.default.svc')}"
    url = f"{base}/apis/discovery.k8s.io/v1/namespaces/{parts.netloc}/endpointslices"
    query = {"labelSelector": f"kubernetes.io/service-name={service[0]}"}
    try:
        token = (account / "token").read_text(encoding="utf-8").strip()
        body = await _get(url, query, token, account / "ca.crt")
        slices = msgspec.json.decode(body, type=_Slices).items
    except (OSError, TimeoutError, aiohttp.ClientError, msgspec.DecodeError) as exc:
        raise DiscoveryFailed(f"{service[0]}: {type(exc).__name__}") from exc
    ready = [end for part in slices for end in part.endpoints or () if end.conditions.ready is not False]
    return sorted({_address(end.addresses[0], port) for end in ready if end.addresses})


async def _get(url: str, query: dict[str, str], token: str, authority: Path) -> bytes:
    trust = ssl.create_default_context(cafile=str(authority)) if url.startswith("https") else False
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
        session.get(url, params=query, headers=headers, ssl=trust, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise DiscoveryFailed(f"the Kubernetes API answered {answer.status}; may this account list endpointslices?")
        body = await answer.content.read(MAX_ANSWER_BYTES)
        while block := await answer.content.read(MAX_ANSWER_BYTES):
            body += block
            if len(body) > MAX_ANSWER_BYTES:
                raise DiscoveryFailed("the Kubernetes API's answer is too large")
        return body


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
