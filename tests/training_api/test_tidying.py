"""Tidying, however much there is to look at, on both databases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from pathlib import Path

from sqlalchemy import delete, insert

from app.storage.objects.staging import STALE_SECONDS
from app.storage.tables import files as files_table
from app.storage.tuning import files, jobs
from app.storage.tuning.jobs import Budget
from app.storage.tuning.sweeper import Sweeper
from app.storage.tuning.tenancy import lock
from tests.support.training_app import TrainingApp, uploaded

MANY = 33_000  # more than the parameters of one statement: 32,767 for asyncpg, 32,766 for a usual SQLite


async def test_more_names_than_a_statement_takes_are_tidied(app: TrainingApp) -> None:
    """All files that are known stay; the one that nobody names goes."""
    tenant = f"tidy-{app.base}"
    file_id = await uploaded(await app.tenant(tenant))
    names = [f"file-{app.base}-{number}" for number in range(MANY)]
    async with app.engine.begin() as connection:
        file = asdict(await files.get(connection, tenant, file_id, now=app.clock.now))
        await connection.execute(insert(files_table), [file | {"id": name} for name in names])
    await asyncio.to_thread(_folders, app.folder / "files", [*names, "file-orphan"])
    late = time.time() + STALE_SECONDS + 1
    await Sweeper(app.engine, app.services.objects, app.services.terms, clock=lambda: late).tidy()
    left = await asyncio.to_thread(lambda: {path.name for path in (app.folder / "files").iterdir()})
    assert left == {file_id, *names}
    async with app.engine.begin() as connection:
        await connection.execute(delete(files_table).where(files_table.c.tenant_id == tenant))


async def test_a_file_that_expires_while_a_job_is_created_with_it_stays(app: TrainingApp) -> None:
    """The sweep comes between the look at the file and the job's commit: it waits, and finds the file needed."""
    tenant = f"late-{app.base}"
    client = await app.tenant(tenant)
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file_id = await uploaded(client, **expiry)
    other = await app.job(client)
    sweeper = Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock)
    async with app.engine.begin() as connection:
        await lock(connection, tenant)
        await files.get(connection, tenant, file_id, now=app.clock.now)
        app.clock.now += 3601
        sweep = asyncio.create_task(sweeper.sweep())
        await asyncio.wait({sweep}, timeout=0.5)
        job = replace(await jobs.get(connection, tenant, other["id"]), id=f"ftjob-{app.base}", training_file=file_id)
        await jobs.create(connection, job, Budget(10))
    await sweep
    claimed = [await app.claim(app.trainer(), f"trainer-{number}") for number in range(2)]
    assert {one["files"]["training"]["id"] for one in claimed if one is not None} == {file_id, other["training_file"]}


def _folders(place: Path, names: list[str]) -> None:
    for name in names:
        (place / name).mkdir(parents=True)
