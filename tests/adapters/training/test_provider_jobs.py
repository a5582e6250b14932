"""A provider's fine-tuning API, over HTTP, with everything that goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import aclosing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from adapters.training.provenance import file_sha256
from adapters.training.provider_jobs.errors import ProviderAway, ProviderJobFailed, ProviderRefused
from adapters.training.provider_jobs.estimate import PriceTable, auto_epochs, count_tokens, estimate, load_prices
from adapters.training.provider_jobs.expiry import Expiry, base_of, expiries, watch
from adapters.training.provider_jobs.job import follow, result, start
from adapters.training.provider_jobs.journal import JobRequest, Journal, Record, records
from adapters.training.provider_jobs.move import Move, request_for, turned
from adapters.training.provider_jobs.provider import Event, Provider
from adapters.types import ChatLine, Message, Role
from app.storage.spec import RouteJson
from tests.support.fake_finetuning import FakeFineTuning

UPLOAD, CREATE = "POST /v1/files", "POST /v1/fine_tuning/jobs"


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Twelve good rows."""
    return rows(tmp_path / "train.jsonl", 12)


def rows(path: Path, count: int) -> Path:
    """Write chat rows."""
    line = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]}
    path.write_text("".join(json.dumps(line) + "\n" for _ in range(count)), encoding="utf-8")
    return path


class Sleeps:
    """A clock that nobody waits for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Remember instead of sleeping."""
        self.slept.append(seconds)


def provider(fake: FakeFineTuning, sleep: Sleeps, tries: int = 6) -> Provider:
    """A provider that talks to the fake."""
    return Provider(fake.client(), sleep=sleep, tries=tries)


def request(training: Path, **fields: object) -> JobRequest:
    """A job on the training file."""
    return JobRequest(base_url="fake", model="gpt-4o-mini", training_sha256=file_sha256(training), **fields)  # type: ignore[arg-type]


async def whole(
    fake: FakeFineTuning, folder: Path, training: Path, validation: Path | None = None
) -> tuple[Record, list[Event]]:
    """Start and follow to the end."""
    sleep, journal = Sleeps(), Journal(folder, request(training))
    with journal.held():
        await start(provider(fake, sleep), journal, training, validation)
        told = [event async for event in follow(provider(fake, sleep), journal, sleep)]
    return journal.record, told


async def test_a_job_is_uploaded_started_followed_and_gives_a_model(tmp_path: Path, training: Path) -> None:
    """The whole way: files, job, metrics in order, the model, and billable tokens."""
    validation = rows(tmp_path / "valid.jsonl", 3)
    async with FakeFineTuning() as fake:
        record, told = await whole(fake, tmp_path / "jobs", training, validation)
    assert result(record).startswith("ft:gpt-4o-mini:org-test:")
    assert record.trained_tokens > 0
    assert [event.data["step"] for event in told if event.type == "metrics"] == [2, 3]
    assert len(fake.files) == 2
    assert fake.jobs[record.job_id]["validation_file"] == record.validation_file


async def test_a_finished_job_is_not_started_again(tmp_path: Path, training: Path) -> None:
    """The same request, made again from the same journal or from an empty one, is the same job."""
    async with FakeFineTuning() as fake:
        first, _ = await whole(fake, tmp_path / "jobs", training)
        again, told = await whole(fake, tmp_path / "jobs", training)
        elsewhere, _ = await whole(fake, tmp_path / "other", training)
    assert first.job_id == again.job_id == elsewhere.job_id
    assert told == []
    assert (len(fake.files), len(fake.jobs)) == (1, 1)


@pytest.mark.parametrize("step", [UPLOAD, CREATE])
@pytest.mark.parametrize("failure", ["lose_answer", "cut", "fail"])
async def test_a_lost_connection_repeats_nothing(tmp_path: Path, training: Path, step: str, failure: str) -> None:
    """Whether the request took effect or not, there is one file and one job in the end."""
    async with FakeFineTuning() as fake:
        getattr(fake, failure)(step)
        record, _ = await whole(fake, tmp_path / "jobs", training)
    assert record.status == "succeeded"
    assert (len(fake.files), len(fake.jobs)) == (1, 1)


async def test_questions_are_repeated_with_growing_pauses(tmp_path: Path, training: Path) -> None:
    """A provider that is away for a moment costs time, not the job."""
    async with FakeFineTuning() as fake:
        fake.cut("GET /v1/fine_tuning/jobs", times=3)
        sleep, journal = Sleeps(), Journal(tmp_path, request(training))
        await start(provider(fake, sleep), journal, training, None)
    assert sleep.slept == [0.5, 1.0, 2.0]
    assert journal.record.job_id == "ftjob-1"


async def test_a_provider_that_stays_away_is_said_and_can_be_resumed(tmp_path: Path, training: Path) -> None:
    """After the last try the journal keeps what was done, and the next run goes on from there."""
    async with FakeFineTuning() as fake:
        fake.fail("GET /v1/fine_tuning/jobs", times=3)
        journal = Journal(tmp_path, request(training))
        with pytest.raises(ProviderAway, match="run the same command again"):
            await start(provider(fake, Sleeps(), tries=3), journal, training, None)
        assert records(tmp_path)[0].training_file == "file-1"
        record, _ = await whole(fake, tmp_path, training)
    assert (record.status, len(fake.files), len(fake.jobs)) == ("succeeded", 1, 1)


_CRASHES = """
import asyncio, sys
from pathlib import Path
from openai import AsyncOpenAI
from adapters.training.provenance import file_sha256
from adapters.training.provider_jobs.job import start
from adapters.training.provider_jobs.journal import Journal, JobRequest
from adapters.training.provider_jobs.provider import Provider
url, folder, training = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
journal = Journal(folder, JobRequest(base_url="fake", model="gpt-4o-mini", training_sha256=file_sha256(training)))
client = AsyncOpenAI(api_key="sk-test", base_url=url)
asyncio.run(start(Provider(client), journal, training, None))
"""


async def test_a_kill_between_upload_and_start_repeats_nothing(tmp_path: Path, training: Path) -> None:
    """Kill -9 while the start is under way: the next run finds the file, and starts the one job."""
    async with FakeFineTuning() as fake:
        fake.hold(CREATE)
        command = [sys.executable, "-c", _CRASHES, fake.url, str(tmp_path / "jobs"), str(training)]
        process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[3])
        try:
            for _ in range(600):
                if fake.requests[CREATE]:
                    break
                await asyncio.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert (len(fake.files), len(fake.jobs)) == (1, 0)
        record, _ = await whole(fake, tmp_path / "jobs", training)
    assert (record.status, len(fake.files), len(fake.jobs)) == ("succeeded", 1, 1)
    assert fake.requests[UPLOAD] == 1


async def test_a_file_that_fails_validation_fails_the_job_in_the_providers_words(tmp_path: Path) -> None:
    """Providers take a file first and judge it in the job."""
    async with FakeFineTuning() as fake:
        record, _ = await whole(fake, tmp_path / "jobs", rows(tmp_path / "few.jsonl", 3))
    with pytest.raises(ProviderJobFailed, match="failed: invalid_training_file: 3 examples, 10 are needed"):
        result(record)


async def test_a_cancelled_job_ends_without_a_model(tmp_path: Path, training: Path) -> None:
    """Cancel reaches the provider, and following ends."""
    async with FakeFineTuning() as fake:
        sleep, journal = Sleeps(), Journal(tmp_path, request(training))
        await start(provider(fake, sleep), journal, training, None)
        await provider(fake, sleep).cancel(journal.record.job_id)
        _ = [event async for event in follow(provider(fake, sleep), journal, sleep)]
    with pytest.raises(ProviderJobFailed, match="is cancelled"):
        result(journal.record)


async def test_an_unknown_status_is_not_an_end(tmp_path: Path, training: Path) -> None:
    """A paused job is looked at again, until it goes on."""
    async with FakeFineTuning() as fake:
        sleep, journal = Sleeps(), Journal(tmp_path, request(training))
        await start(provider(fake, sleep), journal, training, None)
        fake.jobs["ftjob-1"]["status"] = "paused"

        async def resume(seconds: float) -> None:
            await sleep(seconds)
            if fake.jobs["ftjob-1"]["status"] == "paused":
                fake.jobs["ftjob-1"]["status"] = "running"

        _ = [event async for event in follow(provider(fake, sleep), journal, resume)]
    assert journal.record.status == "succeeded"


async def test_a_refusal_names_the_field_and_is_not_repeated(tmp_path: Path, training: Path) -> None:
    """A 400 is an answer, not an accident."""
    async with FakeFineTuning() as fake:
        journal = Journal(tmp_path, request(training))
        journal.note(training_file="file-gone")
        with pytest.raises(ProviderRefused, match="refused with 400") as caught:
            await start(provider(fake, Sleeps()), journal, training, None)
    assert caught.value.param == "training_file"
    assert fake.requests[CREATE] == 1


async def test_events_are_told_once_over_all_runs(tmp_path: Path, training: Path) -> None:
    """A run that ends in the middle leaves its place; the next one goes on behind it."""
    async with FakeFineTuning() as fake:
        sleep, journal = Sleeps(), Journal(tmp_path, request(training))
        await start(provider(fake, sleep), journal, training, None)
        seen: list[str] = []
        async with aclosing(follow(provider(fake, sleep), journal, sleep)) as told:
            async for event in told:
                seen.append(event.id)
                if len(seen) == 2:
                    journal.note(last_event=event.id)
                    break
        again = Journal(tmp_path, request(training))
        seen += [event.id async for event in follow(provider(fake, sleep), again, sleep)]
    assert seen == [event["id"] for event in fake.events["ftjob-1"]]


def test_two_processes_do_not_work_on_one_job(tmp_path: Path, training: Path) -> None:
    """The second one is told."""
    first, second = Journal(tmp_path, request(training)), Journal(tmp_path, request(training))
    with first.held(), pytest.raises(ProviderRefused, match="another process"), second.held():
        pass


def test_the_key_changes_with_everything_that_matters(training: Path) -> None:
    """Another seed, model, suffix or attempt is another job."""
    base = request(training)
    others = [
        request(training, seed=1),
        request(training, suffix="x"),
        request(training, n_epochs=2),
        request(training, attempt=1),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5
    assert request(training).key == base.key


PRICES = PriceTable.model_validate(
    {
        "dated": "2026-11-01",
        "source": "test",
        "models": {"gpt-4o-mini": {"training_usd_per_mtok": "3.00"}, "gpt-4o": {"training_usd_per_mtok": "25"}},
    }
)


def test_an_estimate_is_tokens_times_epochs_times_the_longest_matching_price() -> None:
    """1.5 million tokens, 3 epochs at 3 USD a million are 13.5 USD; the dated model finds its family."""
    made = estimate(PRICES, "gpt-4o-mini-2024-07-18", 1_500_000, 3, today=date(2026, 11, 24), counted=True)
    assert made.likely_microusd == made.low_microusd == made.high_microusd == 13_500_000
    assert not made.price_stale
    guessed = estimate(PRICES, "gpt-4o", 10, 1, today=date(2027, 6, 1), counted=False)
    assert (guessed.low_microusd, guessed.likely_microusd, guessed.high_microusd) == (188, 250, 313)
    assert guessed.price_stale


def test_an_unknown_price_is_a_refusal() -> None:
    """Never zero, and never the price of a model whose name merely begins alike."""
    with pytest.raises(ProviderRefused, match="no training price for gpt-4omega"):
        estimate(PRICES, "gpt-4omega", 10, 1, today=date(2026, 11, 24), counted=True)


@pytest.mark.parametrize(("examples", "epochs"), [(1, 25), (10, 10), (34, 3), (5_000, 3), (12_500, 2), (60_000, 1)])
def test_automatic_epochs_follow_the_cookbook(examples: int, epochs: int) -> None:
    """Little data is seen often, much data once."""
    assert auto_epochs(examples) == epochs


def test_tokens_are_counted_or_guessed() -> None:
    """Four bytes a token without a tokenizer, and four tokens around every message."""
    line = ChatLine((Message(Role.USER, "12345678"), Message(Role.ASSISTANT, "1234")))
    assert count_tokens([line]) == 2 + 1 + 8
    assert count_tokens([line], count=len) == 8 + 4 + 8


def test_a_price_table_is_read_strictly(tmp_path: Path) -> None:
    """A wrong field is named; a good table keeps its date."""
    path = tmp_path / "prices.yaml"
    path.write_text(
        "dated: 2026-11-01\nsource: web\nmodels:\n  gpt-4o: {training_usd_per_mtok: 25}\n", encoding="utf-8"
    )
    assert load_prices(path).models["gpt-4o"].training_usd_per_mtok == Decimal(25)
    path.write_text("dated: 2026-11-01\nsource: web\nmodels:\n  gpt-4o: {training: 25}\n", encoding="utf-8")
    with pytest.raises(ProviderRefused, match=r"prices.yaml: models.gpt-4o.training"):
        load_prices(path)
    with pytest.raises(ProviderRefused, match="no such file"):
        load_prices(tmp_path / "none.yaml")


def test_expiry_takes_the_earliest_date_of_model_configuration_and_base() -> None:
    """A fine-tuned model ends with its base; far dates are not told."""
    told = {"gpt-4.1": "2027-01-14", "gpt-4o": None, "far": "2030-01-01"}
    used = ["ft:gpt-4.1:org::1", "ft:gpt-4o:org::2", "gpt-4o", "far", "unknown"]
    configured = {"gpt-4o": date(2026, 12, 10), "ft:gpt-4.1:org::1": date(2027, 3, 1)}
    assert expiries(used, told, configured, today=date(2026, 11, 24)) == [
        Expiry("ft:gpt-4o:org::2", date(2026, 12, 10), 16, "base model", "alarm"),
        Expiry("gpt-4o", date(2026, 12, 10), 16, "configuration", "alarm"),
        Expiry("ft:gpt-4.1:org::1", date(2027, 1, 14), 51, "base model", "warning"),
    ]
    assert base_of("tunegate-tiny") is None


async def test_shutdown_dates_are_read_from_the_providers_list() -> None:
    """`shutdown_date` of GET /models, through the SDK."""
    async with FakeFineTuning(shutdown_dates={"gpt-4o": "2027-05-01", "gpt-5": None}) as fake:
        found = await watch(provider(fake, Sleeps()), ["gpt-4o", "gpt-5"], {}, today=date(2026, 11, 24))
    assert found == [Expiry("gpt-4o", date(2027, 5, 1), 158, "provider", "notice")]


SPEC: dict[str, Any] = {
    "variants": [
        {
            "name": "main",
            "weight": 9,
            "target": {"provider": "openai", "model": "ft:old"},
            "fallback": {"pool": "llama"},
        },
        {"name": "other", "weight": 1, "target": {"provider": "openai", "model": "gpt-4o"}},
    ],
    "cache": {"exact": True},
}


def test_a_route_is_turned_and_nothing_else_of_it(training: Path) -> None:
    """Targets and fallbacks that name the old model; weights, other variants and the cache's rules stay."""
    new = {"pool": "llama", "adapter": "support", "alias": "champion"}
    spec, replaced = turned(SPEC, "ft:old", new, "support")
    assert (spec["variants"][0]["target"], replaced) == (new, 1)
    assert spec["variants"][0]["fallback"] == {"pool": "llama"}
    assert (spec["variants"][1], spec["cache"]) == (SPEC["variants"][1], SPEC["cache"])
    RouteJson.model_validate(spec)
    assert turned(spec, "ft:old", new, "support") == (spec, 0)
    with pytest.raises(ProviderRefused, match="route support: no target of it is ft:other"):
        turned(SPEC, "ft:other", new, "support")


def test_another_file_than_the_model_was_trained_on_is_refused(training: Path) -> None:
    """Its hash is in the journal; the file must be the same bytes, or the adapter is another thing."""
    record = Record(request=request(training), training_path=str(training), model="ft:old")
    wanted = Move("http://gateway", "acme", "tunegate-tiny", "support", "support")
    assert request_for(record, wanted).training_sha256 == record.request.training_sha256
    rows(training, 13)
    with pytest.raises(ProviderRefused, match="restore it first"):
        request_for(record, wanted)
