"""What a finished job leaves: a registered version (or a provider's model) and a route that names exactly that.

The route's target is an alias of the job's own, `ftjob-<short id>`, which nothing but a deliberate administrative act
ever moves; so the public name means the version that this job made, whatever is trained later under the same suffix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest
from app.storage.administration import adapters, lifecycle, routes
from app.storage.administration.change import Change
from app.storage.administration.lifecycle import Alias
from app.storage.administration.routes import StoredRoute
from app.storage.spec import RouteJson, TargetJson, VariantJson
from app.storage.tuning import leases
from app.storage.tuning.jobs import Job
from app.types import AdapterVersion, Pool

SHORT = 12  # hex digits of a job's id: 48 bits, within one tenant
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._@/-]+")
_UNSLUGGED = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trainer hands in for a job, besides the files."""

    trained_tokens: int
    version: AdapterVersion
    lineage: Mapping[str, Any]
    signed_by: str | None = None


def slug(text: str, fallback: str) -> str:
    """Small letters, digits and single hyphens, as the artifact store names adapters."""
    return _UNSLUGGED.sub("-", text.lower()).strip("-")[:63].strip("-") or fallback


def route_name(job: Job) -> str:
    """`ft:<base>:<tenant>:<suffix>:<short id>`, in OpenAI's pattern and in the characters of a route's name."""
    base = _UNNAMEABLE.sub("-", job.base).strip("/-")[:80].rstrip("/") or "model"
    suffix = slug(job.suffix or "", "")[:40].strip("-")
    return f"ft:{base}:{job.tenant_id}:{suffix}:{short_id(job)}"


def short_id(job: Job) -> str:
    """The part of a job's id that names what it made."""
    return job.id.removeprefix("ftjob-")[:SHORT]


def pool_for(job: Job, version: AdapterVersion, pools: Sequence[Pool]) -> Pool:
    """The pool of the job's base with the smallest slots that hold this rank; raises InvalidRequest without one."""
    fitting = [pool for pool in pools if pool.base_model == job.base and pool.can_serve(version)]
    if not fitting:
        message = f"artifact: no pool of {job.base} serves adapters of rank {version.rank}; train with a lower rank."
        raise InvalidRequest(message, param="artifact")
    return min(fitting, key=lambda pool: (pool.max_lora_rank is None, pool.max_lora_rank or 0, pool.name != job.pool))


async def register(change: Change, job: Job, trained: Trained, pools: Sequence[Pool]) -> Job:
    """Register the version, let the job's route name it, and end the job: one transaction, for the holder only."""
    held = await leases.hold(change.connection, job.id, job.lease_token)
    version = trained.version
    pool = pool_for(held, version, pools)
    await adapters.register(change, version, lineage=trained.lineage, signed_by=trained.signed_by)
    alias = f"ftjob-{short_id(held)}"
    await lifecycle.point(change, Alias(held.tenant_id, version.name, alias, version.id))
    name = await _put_route(change, held, TargetJson(pool=pool.name, adapter=version.name, alias=alias))
    result = {
        "fine_tuned_model": name,
        "version_id": version.id,
        "adapter_sha256": version.sha256,
        "trained_tokens": trained.trained_tokens,
    }
    return await leases.succeed(change.connection, held, result, now=change.now)


async def register_provider_model(change: Change, job: Job, model: str, trained_tokens: int) -> Job:
    """Let the job's route name a model that its provider has made, and end the job."""
    held = await leases.hold(change.connection, job.id, job.lease_token)
    name = await _put_route(change, held, TargetJson(provider=held.provider, model=model))
    result = {"fine_tuned_model": name, "version_id": model[:160], "trained_tokens": trained_tokens}
    return await leases.succeed(change.connection, held, result, now=change.now)


async def _put_route(change: Change, job: Job, target: TargetJson) -> str:
    spec = RouteJson(variants=[VariantJson(name="fine-tuned", weight=100, target=target)])
    route, _ = await routes.put(change, StoredRoute(route_name(job), job.tenant_id, spec))
    return route.name
