"""From a provider's fine-tuned model to an adapter of our own by one command, on a real gateway, under a live route."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.prove.training_api import BASE_NAME, World, say, world
from tests.support.fake_finetuning import FakeFineTuning
from tests.support.gateway import PRICE
from tests.support.scripted_trainer import scripted
from tests.support.training_data import chat_file

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class There:
    """A gateway with a provider behind it, a tenant whose route names a model fine-tuned there, and its journal."""

    made: World
    provider: FakeFineTuning
    client: OpenAI
    key: str
    old_model: str
    folder: Path

    async def move(self, *, route: str = "support", **more: str) -> tuple[int, str]:
        """The command, as a user would call it; its exit status, and what it said."""
        return await adapters(
            ("provider", "move", self.old_model, "--gateway", self.made.gateway.url, "--tenant", "acme"),
            ("--base", BASE_NAME, "--adapter", "desk", "--route", route, "--jobs", str(self.folder / "jobs")),
            TUNEGATE_API_KEY=self.key,
            TUNEGATE_ADMIN_KEY=self.made.gateway.admin_key,
            **more,
        )

    async def says(self, route: str = "support") -> str:
        """What the live route answers."""
        return await asyncio.to_thread(say, self.client, route)

    async def spec(self) -> dict[str, Any]:
        """The live route."""
        found = await asyncio.to_thread(self.made.gateway.call, "GET", "/tenants/acme/routes/support")
        return dict(found["spec"])


async def adapters(*words: tuple[str, ...], **environment: str) -> tuple[int, str]:
    """Run the sidecar's command line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adapters.cli",
        *[word for part in words for word in part],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(100):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[There]:
    """A model fine-tuned at the provider by the command line, and a route to it."""
    rows = chat_file(tmp_path / "rows.jsonl", "acme", count=12)
    prices = {
        "dated": datetime.now(UTC).date(),
        "source": "test",
        "models": {"gpt-4o-mini": {"training_usd_per_mtok": 3}},
    }
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump(prices), encoding="utf-8")
    async with FakeFineTuning() as provider:
        jobs = ("--jobs", str(tmp_path / "jobs"), "--base-url", provider.url, "--key-env", "KEY")
        run = ("provider", "run", str(rows), "--prices", str(tmp_path / "prices.yaml"), "--model", "gpt-4o-mini")
        status, said = await adapters(run, jobs, KEY="sk-test")
        assert status == 0, said
        old_model = said.strip().splitlines()[-1]
        settings: dict[str, Any] = {
            "providers": [{"name": "theirs", "base_url": provider.url, "api_key": "sk-test"}],
            "prices": {"models": {"main/*": PRICE, "theirs/*": PRICE}},
        }
        opened = world(tmp_path / "gateway", **settings)
        made = await asyncio.to_thread(opened.__enter__)
        try:
            call = made.gateway.call
            await asyncio.to_thread(call, "POST", "/tenants", {"id": "acme"})
            target = {"provider": "theirs", "model": old_model}
            arms = [
                {"name": "main", "weight": 90, "target": target, "fallback": {"pool": "main"}},
                {"name": "off", "weight": 0, "target": {"provider": "theirs", "model": "gpt-4o"}},
            ]
            await asyncio.to_thread(call, "PUT", "/tenants/acme/routes/support", {"variants": arms})
            key = await asyncio.to_thread(made.gateway.key, "acme")
            with made.gateway.openai(key) as client:
                yield There(made, provider, client, key, old_model, tmp_path)
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)


async def test_a_live_route_moves_from_a_providers_model_to_an_adapter(there: There) -> None:
    """The route answers as the provider's model before and as the adapter after; done twice, it is done once."""
    assert await there.says() == f"I am {there.old_model}"
    before = await there.spec()
    (there.folder / "trainer").mkdir()
    with scripted(there.made.gateway.url, there.folder / "trainer", "acme"):
        status, said = await there.move()
    assert status == 0, said
    version = said.strip().splitlines()[-1].split()[0]
    assert version.startswith("acme--desk@")
    assert "serves route support (1 targets turned)" in said
    assert "Acme" in await there.says()
    after = await there.spec()
    assert (
        after["variants"][0]["target"] | {"pool": "main", "adapter": "desk", "alias": "champion"}
        == (after["variants"][0]["target"])
    )
    assert after["variants"][0]["fallback"] == before["variants"][0]["fallback"]
    assert after["variants"][1] == before["variants"][1]
    files = await asyncio.to_thread(lambda: [file.filename for file in there.client.files.list()])
    assert (files, len(there.provider.jobs)) == ([next(iter(there.provider.files.values()))["filename"]], 1)

    status, said = await there.move()
    assert (status, said.strip().splitlines()[-1]) == (0, f"{version} serves route support (0 targets turned)")
    assert await there.spec() == after
    jobs = await asyncio.to_thread(lambda: list(there.client.fine_tuning.jobs.list()))
    assert len(jobs) == 1

    status, said = await there.move(route="nobody")
    assert status != 0
    assert "the gateway refused GET /admin/v1/tenants/acme/routes/nobody with 404" in said
    assert "Traceback" not in said
