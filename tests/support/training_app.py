"""Files, fine-tuning and the training API over a real database and folder, in process, with a clock of its own."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import errors, files, training
from app.api.admin.services import AdminServices
from app.api.fine_tuning import jobs
from app.api.fine_tuning.services import FileLimits, TrainingServices
from app.auth.api_keys import bearer
from app.errors import Unauthenticated
from app.routing.prices import PriceList
from app.storage.administration import routes, tenants
from app.storage.administration.change import changing
from app.storage.administration.routes import StoredRoute
from app.storage.administration.tenants import Tenant
from app.storage.objects.local import LocalObjects
from app.storage.policy import PolicyReader
from app.storage.spec import RouteJson, TargetJson, VariantJson
from app.storage.tuning.jobs import Budget
from app.storage.tuning.leases import Terms
from app.types import Limits, Operation, Pool, Price, Principal
from tests.support.admin_app import services as admin_services

TRAINER_SECRET = "a-trainer-secret-of-the-tests"
ALL = frozenset(Operation)


@dataclass
class Clock:
    """An instant that tests move."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Now."""
        return self.now


@dataclass
class TrainingApp:
    """The application, and who may call it: a key is its tenant's name unless `principals` says otherwise."""

    services: TrainingServices
    clock: Clock
    policy: PolicyReader
    folder: Path
    principals: dict[str, Principal]
    base: str
    whole: FastAPI
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    @property
    def provider(self) -> str:
        """The provider that a trainer fine-tunes at; like the base, no other test's."""
        return f"at-{self.base}"

    @property
    def engine(self) -> AsyncEngine:
        """The database."""
        return self.services.admin.engine

    async def tenant(self, name: str) -> httpx2.AsyncClient:
        """A new tenant and its client."""
        async with changing(self.engine) as change:
            await tenants.create(change, Tenant(name, None, Limits()))
        await self.policy.refresh()
        self.principals[name] = Principal(name, None, f"key_{name}", ALL, None, ())
        return self.client(name)

    async def tenant_at_provider(self, name: str, model: str = "gpt") -> httpx2.AsyncClient:
        """A new tenant whose route `theirs` is a provider's model, and its client."""
        client = await self.tenant(name)
        arm = VariantJson(name="only", weight=1, target=TargetJson(provider=self.provider, model=model))
        async with changing(self.engine) as change:
            await routes.put(change, StoredRoute("theirs", name, RouteJson(variants=[arm])))
        await self.policy.refresh()
        return client

    def client(self, key: str | None, **services: Any) -> httpx2.AsyncClient:
        """A client with this key; `services` replaces parts of the application for it."""
        app = application(replace(self.services, **services)) if services else self.whole
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        self.clients.append(httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers))
        return self.clients[-1]

    def trainer(self, **services: Any) -> httpx2.AsyncClient:
        """A client with the trainer secret."""
        return self.client(TRAINER_SECRET, **services)

    async def job(self, client: httpx2.AsyncClient, file: str | None = None, **fields: Any) -> dict[str, Any]:
        """A new job on the base model."""
        body = {"model": self.base, "training_file": file or await uploaded(client), **fields}
        answer = await client.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def claim(self, trainer: httpx2.AsyncClient, name: str = "one", **fields: Any) -> dict[str, Any] | None:
        """What a trainer gets."""
        body = {"trainer": name, "bases": [self.base], "wait_seconds": 0, **fields}
        answer = await trainer.post("/training/v1/claim", json=body)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else None

    async def close(self) -> None:
        """Close every client."""
        for client in self.clients:
            await client.aclose()


def application(services: TrainingServices) -> FastAPI:
    """An application of files, fine-tuning and the training API."""
    app = FastAPI(redirect_slashes=False)
    app.state.training = services
    for part in (files.uploads, files.router, jobs.router, training.router, training.blobs):
        app.include_router(part)
    errors.install(app)
    return app


def training_app(engine: AsyncEngine, folder: Path, *, base: str = "base", **fields: Any) -> TrainingApp:
    """An application with one pool, `main`, and one provider that a trainer fine-tunes at."""
    clock, principals = Clock(), dict[str, Principal]()
    policy = PolicyReader(engine)

    async def changed() -> None:
        await policy.refresh()

    async def authenticate(headers: Mapping[bytes, bytes]) -> Principal:
        known = principals.get((bearer(headers) or b"").decode())
        if known is None:
            raise Unauthenticated("The API key is not known here.")
        return known

    prices = PriceList({"main/*": Price(1, 1), f"at-{base}/*": Price(1, 1), "small/*": Price(1, 1)})
    admin: AdminServices = admin_services(engine, folder, changed=changed, prices=prices)
    given: dict[str, Any] = {
        "admin": admin,
        "authenticate": authenticate,
        "policy": policy.current,
        "refresh": policy.refresh,
        "objects": LocalObjects(folder),
        "pools": {"main": Pool("main", ("http://127.0.0.1:9",), base, max_lora_rank=16)},
        "trainer_secret": TRAINER_SECRET,
        "terms": Terms(60.0, 3),
        "limits": FileLimits(1_000_000, 3_000_000, 1_000_000),
        "budget": lambda _: Budget(3),
        "providers": frozenset({f"at-{base}"}),
        "clock": clock,
    }
    services = TrainingServices(**{**given, **fields})
    return TrainingApp(services, clock, policy, folder, principals, base, application(services))


async def uploaded(client: httpx2.AsyncClient, content: bytes = b"x" * 400, **fields: str) -> str:
    """The id of a new file."""
    sent = {"purpose": "fine-tune", **fields}
    answer = await client.post("/v1/files", data=sent, files={"file": ("train.jsonl", content)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            made.addfile(entry, io.BytesIO(content))
    return out.getvalue()
