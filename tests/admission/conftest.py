"""A connected store and an admission over it, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.admission.leases import Leases
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.storage.redis import RedisStore
from tests.admission.cases import Clock


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store with a timeout that a busy machine does not reach."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=10) as connected:
        yield connected


@pytest.fixture
def admission(store: RedisStore) -> RedisAdmission:
    """An admission with a lease of ten seconds."""
    return RedisAdmission(store, AdmissionConfig(lease_seconds=10))


@pytest.fixture
def leases(store: RedisStore) -> Leases:
    """A sweeper for these leases."""
    return Leases(store, lease_seconds=10)


@pytest.fixture
async def clock(admission: RedisAdmission, leases: Leases, store: RedisStore) -> Clock:
    """Redis' clock as this admission and its sweeper see it, under the test's hand."""
    return await Clock.over(admission, leases, store)
