"""Addresses made from the configuration: built once per upstream and model, then kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.errors import Unavailable
from app.placement.replicas import Replica
from app.types import Endpoint, Pool, Provider, Target

MAX_KEPT = 10_000


class Endpoints:
    """The addresses in use; the number kept is bounded, for adapter versions come and go."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._kept: dict[tuple[str, str, str], Endpoint] = {}

    def of_provider(self, target: Target) -> Endpoint:
        """A provider's address, or the gateway's own embedder; raises Unavailable for what is not configured."""
        if target.is_embedded:
            return self._keep(target, "", lambda: Endpoint(target.upstream, "", target.model, {}))
        provider = self._providers.get(target.upstream)
        if provider is None:
            raise Unavailable(f"The provider '{target.upstream}' is not configured here.", retry_after_seconds=30)
        return self._keep(target, "", lambda: _endpoint(provider, provider.base_url, target.model, None))

    def of_replica(self, replica: Replica, target: Target) -> Endpoint:
        """A server's address under the exact version's name."""
        model = target.adapter.id if target.adapter is not None else target.model
        return self._keep(target, replica.url, lambda: _endpoint(replica.pool, replica.url, model, replica.url))

    def _keep(self, target: Target, url: str, make: Callable[[], Endpoint]) -> Endpoint:
        key = (target.upstream, url, target.adapter.id if target.adapter is not None else target.model)
        endpoint = self._kept.get(key)
        if endpoint is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            endpoint = self._kept[key] = make()
        return endpoint


def _endpoint(upstream: Provider | Pool, base_url: str, model: str, replica: str | None) -> Endpoint:
    headers = {} if upstream.api_key is None else {"authorization": f"Bearer {upstream.api_key}"}
    return Endpoint(
        upstream=upstream.name,
        base_url=base_url,
        model=model,
        headers=headers,
        replica=replica,
        connect_timeout_seconds=upstream.connect_timeout_seconds,
        first_byte_timeout_seconds=upstream.first_byte_timeout_seconds,
        idle_timeout_seconds=upstream.idle_timeout_seconds,
        total_timeout_seconds=upstream.total_timeout_seconds,
    )
