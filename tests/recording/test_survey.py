"""What waits in the stores is known at a scrape, and unknown while the stores are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.observability.metrics import Metrics
from app.observability.surveyed import Surveyed
from app.recording.survey import Survey
from app.storage import outbox
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.outbox import Event
from app.storage.redis import RedisDown
from app.storage.tables import fine_tuning_jobs
from app.storage.tuning import jobs, leases
from app.storage.tuning.jobs import Budget, Job
from app.storage.tuning.leases import Terms, Trainer
from app.types import Limits
from tests.observability.test_metrics import value

NOW = 1_800_000_000.0
TERMS = Terms(60.0, 3)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database with one tenant."""
    async with database(database_url) as opened:
        async with changing(opened) as change:
            await tenants.create(change, Tenant("acme", None, Limits()))
        yield opened


class Seen:
    """A survey with a clock, and promises that tests replace."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.now = NOW
        self.promises: Mapping[tuple[str, str], int] | Exception = {}
        self.survey = Survey(engine, self._promises, every_seconds=0.01, clock=lambda: self.now)

    async def _promises(self) -> Mapping[tuple[str, str], int]:
        if isinstance(self.promises, Exception):
            raise self.promises
        return self.promises

    async def job(self, name: str, age: float) -> None:
        """A queued job of that age."""
        made = Job(
            id=name,
            tenant_id="acme",
            model="m",
            base="base",
            pool="main",
            provider=None,
            name=name,
            method="supervised",
            seed=1,
            training_file="file-1",
            created_at=NOW - age,
            estimated_tokens=1,
            hyperparameters={},
            metadata={},
            recipe=None,
            suffix=None,
            validation_file=None,
        )
        async with self.engine.begin() as connection:
            await jobs.create(connection, made, Budget(10))

    async def claim(self, trainer: str, at: float) -> Job | None:
        """What a trainer gets."""
        async with self.engine.begin() as connection:
            return await leases.claim(connection, Trainer(trainer, ["base"]), TERMS, now=at)


@pytest.fixture
def seen(engine: AsyncEngine) -> Seen:
    """A survey of this database."""
    return Seen(engine)


async def test_an_empty_installation_has_zeros(seen: Seen) -> None:
    """Nothing waits, and that is known."""
    await seen.survey.look_at_work()
    assert seen.survey.seen == Surveyed(
        jobs={"queued": 0, "running": 0, "paused": 0, "lost": 0},
        oldest_queued_seconds=0.0,
        deliveries=0,
        deliveries_late_seconds=0.0,
    )


async def test_jobs_are_counted_by_state(seen: Seen) -> None:
    """Queued with the longest wait, running, paused, and those whose trainer is lost; ended ones are not looked at."""
    for name, age in (("ended", 900), ("lost", 800), ("running", 700), ("paused", 600), ("old", 500), ("young", 10)):
        await seen.job(name, age)
    ended = await seen.claim("a", NOW - 300)
    assert ended is not None
    async with seen.engine.begin() as connection:
        await jobs.cancel(connection, "acme", ended.id, now=NOW)
        await jobs.pause(connection, "acme", "paused", now=NOW)
    await seen.claim("b", NOW - 100)
    await seen.claim("c", NOW - 50)
    await seen.survey.look_at_work()
    assert seen.survey.seen.jobs == {"queued": 2, "running": 1, "paused": 1, "lost": 1}
    assert seen.survey.seen.oldest_queued_seconds == 500.0


async def test_a_job_from_the_version_before_waits_since_its_creation(seen: Seen) -> None:
    """And one that was given back since then, however old it is."""
    await seen.job("given-back", 9000)
    await seen.job("untouched", 70)
    async with seen.engine.begin() as connection:
        here = fine_tuning_jobs.c.id == "given-back"
        await connection.execute(update(fine_tuning_jobs).where(here).values(stage_since=NOW - 30))
    await seen.survey.look_at_work()
    assert seen.survey.seen.oldest_queued_seconds == 70.0


async def test_deliveries_are_late_only_when_they_are_due(seen: Seen) -> None:
    """One that waits for its next try is waiting and not late; one that nobody sends is."""
    async with seen.engine.begin() as connection:
        await outbox.add_endpoint(connection, "acme", "https://there.example/hooks", ("*",), now=NOW)
        await outbox.announce(connection, "acme", Event.of("acme", "x", "kind", {}, at=NOW + 50))
    await seen.survey.look_at_work()
    assert (seen.survey.seen.deliveries, seen.survey.seen.deliveries_late_seconds) == (1, 0.0)
    seen.now = NOW + 80
    await seen.survey.look_at_work()
    assert (seen.survey.seen.deliveries, seen.survey.seen.deliveries_late_seconds) == (1, 30.0)


async def test_what_cannot_be_read_has_no_series(seen: Seen) -> None:
    """SQL away: no jobs and deliveries; Redis away: no promises; what the other store holds stays known."""
    metrics = Metrics()
    metrics.watch(surveyed=lambda: seen.survey.seen)
    seen.promises = {("support", "off"): 2}
    await seen.survey.look_at_work()
    await seen.survey.look_at_promises()
    assert value(metrics, "gateway_training_jobs", state="queued") == 0
    assert value(metrics, "gateway_cache_promises", route="support", standing="off") == 2
    async with seen.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE webhook_deliveries RENAME TO away")
    await seen.survey.look_at_work()
    assert value(metrics, "gateway_training_jobs", state="queued") is None
    assert value(metrics, "gateway_webhook_deliveries_waiting") is None
    assert value(metrics, "gateway_cache_promises", route="support", standing="off") == 2
    seen.promises = RedisDown("gone")
    await seen.survey.look_at_promises()
    assert value(metrics, "gateway_cache_promises", route="support", standing="off") is None


async def test_it_looks_until_it_is_stopped(seen: Seen) -> None:
    """Both kinds of look come again: what happened after the first one is seen."""
    running = asyncio.create_task(seen.survey.run())
    async with asyncio.timeout(60):
        while seen.survey.seen.promises is None:
            await asyncio.sleep(0.01)
        await seen.job("later", 5)
        seen.promises = {("support", "raised"): 1}
        while (seen.survey.seen.jobs or {}).get("queued") != 1 or not seen.survey.seen.promises:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
