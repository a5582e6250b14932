"""Two gateways that share a bucket and no folder: what one has taken in, the other gives out."""

from __future__ import annotations

from pathlib import Path

import httpx2
import openai
import pytest

from tests.support.gateway import PRICE, gateway
from tests.support.s3_server import Bucket
from tests.support.training_data import chat_file

SECRET = "a-trainer-secret-of-the-tests"
ADMIN = "an-admin-key-of-the-tests-that-both-gateways-have"


def test_a_file_goes_through_one_gateway_and_comes_out_of_the_other(
    tmp_path: Path, redis_url: str, s3_bucket: Bucket
) -> None:
    """Read whole and in part, by its tenant and by a trainer; deleted at one, it is gone at both; no disk keeps it."""
    s3 = s3_bucket.s3
    settings = {
        "database_url": f"sqlite:///{tmp_path / 'shared.sqlite3'}",
        "redis_url": redis_url,
        "pools": [{"name": "main", "replicas": ["http://127.0.0.1:9"], "base_model": "base"}],
        "prices": {"models": {"main/*": PRICE}},
        "cache": {"semantic": False},
        "trainer_secret": SECRET,
        "training": {
            "store_url": f"s3://{s3_bucket.name}/gateways",
            "s3": {
                "endpoint": s3.endpoint,
                "region": s3.region,
                "access_key": s3.access_key,
                "signing_key": s3.secret_key,
            },
        },
    }
    rows = chat_file(tmp_path / "rows.jsonl", count=10)
    with (
        gateway(tmp_path / "one", settings, admin_key=ADMIN) as one,
        gateway(tmp_path / "two", settings, admin_key=ADMIN) as two,
    ):
        one.call("POST", "/tenants", {"id": "acme"})
        key = one.key("acme")
        with one.openai(key) as here, two.openai(key) as there:
            with rows.open("rb") as opened:
                file = here.files.create(file=opened, purpose="fine-tune")
            assert there.files.content(file.id).read() == rows.read_bytes()
            job = there.fine_tuning.jobs.create(model="base", training_file=file.id)
            with httpx2.Client(base_url=two.url, headers={"authorization": f"Bearer {SECRET}"}, timeout=30) as trainer:
                claim = trainer.post("/training/v1/claim", json={"trainer": "t", "bases": ["base"]}).json()
                assert claim["job"]["id"] == job.id
                fence = {"x-fencing-token": str(claim["lease"]["token"]), "range": "bytes=7-"}
                answer = trainer.get(f"/training/v1/jobs/{job.id}/files/{file.id}", headers=fence)
                assert (answer.status_code, answer.content) == (206, rows.read_bytes()[7:])
            here.fine_tuning.jobs.cancel(job.id)
            assert there.files.delete(file.id).deleted
            for client in (here, there):
                with pytest.raises(openai.NotFoundError):
                    client.files.content(file.id)
        for running in ("one", "two"):
            kept = tmp_path / running / "data" / "objects"
            assert [path for path in kept.rglob("*") if path.is_file()] == []
