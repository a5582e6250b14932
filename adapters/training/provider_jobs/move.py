"""From a provider's fine-tuned model to an adapter of our own, behind the same route, on the same dataset version.

The gateway offers OpenAI's fine-tuning API itself, so the training is the same job at another base URL, with the same
journal and the same safety. Then an alias is set and the route's targets that name the old model are replaced; the
other variants, weights and fallbacks stay. Each step can be repeated: a move that was cut off is finished by the same
command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from adapters.training.provenance import file_sha256
from adapters.training.provider_jobs.errors import ProviderAway, ProviderRefused
from adapters.training.provider_jobs.job import follow, result, start
from adapters.training.provider_jobs.journal import JobRequest, Journal, Record
from adapters.training.provider_jobs.provider import Provider, Sleep

ALIAS = "champion"


@dataclass(frozen=True, slots=True)
class Move:
    """Where to: base model at the gateway, adapter name, and the route (the tenant's own or a shared one)."""

    gateway: str
    tenant: str
    base: str
    adapter: str
    route: str
    tenant_route: bool = True


@dataclass(frozen=True, slots=True)
class Moved:
    """The version that serves the route now, and how many targets were turned to it (0: done before)."""

    version: str
    replaced: int


def request_for(record: Record, wanted: Move) -> JobRequest:
    """The same data and epochs, another base; refused when the file is no longer the one that was trained on."""
    path = Path(record.training_path)
    if not path.is_file() or file_sha256(path) != record.request.training_sha256:
        raise ProviderRefused(
            f"{path}: not the file that {record.model or record.job_id} was trained on; restore it first"
        )
    return msgspec.structs.replace(
        record.request,
        base_url=wanted.gateway,
        model=wanted.base,
        suffix=wanted.adapter,
        learning_rate_multiplier=0.0,
        attempt=0,
    )


async def train(provider: Provider, journal: Journal, record: Record, sleep: Sleep, poll_seconds: float = 5.0) -> str:
    """Train at the gateway; returns the name of the route that the job has made."""
    validation = Path(record.validation_path) if record.validation_path else None
    await start(provider, journal, Path(record.training_path), validation)
    async for _ in follow(provider, journal, sleep, poll_seconds):
        pass
    return result(journal.record)


async def switch(admin: httpx2.AsyncClient, wanted: Move, made: str, old_model: str) -> Moved:
    """Let the alias mean the version behind the job's route, and turn the old route to it. Done twice, it is done once.

    The job's route says which adapter was registered and in which pool the gateway serves it.
    """
    own = f"/admin/v1/tenants/{wanted.tenant}"
    target = (await _call(admin, "GET", f"{own}/routes/{made}"))["spec"]["variants"][0]["target"]
    adapter = f"{own}/adapters/{target['adapter']}"
    version = await _version(admin, adapter, target["alias"])
    await _call(admin, "PUT", f"{adapter}/aliases/{ALIAS}", {"version": version})
    place = f"{own if wanted.tenant_route else '/admin/v1'}/routes/{wanted.route}"
    stored = await _call(admin, "GET", place)
    new = {"pool": target["pool"], "adapter": target["adapter"], "alias": ALIAS}
    spec, replaced = turned(stored["spec"], old_model, new, wanted.route)
    if replaced:
        await _call(admin, "PUT", place, spec)
    return Moved(version, replaced)


def turned(spec: Mapping[str, Any], old_model: str, new: Mapping[str, str], route: str) -> tuple[dict[str, Any], int]:
    """The route with every target on the old model replaced; ProviderRefused when it names neither old nor new."""
    replaced, there = 0, False
    variants = []
    for variant in spec["variants"]:
        made = dict(variant)
        for field in ("target", "fallback"):
            target = variant.get(field)
            if target is not None and target.get("model") == old_model:
                made[field], replaced = new, replaced + 1
            there = there or (target is not None and target.get("adapter") == new["adapter"])
        variants.append(made)
    if not replaced and not there:
        raise ProviderRefused(f"route {route}: no target of it is {old_model}; name the route that uses it")
    return {**spec, "variants": variants}, replaced


async def _version(admin: httpx2.AsyncClient, adapter: str, alias: str) -> str:
    """The version that an alias of the adapter means."""
    after = ""
    while True:
        page = await _call(admin, "GET", f"{adapter}/versions{after}")
        for version in page["data"]:
            if alias in version["aliases"]:
                return str(version["id"])
        if not page["has_more"]:
            raise ProviderRefused(
                f"{adapter}: no version has the alias {alias} any more; start the move again with another --adapter"
            )
        after = f"?after={page['data'][-1]['id']}"


async def _call(admin: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    try:
        answer = await admin.request(method, path, json=body)
    except httpx2.TransportError as exc:
        raise ProviderAway(f"the gateway does not answer ({type(exc).__name__}); run the same command again") from exc
    if not answer.is_success:
        raise ProviderRefused(f"the gateway refused {method} {path} with {answer.status_code}: {answer.text[:300]}")
    return answer.json() if answer.content else None
