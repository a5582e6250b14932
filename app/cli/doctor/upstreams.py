"""What answers come from and what proves callers: providers, pools, the embedding service, issuers, the collector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx2

from app.auth.fetch import key_set
from app.cache.remote import EmbeddingService, RemoteEmbedder
from app.cli.doctor.finding import PROBE_SECONDS, Finding, shown
from app.cli.reasons import why
from app.interfaces import EmbedderFailed
from app.observability.tracing import traces_url
from app.placement.discovery import DiscoveryFailed, by_dns, by_kubernetes
from app.settings import EmbedderSettings, Settings
from app.types import Pool, Provider

Probe = Coroutine[Any, Any, list[Finding]]


def probes(settings: Settings) -> Iterator[Probe]:
    """Each upstream's, to be run together."""
    for provider in settings.all_providers().values():
        yield _provider(provider, may_lack_key=settings.identity.own_provider_keys)
    for pool in settings.all_pools().values():
        for source in pool.replicas:
            yield _source(pool, source)
    if settings.cache.semantic and settings.cache.embedder is not None:
        yield _embedder(settings, settings.cache.embedder)
    for issuer in settings.identity.issuers:
        yield _issuer(issuer.jwks_url)
    if settings.telemetry.otlp_endpoint is not None:
        yield _collector(settings.telemetry.otlp_endpoint)


async def _provider(provider: Provider, *, may_lack_key: bool) -> list[Finding]:
    """The provider lists its models: that costs nothing and shows whether it takes the key."""
    part = f"provider {provider.name}"
    base = provider.base_url.rstrip("/")
    url = f"{base if base.endswith('/v1') else base + '/v1'}/models"
    try:
        answer = await _get(url, provider.api_key)
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as exc:
        return [Finding(part, False, f"{shown(base)}: {why(exc)}; start it or fix its base_url")]
    status = answer.status_code
    if status in (401, 403):
        if provider.api_key is None and may_lack_key:
            return [Finding(part, True, f"{shown(base)} wants a key: callers or tenants must bring theirs")]
        return [Finding(part, False, f"{shown(base)} refuses the key with {status}; set another api_key")]
    if status >= 500 or answer.is_redirect:
        return [Finding(part, False, f"{shown(base)} answers {status}; is base_url the address of its API?")]
    return [Finding(part, True, shown(base))]


async def _source(pool: Pool, source: str) -> list[Finding]:
    """One server, or all that a name leads to."""
    part = f"pool {pool.name}"
    lookup = {"dns": by_dns, "k8s": by_kubernetes}.get(source.partition("://")[0])
    if lookup is None:
        return [await _replica(pool, source)]
    try:
        found = await lookup(source)
    except DiscoveryFailed as exc:
        return [Finding(part, False, f"{source} cannot be looked up ({exc}); fix `replicas`, or the account's rights")]
    if not found:
        return [Finding(part, False, f"{source} leads to no server that is ready; start one or fix `replicas`")]
    return list(await asyncio.gather(*(_replica(pool, url) for url in found)))


async def _replica(pool: Pool, url: str) -> Finding:
    """A server that is well, takes the key, and serves the pool's base model."""
    part, place = f"pool {pool.name}", shown(url)
    try:
        health = await _get(f"{url}/health", pool.api_key)
        models = await _get(f"{url}/v1/models", pool.api_key)
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as exc:
        return Finding(part, False, f"{place}: {why(exc)}; start the server or fix `pools`")
    if health.status_code >= 500:
        return Finding(part, False, f"{place}/health answers {health.status_code}; look at the server's log")
    if models.status_code in (401, 403):
        return Finding(part, False, f"{place} refuses the key; set the pool's api_key to vLLM's --api-key")
    served = _names(models)
    if pool.base_model not in served:
        names = ", ".join(sorted(served)[:3]) or f"no models (status {models.status_code})"
        says = f"serves {names}, not base_model '{pool.base_model}'; set it to vLLM's --served-model-name"
        return Finding(part, False, f"{place} {says}")
    return Finding(part, True, place)


async def _embedder(settings: Settings, chosen: EmbedderSettings) -> list[Finding]:
    """One text is embedded."""
    part = "embedder"
    places = {name: (pool.replicas[0], pool.api_key) for name, pool in settings.all_pools().items()}
    places |= {name: (provider.base_url, provider.api_key) for name, provider in settings.all_providers().items()}
    if chosen.upstream not in places:
        says = f"cache.embedder.upstream: no provider or pool is called '{chosen.upstream}'"
        return [Finding(part, False, says)]
    base_url, api_key = places[chosen.upstream]
    service = EmbeddingService(base_url, chosen.model, chosen.dimensions, api_key, chosen.timeout_seconds)
    try:
        async with asyncio.timeout(PROBE_SECONDS), RemoteEmbedder.open(service) as embedder:
            await embedder.embed(["hello"])
    except (EmbedderFailed, TimeoutError) as exc:
        says = str(exc) or "no answer in time"
        return [Finding(part, False, f"{chosen.upstream}: {says}; check cache.embedder")]
    return [Finding(part, True, f"{chosen.model} of {chosen.upstream}")]


async def _issuer(url: str) -> list[Finding]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            keys = (await key_set(url)).get("keys")
    except (OSError, ValueError) as exc:
        return [Finding("issuer", False, f"{shown(url)}: {why(exc, str(exc))}; fix identity.issuers jwks_url")]
    ok = isinstance(keys, list) and bool(keys)
    return [Finding("issuer", ok, shown(url) if ok else f"{shown(url)} has no keys; fix identity.issuers jwks_url")]


async def _collector(endpoint: str) -> list[Finding]:
    """Whatever it answers to a message without spans: what counts is that somebody is there."""
    url = traces_url(endpoint)
    try:
        async with _client() as client:
            await client.post(url, content=b"", headers={"content-type": "application/x-protobuf"})
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        return [Finding("traces", False, f"{shown(url)}: {why(exc)}; start the collector or fix otlp_endpoint")]
    return [Finding("traces", True, shown(url))]


async def _get(url: str, key: str | None) -> httpx2.Response:
    async with asyncio.timeout(PROBE_SECONDS), _client() as client:
        return await client.get(url, headers={} if key is None else {"authorization": f"Bearer {key}"})


def _client() -> httpx2.AsyncClient:
    """As the gateway calls: through no proxy, following nowhere."""
    return httpx2.AsyncClient(timeout=PROBE_SECONDS, trust_env=False, follow_redirects=False)


def _names(answer: httpx2.Response) -> set[str]:
    try:
        return {str(card["id"]) for card in json.loads(answer.content)["data"]}
    except (ValueError, KeyError, TypeError):
        return set()
