"""`/v1/fine_tuning/jobs` as tenants have it: what may be created, within which budget, and how it is steered."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from app.storage.administration import routes
from app.storage.administration.change import changing
from app.storage.administration.routes import StoredRoute
from app.storage.spec import RouteJson, TargetJson, VariantJson
from app.storage.tuning.jobs import Budget
from app.types import Operation
from tests.support.training_app import TrainingApp, uploaded

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant of the test's own."""
    return await app.tenant(f"jobs{next(_numbers)}")


async def route(app: TrainingApp, tenant: str | None, name: str, *targets: TargetJson) -> None:
    """Make a route over these targets."""
    arms = [VariantJson(name=f"arm-{number}", weight=1, target=target) for number, target in enumerate(targets)]
    async with changing(app.engine) as change:
        await routes.put(change, StoredRoute(name, tenant, RouteJson(variants=arms)))
    await app.policy.refresh()


def owner(app: TrainingApp, client: httpx2.AsyncClient) -> str:
    """The tenant that a client is of."""
    return app.principals[client.headers["authorization"].removeprefix("Bearer ")].tenant_id


async def test_a_job_is_made_as_openai_shows_it(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Every field of the object, with what was asked for and with `auto` for what was not."""
    file = await uploaded(acme)
    job = await app.job(
        acme,
        file,
        suffix="Support Desk",
        seed=7,
        metadata={"team": "red"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    chosen = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": int(app.clock.now),
        "finished_at": None,
        "estimated_finish": None,
        "status": "queued",
        "error": None,
        "model": app.base,
        "fine_tuned_model": None,
        "trained_tokens": None,
        "training_file": file,
        "validation_file": None,
        "result_files": [],
        "seed": 7,
        "hyperparameters": chosen,
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        "user_provided_suffix": "Support Desk",
        "metadata": {"team": "red"},
        "organization_id": owner(app, acme),
        "integrations": [],
    }
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job
    events = (await acme.get(f"{JOBS}/{job['id']}/events")).json()
    assert [event["message"] for event in events["data"]] == [f"Created fine-tuning job: {job['id']}"]
    assert events["data"][0]["object"] == "fine_tuning.job.event"
    assert (await acme.get(f"{JOBS}/{job['id']}/checkpoints")).json()["data"] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"training_file": None}, "training_file"),
        ({"training_file": "file-nobody"}, "training_file"),
        ({"validation_file": "file-nobody"}, "validation_file"),
        ({"model": "gpt-none"}, "model"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "s" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": "\0"}}, "metadata"),
        ({"metadata": {"\ud800": "v"}}, "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"epochs": 3}, "epochs"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"learning_rate": 1}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {}, "method": {"type": "supervised"}}, None),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}}, "method.dpo.hyperparameters.beta"),
        ({"recipe": "No Such"}, "recipe"),
    ],
    ids=str,
)
async def test_what_cannot_be_trained_is_refused_by_name(
    app: TrainingApp, acme: httpx2.AsyncClient, change: dict[str, Any], param: str | None
) -> None:
    """OpenAI's ranges; the field is named and no job is made."""
    body = {"model": app.base, "training_file": await uploaded(acme), **change}
    sent = json.dumps({key: value for key, value in body.items() if value is not None})
    answer = await acme.post(JOBS, content=sent, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param, answer.text
    assert (await acme.get(JOBS)).json()["data"] == []


async def test_the_model_decides_who_trains(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A pool's base, a route to it, a route to a provider; not a mixture, not an adapter, not an unknown provider."""
    tenant = owner(app, acme)
    await route(app, tenant, "plain", TargetJson(pool="main"))
    await route(app, tenant, "tuned", TargetJson(pool="main", adapter="support"))
    await route(app, tenant, "mixed", TargetJson(pool="main"), TargetJson(provider=app.provider, model="gpt"))
    await route(app, tenant, "theirs", TargetJson(provider=app.provider, model=f"gpt-{app.base}"))
    await route(app, tenant, "elsewhere", TargetJson(provider="other", model="gpt"))
    await route(app, tenant, "vectors", TargetJson(embedded="minilm"))
    for model in (app.base, "plain"):
        job = await app.job(acme, model=model)
        assert job["model"] == model
        await acme.post(f"{JOBS}/{job['id']}/cancel")
    await app.job(acme, model="theirs")
    assert await app.claim(app.trainer()) is None
    claimed = await app.claim(app.trainer(), providers=[app.provider])
    assert claimed is not None
    assert (claimed["job"]["provider"], claimed["job"]["model"]) == (app.provider, f"gpt-{app.base}")
    for model, words in (
        ("tuned", f"its base model, {app.base}"),
        ("mixed", "mixture"),
        ("elsewhere", "providers[].fine_tuning"),
        ("vectors", "cannot"),
    ):
        answer = await acme.post(JOBS, json={"model": model, "training_file": await uploaded(acme)})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
        assert words in answer.json()["error"]["message"]


async def test_a_key_trains_only_what_it_may_name(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A key that is bound to routes, or lacks the right, is refused; so is the trainer's secret."""
    mine = app.principals[owner(app, acme)]
    app.principals["bound"] = replace(mine, routes=frozenset({"plain"}))
    app.principals["chat-only"] = replace(mine, operations=frozenset({Operation.CHAT}))
    body = {"model": app.base, "training_file": await uploaded(acme)}
    assert (await app.client("bound").post(JOBS, json=body)).status_code == 403
    assert (await app.client("chat-only").post(JOBS, json=body)).status_code == 403
    assert (await app.trainer().post(JOBS, json=body)).status_code == 401


async def test_nothing_of_a_job_is_there_for_another_tenant(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Every path with a foreign id is the 404 of an absent one and changes nothing; a foreign file cannot be named."""
    bloom = await app.tenant(f"jobs{next(_numbers)}")
    job = await app.job(acme)
    for method, path in (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/checkpoints"),
        ("POST", "/cancel"),
        ("POST", "/pause"),
        ("POST", "/resume"),
    ):
        foreign = await bloom.request(method, f"{JOBS}/{job['id']}{path}")
        absent = await bloom.request(method, f"{JOBS}/ftjob-none{path}")
        assert (foreign.status_code, absent.status_code) == (404, 404), path
        assert foreign.text.replace(job["id"], "ftjob-none") == absent.text
    assert (await bloom.get(JOBS)).json()["data"] == []
    assert (await bloom.get(JOBS, params={"after": job["id"]})).status_code == 400
    answer = await bloom.post(JOBS, json={"model": app.base, "training_file": job["training_file"]})
    assert answer.json()["error"]["code"] == "file_not_found"
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job


async def test_jobs_are_listed_newest_first_and_by_metadata(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Part by part; pairs of metadata narrow the listing."""
    client = app.client(owner(app, acme), budget=lambda _: Budget(10))
    ids = []
    for number in range(5):
        app.clock.now += 1
        ids.append((await app.job(client, metadata={"kind": str(number % 2), "all": "yes"}))["id"])
    seen: list[str] = []
    part: dict[str, Any] = {"has_more": True}
    while part["has_more"]:
        part = (await acme.get(JOBS, params={"limit": 2, **({"after": seen[-1]} if seen else {})})).json()
        seen += [job["id"] for job in part["data"]]
    assert seen == ids[::-1]
    odd = (await acme.get(JOBS, params={"metadata[kind]": "1", "metadata[all]": "yes"})).json()["data"]
    assert [job["id"] for job in odd] == [ids[3], ids[1]]


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        (JOBS, {"metadata[\0]": "x"}, "metadata"),
        (JOBS, {"metadata[k]": "\0"}, "metadata"),
        (JOBS, {"after": "\0"}, "after"),
        (JOBS, {"limit": "9" * 5000}, "limit"),
        ("/v1/files", {"after": "\0"}, "after"),
        ("/v1/files", {"purpose": "\0"}, "purpose"),
        ("/v1/files", {"limit": "9" * 5000}, "limit"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_no_database_takes_is_the_callers_error(
    acme: httpx2.AsyncClient, path: str, query: dict[str, str], param: str
) -> None:
    """A null character, a number of 5,000 digits: 400 with the field's name, not a database that does not answer."""
    answer = await acme.get(path, params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_two_creations_at_once_do_not_pass_the_bound_on_open_jobs(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """Eight at the same moment, two allowed: exactly two are made, the others hear why and not to retry."""
    client = app.client(owner(app, acme), budget=lambda _: Budget(2))
    file = await uploaded(acme)
    answers = await asyncio.gather(
        *(client.post(JOBS, json={"model": app.base, "training_file": file}) for _ in range(8))
    )
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 6
    for answer in refused:
        assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
        assert "2 are allowed" in answer.json()["error"]["message"]
    assert len((await acme.get(JOBS)).json()["data"]) == 2


async def test_a_months_tokens_are_held_and_charged(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """400 bytes and 3 epochs hold 300 tokens; a cancelled half keeps 150; the next month begins at nothing."""
    client = app.client(owner(app, acme), budget=lambda _: Budget(10, 500))
    app.clock.now = datetime(2027, 3, 30, tzinfo=UTC).timestamp()
    job = await app.job(client)
    over = {"model": app.base, "training_file": await uploaded(acme, b"y" * 400)}
    refused = await client.post(JOBS, json=over)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "300 are used or held, and this job would train about 300" in refused.json()["error"]["message"]
    claimed = await app.claim(app.trainer())
    assert claimed is not None
    beat = {"stage": "train", "step": 5, "total_steps": 10}
    fence = {"x-fencing-token": str(claimed["lease"]["token"])}
    await app.trainer().post(f"/training/v1/jobs/{job['id']}/heartbeat", json=beat, headers=fence)
    await client.post(f"{JOBS}/{job['id']}/cancel")
    assert (await client.post(JOBS, json=over)).status_code == 200
    assert (await client.post(JOBS, json=over)).status_code == 429
    app.clock.now = datetime(2027, 4, 2, tzinfo=UTC).timestamp()
    refused = await client.post(JOBS, json=over | {"hyperparameters": {"n_epochs": 5}})
    assert "300 are used or held" in refused.json()["error"]["message"]


async def test_a_job_is_cancelled_once(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The object says when; a second time, and a pause or resume of it, are refused in words."""
    job = await app.job(acme)
    cancelled = (await acme.post(f"{JOBS}/{job['id']}/cancel")).json()
    assert (cancelled["status"], cancelled["finished_at"]) == ("cancelled", int(app.clock.now))
    for verb in ("cancel", "pause", "resume"):
        answer = await acme.post(f"{JOBS}/{job['id']}/{verb}")
        assert answer.status_code == 400
        assert "The job is cancelled and cannot be" in answer.json()["error"]["message"]
    assert await app.claim(app.trainer()) is None


async def test_a_queued_job_rests_and_goes_on(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Paused at once, claimed by nobody, claimed again after resume; its log says all of it."""
    job = await app.job(acme)
    assert (await acme.post(f"{JOBS}/{job['id']}/pause")).json()["status"] == "paused"
    assert (await acme.post(f"{JOBS}/{job['id']}/pause")).json()["status"] == "paused"
    assert await app.claim(app.trainer()) is None
    assert (await acme.post(f"{JOBS}/{job['id']}/resume")).json()["status"] == "queued"
    assert (await acme.post(f"{JOBS}/{job['id']}/resume")).status_code == 400
    assert await app.claim(app.trainer()) is not None
    log = (await acme.get(f"{JOBS}/{job['id']}/events", params={"limit": 3})).json()
    assert [event["message"] for event in log["data"]] == [
        "Fine-tuning job started",
        "The job is resumed",
        "The job is paused",
    ]
    assert log["has_more"] is True
    rest = await acme.get(f"{JOBS}/{job['id']}/events", params={"after": log["data"][-1]["id"]})
    assert [event["message"] for event in rest.json()["data"]] == [f"Created fine-tuning job: {job['id']}"]


async def test_a_pool_without_a_price_and_a_file_of_another_purpose(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Nothing is trained that could not be served, nor from a batch's file."""
    file = await uploaded(acme, purpose="batch")
    answer = await acme.post(JOBS, json={"model": app.base, "training_file": file})
    assert "another purpose" in answer.json()["error"]["message"]
    unpriced = {"free": replace(app.services.pools["main"], name="free")}
    body = {"model": app.base, "training_file": await uploaded(acme)}
    assert (await app.client(owner(app, acme), pools=unpriced).post(JOBS, json=body)).status_code == 503
