"""`/v1/files` as OpenAI's clients call it: what is kept, who sees it, and what is refused with nothing kept."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api.fine_tuning.services import FileLimits
from app.api.fine_tuning.uploads import AT_ONCE
from app.api.objects import asked_range
from app.errors import OutOfRange
from app.storage.database import database
from app.storage.objects.staging import STALE_SECONDS
from app.storage.tuning.sweeper import Sweeper
from app.types import Operation
from tests.support.training_app import TrainingApp, training_app, uploaded

_numbers = itertools.count()
LINE = b'{"messages": []}\n'


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[TrainingApp]:
    """An application on a database of its own."""
    async with database(f"sqlite:///{tmp_path / 'files.sqlite3'}") as engine:
        made = training_app(engine, tmp_path / "objects")
        yield made
        await made.close()


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant."""
    return await app.tenant("acme")


def kept(app: TrainingApp) -> list[str]:
    """Every file under the object store, of whatever kind."""
    return sorted(str(path.relative_to(app.folder)) for path in app.folder.rglob("*") if path.is_file())


def form(*parts: tuple[str, bytes], boundary: bytes = b"edge") -> dict[str, Any]:
    """A request with these parts as they are: (disposition, content)."""
    body = b"".join(
        b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    return {"content": body + b"--" + boundary + b"--\r\n", "headers": headers}


async def test_a_file_comes_back_as_it_was_sent(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Object, listing and bytes agree; the bytes of three megabytes' worth of blocks are the same."""
    client = app.client("acme", limits=FileLimits(10**8, 10**9, 1))
    content = b"".join(b"%d\n" % number for number in range(400_000))
    made = (
        await client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a/b\\train.jsonl", content)})
    ).json()
    assert made == {
        "id": made["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": int(app.clock.now),
        "expires_at": None,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    assert (await acme.get(f"/v1/files/{made['id']}")).json() == made
    answer = await acme.get(f"/v1/files/{made['id']}/content")
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    assert (await acme.get("/v1/files")).json()["data"] == [made]


async def test_the_purpose_may_come_behind_the_file(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Clients send parts in any order; a wrong purpose behind the bytes leaves nothing."""
    file = ('name="file"; filename="t.jsonl"', LINE)
    answer = await acme.post("/v1/files", **form(file, ('name="purpose"', b"batch")))
    assert (answer.status_code, answer.json()["purpose"]) == (200, "batch")
    before = kept(app)
    answer = await acme.post("/v1/files", **form(file, ('name="purpose"', b"novel")))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "purpose")
    assert kept(app) == before


async def test_the_listing_goes_part_by_part_in_both_orders(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Every file once, by creation time, with OpenAI's cursors; a purpose narrows it."""
    ids = []
    for number in range(5):
        app.clock.now += number % 2  # some of the same instant
        ids.append(await uploaded(acme, purpose="batch" if number == 2 else "fine-tune"))
    for order in ("asc", "desc"):
        seen: list[str] = []
        after: str | None = None
        while True:
            part = (
                await acme.get("/v1/files", params={"limit": 2, "order": order, **({"after": after} if after else {})})
            ).json()
            seen += [file["id"] for file in part["data"]]
            assert (part["first_id"], part["last_id"]) == (part["data"][0]["id"], part["data"][-1]["id"])
            after = part["last_id"]
            if not part["has_more"]:
                break
        assert sorted(seen) == sorted(ids)
        assert len(seen) == 5
    narrowed = (await acme.get("/v1/files", params={"purpose": "batch"})).json()
    assert [file["id"] for file in narrowed["data"]] == [ids[2]]
    assert (await acme.get("/v1/files", params={"after": "file-nobody"})).status_code == 400
    empty = (await acme.get("/v1/files", params={"purpose": "evals"})).json()
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


async def test_nothing_of_a_file_is_there_for_another_tenant(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Every path with a foreign id is the 404 of an absent one, and changes nothing."""
    bloom = await app.tenant("bloom")
    file = await uploaded(acme)
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        foreign = await bloom.request(method, f"/v1/files/{file}{path}")
        absent = await bloom.request(method, f"/v1/files/file-{'0' * 24}{path}")
        assert foreign.status_code == absent.status_code == 404
        assert foreign.json()["error"]["message"].replace(file, "X") == absent.json()["error"]["message"].replace(
            f"file-{'0' * 24}", "X"
        )
    assert (await bloom.get("/v1/files")).json()["data"] == []
    assert (await bloom.get("/v1/files", params={"after": file})).status_code == 400
    assert (await acme.get(f"/v1/files/{file}/content")).status_code == 200


async def test_a_deleted_file_is_gone_with_its_bytes(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Row and bytes go; deleting again is 404."""
    file = await uploaded(acme)
    assert kept(app) == [f"files/{file}/{hashlib.sha256(b'x' * 400).hexdigest()}"]
    assert (await acme.delete(f"/v1/files/{file}")).json() == {"id": file, "object": "file", "deleted": True}
    assert kept(app) == []
    assert (await acme.delete(f"/v1/files/{file}")).status_code == 404


async def test_a_file_that_an_open_job_needs_stays(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """409 that names the job and asks not to be retried; after a cancellation it may go."""
    file = await uploaded(acme)
    job = await app.job(acme, await uploaded(acme), validation_file=file)
    answer = await acme.delete(f"/v1/files/{file}")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert job["id"] in answer.json()["error"]["message"]
    await acme.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert (await acme.delete(f"/v1/files/{file}")).status_code == 200


@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        (form(('name="purpose"', b"fine-tune")), 400, "file"),
        (form(('name="file"; filename="t"', LINE)), 400, "purpose"),
        (form(('name="purpose"', b"fine-tune"), ('name="file"; filename="t"', b"")), 400, "file"),
        (form(('name="purpose"', b"fine-tune"), ('name="file"; filename="t"', b"x" * 1_000_001)), 413, "file"),
        (form(('name="purpose"', b"x" * 20_000), ('name="file"; filename="t"', LINE)), 400, "purpose"),
        (form(('name="purpose"', b"\xff"), ('name="file"; filename="t"', LINE)), 400, "purpose"),
        (form(('filename="t"', LINE)), 400, None),
        (form(*[('name="a"', b"b")] * 40), 400, None),
        (form((f'name="{"n" * 9000}"', b"b")), 400, None),
        (form(('name="purpose"', b"fine-tune"), *[('name="file"; filename="t"', LINE)] * 2), 400, "file"),
        (
            {"content": b"--edge\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=edge"}},
            400,
            None,
        ),
        ({"content": b"no form at all", "headers": {"content-type": "multipart/form-data; boundary=edge"}}, 400, None),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 400, None),
        ({"content": b"", "headers": {}}, 400, None),
        (
            form(
                ('name="purpose"', b"fine-tune"),
                ('name="file"; filename="t"', LINE),
                ('name="expires_after[anchor]"', b"created_at"),
            ),
            400,
            "expires_after",
        ),
        (
            form(
                ('name="purpose"', b"fine-tune"),
                ('name="file"; filename="t"', LINE),
                ('name="expires_after[anchor]"', b"created_at"),
                ('name="expires_after[seconds]"', b"60"),
            ),
            400,
            "expires_after",
        ),
        (
            form(
                ('name="purpose"', b"fine-tune"),
                ('name="file"; filename="t"', LINE),
                ('name="expires_after[anchor]"', b"created_at"),
                ('name="expires_after[seconds]"', b"9" * 5000),
            ),
            400,
            "expires_after",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, int | str) else "form",
)
async def test_what_is_no_upload_is_refused_and_leaves_nothing(
    app: TrainingApp, acme: httpx2.AsyncClient, request_: dict[str, Any], status: int, param: str | None
) -> None:
    """OpenAI's envelope names the field; no row and no byte stays, not even under a temporary name."""
    answer = await acme.post("/v1/files", **request_)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert kept(app) == []
    assert (await acme.get("/v1/files")).json()["data"] == []


async def test_an_upload_that_breaks_off_leaves_nothing(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A client that goes away in the middle of the bytes."""

    async def cut() -> AsyncIterator[bytes]:
        whole = form(('name="purpose"', b"fine-tune"), ('name="file"; filename="t"', b"x" * 100_000))["content"]
        yield whole[:50_000]

    headers = {"content-type": "multipart/form-data; boundary=edge"}
    answer = await acme.post("/v1/files", content=cut(), headers=headers)
    assert answer.status_code == 400
    assert kept(app) == []


async def test_a_tenants_files_have_one_bound_together(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The file that would pass it is refused with `insufficient_quota` while it comes; others are not hit."""
    client = app.client("acme", limits=FileLimits(1000, 1000, 1))
    await uploaded(client, b"x" * 600)
    sent: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t", b"x" * 500)}}
    for more in (400, 0):
        refused = await client.post("/v1/files", **sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert refused.headers["x-should-retry"] == "false"
        if more:
            await uploaded(client, b"x" * more)
    assert len(kept(app)) == 2
    await app.tenant("bloom")
    await uploaded(app.client("bloom", limits=FileLimits(1000, 1000, 1)), b"x" * 600)


def held(begun: asyncio.Event, go: asyncio.Event, *blocks: bytes) -> dict[str, Any]:
    """A request whose file comes in these blocks; the first at once, the others when `go` is set."""

    async def body() -> AsyncIterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="t"\r\n\r\n' + blocks[0]
        begun.set()
        await go.wait()
        for block in blocks[1:]:
            yield block
        yield b"\r\n--edge--\r\n"

    return {"content": body(), "headers": {"content-type": "multipart/form-data; boundary=edge"}}


async def test_uploads_under_way_count_against_what_a_tenant_may_keep(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """Six begin with more than half of the room each: one goes on, five are refused while it does, not at their end."""
    client = app.client("acme", limits=FileLimits(1000, 1000, 1))
    go = asyncio.Event()
    blocks = (b"x" * 600, b"x" * 100)
    under_way = {asyncio.create_task(client.post("/v1/files", **held(asyncio.Event(), go, *blocks))) for _ in range(6)}
    async with asyncio.timeout(30):
        while len(under_way) > 1:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for refused in (task.result() for task in done):
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    go.set()
    assert (await under_way.pop()).status_code == 200
    assert app.services.uploads.tenants == {}
    await uploaded(client, b"x" * 300)


async def test_a_tenant_has_a_bounded_number_of_uploads_at_once(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The one too many is told when to come again, before its body; another tenant's goes through, its own later."""
    begun, go = [asyncio.Event() for _ in range(AT_ONCE)], asyncio.Event()
    sent = [asyncio.create_task(acme.post("/v1/files", **held(one, go, LINE))) for one in begun]
    await asyncio.gather(*(one.wait() for one in begun))
    refused = await acme.post(
        "/v1/files", **form(('name="purpose"', b"fine-tune"), ('name="file"; filename="t"', LINE))
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (refused.json()["error"]["param"], refused.headers["retry-after"]) == ("file", "2")
    await uploaded(await app.tenant("bloom"), LINE)
    go.set()
    assert {answer.status_code for answer in await asyncio.gather(*sent)} == {200}
    await uploaded(acme, LINE)


async def test_a_file_past_its_date_is_gone(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """`expires_after` in the SDK's form; the moment it is over nothing shows it, and the sweep takes its bytes."""
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = await uploaded(acme, LINE, **expiry)
    assert (await acme.get(f"/v1/files/{file}")).json()["expires_at"] == int(app.clock.now) + 3600
    app.clock.now += 3601
    assert (await acme.get(f"/v1/files/{file}")).status_code == 404
    assert (await acme.get("/v1/files")).json()["data"] == []
    await Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock).sweep()
    assert kept(app) == []


async def test_bytes_that_nobody_names_are_tidied_away(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """What a crash leaves (a half upload, a file without a row, blobs of an ended job) goes after a day, no more."""
    file = await uploaded(acme)
    job = await app.job(acme, file)
    for name in (".incoming/half", "files/file-orphan/abc", "jobs/ftjob-gone/abc", f"jobs/{job['id']}/def"):
        path = app.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    soon = max(path.stat().st_mtime for path in app.folder.rglob("*"))
    sweeper = Sweeper(app.engine, app.services.objects, app.services.terms, clock=lambda: soon)
    await sweeper.tidy()
    assert len(kept(app)) == 5
    late = Sweeper(app.engine, app.services.objects, app.services.terms, clock=lambda: soon + STALE_SECONDS + 1)
    await late.tidy()
    assert [name.rsplit("/", 1)[0] for name in kept(app)] == [f"files/{file}", f"jobs/{job['id']}"]


async def test_a_part_of_a_file_can_be_asked_for(acme: httpx2.AsyncClient) -> None:
    """Range, open at either end, as broken downloads go on with; past the end is 416 in the envelope."""
    file = await uploaded(acme, b"0123456789")
    path = f"/v1/files/{file}/content"
    for asked, status, got in (
        ("bytes=4-", 206, b"456789"),
        ("bytes=2-3", 206, b"23"),
        ("bytes=-3", 206, b"789"),
        ("lines=1", 200, b"0123456789"),
    ):
        answer = await acme.get(path, headers={"range": asked})
        assert (answer.status_code, answer.content) == (status, got)
    assert (await acme.get(path, headers={"range": "bytes=4-5"})).headers["content-range"] == "bytes 4-5/10"
    past = await acme.get(path, headers={"range": "bytes=10-"})
    assert (past.status_code, past.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert past.headers["content-range"] == "bytes */10"


def test_ranges_are_read_by_http_s_rules() -> None:
    """What is not understood is the whole, so is a tail longer than the file; an empty file has no part."""
    assert asked_range("bytes=-99", 10) == (0, 10)
    assert asked_range("bytes=0-1,3-4", 10) == (0, 10)
    assert asked_range(None, 0) == (0, 0)
    with pytest.raises(OutOfRange):
        asked_range("bytes=0-", 0)


async def test_a_key_needs_the_right_to_files(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A key for chat alone is refused before its body is read; without any key it is 401."""
    app.principals["chat-only"] = replace(app.principals["acme"], operations=frozenset({Operation.CHAT}))
    file = await uploaded(acme)
    for method, path in (
        ("POST", ""),
        ("GET", ""),
        ("GET", f"/{file}"),
        ("GET", f"/{file}/content"),
        ("DELETE", f"/{file}"),
    ):
        assert (await app.client("chat-only").request(method, f"/v1/files{path}")).status_code == 403
        assert (await app.client(None).request(method, f"/v1/files{path}")).status_code == 401
        assert (await app.trainer().request(method, f"/v1/files{path}")).status_code == 401
