"""Addresses made from the configuration: built once per upstream and model, then kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b

from app.errors import Unavailable
from app.placement.replica import Replica
from app.types import Endpoint, Pool, Provider, Target

MAX_KEPT = 10_000


class Endpoints:
    """The addresses in use; the number kept is bounded, for adapter versions come and go."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._kept: dict[tuple[str, str, str, str | None], Endpoint] = {}

    def of_provider(self, target: Target) -> Endpoint:
        """A provider's address, or the gateway's own embedder; raises Unavailable for what is not configured."""
        key = (target.upstream, "", target.model, None)
        if target.is_embedded:
            return self._keep(key, lambda: Endpoint(target.upstream, "", target.model, {}))
        provider = self._providers.get(target.upstream)
        if provider is None:
            raise Unavailable(f"The provider '{target.upstream}' is not configured here.", retry_after_seconds=30)
        endpoint = self._keep(key, lambda: _endpoint(provider, provider.base_url, target.model))
        if target.credential is None:
            return endpoint
        own = {"authorization": f"Bearer {target.credential}"}  # the caller's own key: used once, never kept
        return replace(endpoint, headers={**endpoint.headers, **own}, is_callers_own=True)

    def of_replica(self, replica: Replica, target: Target) -> Endpoint:
        """A server's address under the exact version's name, with the tenant's own salt for the prefix cache."""
        model = target.adapter.id if target.adapter is not None else target.model
        key = (target.upstream, replica.url, model, target.tenant_id)
        made = partial(_endpoint, replica.pool, replica.url, model)
        return self._keep(key, lambda: replace(made(), replica=replica.url, cache_salt=_salt(target.tenant_id)))

    def _keep(self, key: tuple[str, str, str, str | None], make: Callable[[], Endpoint]) -> Endpoint:
        endpoint = self._kept.get(key)
        if endpoint is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            endpoint = self._kept[key] = make()
        return endpoint


def _salt(tenant_id: str | None) -> str | None:
    """The same in every gateway process; callers cannot send one of their own, so it need not be secret."""
    if tenant_id is None:
        return None
    return blake2b(tenant_id.encode(), digest_size=16, person=b"tg-cache-salt").hexdigest()


def _endpoint(upstream: Provider | Pool, base_url: str, model: str) -> Endpoint:
    headers = {} if upstream.api_key is None else {"authorization": f"Bearer {upstream.api_key}"}
    return Endpoint(
        upstream=upstream.name,
        base_url=base_url,
        model=model,
        headers=headers,
        connect_timeout_seconds=upstream.connect_timeout_seconds,
        first_byte_timeout_seconds=upstream.first_byte_timeout_seconds,
        idle_timeout_seconds=upstream.idle_timeout_seconds,
        total_timeout_seconds=upstream.total_timeout_seconds,
    )
