"""The resolver: a name that vLLM does not know becomes exactly the adapter whose content it names, or nothing."""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from tunegate_vllm.store import AdapterStore

DEFAULT_MAX_BYTES = 64 * 1024**3


class ContentResolver(LoRAResolver):
    """Resolves content addresses from an `AdapterStore`."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter's request, or None; reading and hashing happen in a thread, for the event loop serves calls."""
        del base_model_name  # the gateway has judged the adapter against its base when it was registered
        path = await asyncio.to_thread(self._store.path, lora_name)
        if path is None:
            return None
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(path))  # vLLM sets the number itself


@lru_cache(maxsize=1)
def store() -> AdapterStore | None:
    """The store that the environment names, one for each process."""
    folder = os.environ.get("TUNEGATE_ADAPTERS")
    if not folder:
        return None
    bound = int(os.environ.get("TUNEGATE_ADAPTERS_MAX_BYTES", str(DEFAULT_MAX_BYTES)))
    return AdapterStore(Path(folder), url=os.environ.get("TUNEGATE_ADAPTERS_URL"), max_bytes=bound)


def install_resolver() -> None:
    """Register it, once."""
    found = store()
    if found is not None and "tunegate" not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver("tunegate", ContentResolver(found))
