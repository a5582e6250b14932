"""What a finished job leaves behind: one version, one alias, one route that names exactly it, and a told webhook."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from app.storage import outbox
from app.storage.administration import routes
from app.storage.administration.change import changing
from app.storage.administration.routes import StoredRoute
from app.storage.artifacts import content_hash
from app.storage.policy import PolicyReader
from app.storage.signatures import Signers
from app.storage.spec import RouteJson, TargetJson, VariantJson
from app.storage.tables import aliases, audit_log, webhook_deliveries
from app.types import AdapterTarget, Pool, ProviderTarget
from tests.storage.adapter import folder as adapter_folder
from tests.support.training_app import TrainingApp, tar, uploaded

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant of the test's own."""
    return await app.tenant(f"done{next(_numbers)}")


@dataclass
class Work:
    """A claimed job and its trainer."""

    job: str
    tenant: str
    trainer: httpx2.AsyncClient

    @property
    def path(self) -> str:
        """The job in the training API."""
        return f"/training/v1/jobs/{self.job}"

    async def put(self, content: bytes) -> str:
        """Upload a blob; its hash."""
        sha = hashlib.sha256(content).hexdigest()
        answer = await self.trainer.put(f"{self.path}/blobs/{sha}", content=content)
        assert answer.status_code in (200, 201), answer.text
        return sha

    async def complete(self, **body: Any) -> httpx2.Response:
        """Ask for the end."""
        return await self.trainer.post(f"{self.path}/complete", json={"trained_tokens": 4821, **body})


async def claimed(app: TrainingApp, acme: httpx2.AsyncClient, name: str = "one", **fields: Any) -> Work:
    """A new job in the hands of a trainer."""
    job = await app.job(acme, **fields)
    got = await app.claim(app.trainer(), name, providers=[app.provider])
    assert got is not None
    assert got["job"]["id"] == job["id"]
    trainer = app.trainer()
    trainer.headers["x-fencing-token"] = str(got["lease"]["token"])
    return Work(job["id"], job["organization_id"], trainer)


def adapter(
    app: TrainingApp, path: Path, config: Any = None, **manifest: Any
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of an artifact, and what its completion says of it."""
    made = adapter_folder(path, config)
    body = {"base_model": app.base, "dataset": "file@1", "metrics": {"train_loss": 0.5}, **manifest}
    members = {name: (made / name).read_bytes() for name in FILES}
    members["manifest.json"] = httpx2.Request("POST", "http://x", json=body).content
    return members, {"adapter_sha256": content_hash(made), "manifest": body}


async def test_a_completion_registers_a_version_that_a_route_names(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Version, alias of the job's own, tenant route in OpenAI's pattern, in the policy at once; job and log say so."""
    work = await claimed(app, acme, suffix="Help Desk")
    members, said = adapter(app, tmp_path / "made")
    answer = (await work.complete(artifact=await work.put(tar(members)), **said)).json()
    short = work.job.removeprefix("ftjob-")[:12]
    name = f"ft:{app.base}:{work.tenant}:help-desk:{short}"
    version = f"{work.tenant}--help-desk@{said['adapter_sha256'][:12]}"
    assert answer == {"version": version, "fine_tuned_model": name}
    job = (await acme.get(f"{JOBS}/{work.job}")).json()
    assert (job["status"], job["fine_tuned_model"], job["trained_tokens"]) == ("succeeded", name, 4821)
    route = app.policy.current().route(work.tenant, name)
    assert route is not None
    target = route.variants[0].target
    assert target == AdapterTarget("main", "help-desk", f"ftjob-{short}")
    found = app.policy.current().adapter(work.tenant, "help-desk", f"ftjob-{short}")
    assert found is not None
    assert (found.id, found.sha256) == (version, said["adapter_sha256"])
    assert (Path(found.path) / FILES[1]).read_bytes() == members[FILES[1]]
    log = (await acme.get(f"{JOBS}/{work.job}/events", params={"limit": 2})).json()["data"]
    assert [event["message"] for event in log] == [
        "The job has successfully completed",
        f"New fine-tuned model created: {name}",
    ]
    async with app.engine.connect() as connection:
        who = await connection.scalar(
            select(audit_log.c.who).where(audit_log.c.object == f"adapter_versions/{version}")
        )
    assert who == "trainer"


async def test_a_model_that_a_gateway_shows_can_be_called_there(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Another gateway has not heard of the change yet: asked for the job, it catches up before it answers."""
    work = await claimed(app, acme)
    members, said = adapter(app, tmp_path / "made")
    late = PolicyReader(app.engine)
    await late.refresh()
    name = (await work.complete(artifact=await work.put(tar(members)), **said)).json()["fine_tuned_model"]
    assert late.current().route(work.tenant, name) is None
    elsewhere = app.client(work.tenant, policy=late.current, refresh=late.refresh)
    assert (await elsewhere.get(f"{JOBS}/{work.job}")).json()["fine_tuned_model"] == name
    assert late.current().route(work.tenant, name) is not None


async def test_completions_asked_at_once_are_answered_alike(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """A trainer that asks again while it is being answered hears the same, not that its job is over."""
    for kind in range(3):
        work = await claimed(app, acme)
        members, said = adapter(app, tmp_path / f"made-{kind}")
        artifact = await work.put(tar(members))
        answers = await asyncio.gather(*(work.complete(artifact=artifact, **said) for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1


async def test_a_completion_whose_answer_was_lost_is_answered_again(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """The same hash: the same answer, whatever the token; another hash is 409 `job_finished`; one alias is made."""
    work = await claimed(app, acme)
    members, said = adapter(app, tmp_path / "made")
    said["artifact"] = await work.put(tar(members))
    first = await work.complete(**said)
    work.trainer.headers["x-fencing-token"] = "77"
    again = await work.complete(**said)
    assert (again.status_code, again.json()) == (200, first.json())
    other = await work.complete(**said | {"adapter_sha256": "0" * 64})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "job_finished")
    async with app.engine.connect() as connection:
        mine = await connection.scalars(select(aliases.c.alias).where(aliases.c.tenant_id == work.tenant))
        assert len(mine.all()) == 1


async def test_a_completion_and_a_cancellation_at_once_end_a_job_once(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Either the route is there and the job succeeded, or neither: five rounds at the same moment."""
    members, said = adapter(app, tmp_path / "made")
    for _ in range(5):
        work = await claimed(app, acme)
        said["artifact"] = await work.put(tar(members))
        done, cancelled = await asyncio.gather(work.complete(**said), acme.post(f"{JOBS}/{work.job}/cancel"))
        job = (await acme.get(f"{JOBS}/{work.job}")).json()
        await app.policy.refresh()
        named = [route for route in app.policy.current().routes(work.tenant) if work.job[6:18] in route.name]
        if job["status"] == "succeeded":
            assert (done.status_code, cancelled.status_code, len(named)) == (200, 400, 1)
        else:
            assert (done.status_code, cancelled.status_code, len(named)) == (409, 200, 0)


async def test_two_jobs_of_one_suffix_keep_their_own_versions(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """The second job's version does not move the first job's name."""
    versions = []
    for number, config in enumerate(({}, {"lora_alpha": 8})):
        work = await claimed(app, acme, suffix="desk")
        members, said = adapter(app, tmp_path / str(number), config)
        answer = await work.complete(artifact=await work.put(tar(members)), **said)
        versions.append((answer.json()["version"], work.job.removeprefix("ftjob-")[:12]))
    assert versions[0][0] != versions[1][0]
    for version, short in versions:
        found = app.policy.current().adapter(work.tenant, "desk", f"ftjob-{short}")
        assert found is not None
        assert found.id == version


async def test_the_pool_with_the_smallest_slots_that_fit_serves_it(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Rank 2 goes to the pool of rank 4, not of 16, and a rank that none holds is 400 with nothing registered."""
    pools = {
        "main": app.services.pools["main"],
        "small": Pool("small", ("http://127.0.0.1:9",), app.base, max_lora_rank=4),
    }
    work = await claimed(app, acme)
    work.trainer = app.trainer(pools={"main": replace(pools["main"], max_lora_rank=1)})
    work.trainer.headers["x-fencing-token"] = "1"
    members, said = adapter(app, tmp_path / "made")
    said["artifact"] = await work.put(tar(members))
    refused = await work.complete(**said)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "artifact")
    assert "rank 2" in refused.json()["error"]["message"]
    assert (await acme.get(f"{JOBS}/{work.job}")).json()["status"] == "running"
    work.trainer = app.trainer(pools=pools)
    work.trainer.headers["x-fencing-token"] = "1"
    name = (await work.complete(**said)).json()["fine_tuned_model"]
    route = app.policy.current().route(work.tenant, name)
    assert route is not None
    target = route.variants[0].target
    assert isinstance(target, AdapterTarget)
    assert target.pool == "small"


async def test_an_artifact_that_is_not_what_it_should_be_is_refused(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Missing members, unservable configuration, another hash, base or manifest, no blob: nothing registered."""
    work = await claimed(app, acme)
    members, said = adapter(app, tmp_path / "made")
    good = await work.put(tar(members))
    dora, dora_said = adapter(app, tmp_path / "dora", {"use_dora": True})
    lost = {name: content for name, content in members.items() if name != FILES[0]}
    broken = {**members, "manifest.json": b"{"}
    for body, param, words in (
        ({**said, "artifact": await work.put(tar(dora)), **dora_said}, "artifact", "DoRA"),
        ({**said, "artifact": await work.put(tar(lost))}, "artifact", "exactly the files"),
        ({**said, "artifact": await work.put(tar(broken))}, "artifact", "not JSON"),
        ({**said, "artifact": good, "adapter_sha256": "1" * 64}, "adapter_sha256", "another content hash"),
        (
            {**said, "artifact": good, "manifest": {**said["manifest"], "base_model": "other"}},
            "manifest.base_model",
            "base",
        ),
        ({**said, "artifact": good, "manifest": {**said["manifest"], "note": 1}}, "manifest", "another one"),
        ({"adapter_sha256": said["adapter_sha256"]}, "artifact", "required"),
    ):
        answer = await work.complete(**body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
        assert words in answer.json()["error"]["message"]
    assert (await work.complete(**said, artifact="2" * 64)).status_code == 404
    assert (await acme.get(f"{JOBS}/{work.job}")).json()["status"] == "running"
    assert [route for route in app.policy.current().routes(work.tenant) if route.tenant_id] == []
    assert not list(app.folder.glob(".unpack-*"))


def evil(**fields: Any) -> bytes:
    """A tar with one strange member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        entry = tarfile.TarInfo("a")
        for name, value in fields.items():
            setattr(entry, name, value)
        made.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no tar",
        tar({"a": b"1" * 600})[:700],
        tar({"../a": b""}),
        tar({"/a": b""}),
        tar({"a/b": b""}),
        tar({"..": b""}),
        tar({"a b": b""}),
        tar({str(number): b"" for number in range(65)}),
        tar({"a": b""})[:512] + tar({"a": b""}),
        evil(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        evil(type=tarfile.LNKTYPE, linkname="b"),
        evil(type=tarfile.DIRTYPE),
        evil(type=tarfile.FIFOTYPE),
        evil(type=tarfile.CHRTYPE),
    ],
    ids=range(14),
)
async def test_a_blob_that_is_no_plain_tar_is_refused(
    app: TrainingApp, acme: httpx2.AsyncClient, content: bytes
) -> None:
    """Links, folders, devices, odd or double names, too many, truncated: 400 and not a byte kept."""
    work = await claimed(app, acme)
    sha = hashlib.sha256(content).hexdigest()
    answer = await work.trainer.put(f"{work.path}/blobs/{sha}", content=content)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body")
    assert not list((app.folder / "jobs").rglob("*"))
    assert not list((app.folder / ".incoming").iterdir())


async def test_a_damaged_or_too_large_blob_is_not_kept(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """422 `digest_mismatch` asks for it again; past the bound it is 413."""
    work = await claimed(app, acme)
    damaged = await work.trainer.put(f"{work.path}/blobs/{'0' * 64}", content=tar({"a": b"1"}))
    assert (damaged.status_code, damaged.json()["error"]["code"]) == (422, "digest_mismatch")
    large = await work.trainer.put(f"{work.path}/blobs/{'0' * 64}", content=b"x" * 1_000_001)
    assert large.status_code == 413
    assert (await work.trainer.head(f"{work.path}/blobs/{'0' * 64}")).status_code == 404


async def test_a_providers_model_becomes_a_route_of_the_tenant(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A provider job ends with the provider's model; the tenant's route names it; repeated, it is the same."""
    tenant = app.principals[acme.headers["authorization"].removeprefix("Bearer ")].tenant_id
    arm = VariantJson(name="only", weight=1, target=TargetJson(provider=app.provider, model="gpt-x"))
    async with changing(app.engine) as change:
        await routes.put(change, StoredRoute("theirs", tenant, RouteJson(variants=[arm])))
    await app.policy.refresh()
    work = await claimed(app, acme, model="theirs", file=await uploaded(acme))
    missing = await work.complete()
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "provider_model")
    for _ in range(2):
        answer = await work.complete(provider_model="ft:gpt-x:org::1")
        assert answer.json()["version"] == "ft:gpt-x:org::1"
    route = app.policy.current().route(tenant, answer.json()["fine_tuned_model"])
    assert route is not None
    assert route.variants[0].target == ProviderTarget(app.provider, "ft:gpt-x:org::1")


async def test_where_signatures_are_required_a_trainer_signs(
    app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """An operator who takes signed adapters only gets no unsigned one through the trainers' door either."""
    admin = replace(app.services.admin, signers=Signers({}, required=True))
    work = await claimed(app, acme)
    token = work.trainer.headers["x-fencing-token"]
    work.trainer = app.trainer(admin=admin)
    work.trainer.headers["x-fencing-token"] = token
    members, said = adapter(app, tmp_path / "made")
    answer = await work.complete(artifact=await work.put(tar(members)), **said)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "signature")


async def test_webhooks_hear_of_every_end_once(app: TrainingApp, acme: httpx2.AsyncClient, tmp_path: Path) -> None:
    """succeeded, failed and cancelled: one delivery each for the tenant's endpoint, in the transaction of the end."""
    tenant = app.principals[acme.headers["authorization"].removeprefix("Bearer ")].tenant_id
    async with app.engine.begin() as connection:
        endpoint = await outbox.add_endpoint(connection, tenant, "https://example.com", ["*"], now=1.0)
    done = await claimed(app, acme)
    members, said = adapter(app, tmp_path / "made")
    said["artifact"] = await done.put(tar(members))
    await done.complete(**said)
    await done.complete(**said)
    failed = await claimed(app, acme)
    await failed.trainer.post(f"{failed.path}/fail", json={"code": "training_failed", "message": "m"})
    cancelled = await app.job(acme)
    await acme.post(f"{JOBS}/{cancelled['id']}/cancel")
    query = select(webhook_deliveries).where(webhook_deliveries.c.endpoint_id == endpoint.id)
    async with app.engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    told = {row["type"]: row["body"] for row in rows}
    assert len(rows) == 3
    for kind, job in (("succeeded", done.job), ("failed", failed.job), ("cancelled", cancelled["id"])):
        assert f'"data":{{"id":"{job}"}}' in told[f"fine_tuning.job.{kind}"]
