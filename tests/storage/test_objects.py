"""The object store, in a folder and in a bucket: whole or not at all, under names of the gateway's making."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from app.errors import BodyTooLarge, Damaged, InvalidRequest, NotFound, Unavailable
from app.settings import ObjectStoreSettings, SettingsError, Training
from app.storage.objects import Objects
from app.storage.objects.bucket import BucketObjects
from app.storage.objects.local import LocalObjects
from app.storage.objects.requests import TIMEOUT, Requests, connected
from app.storage.objects.staging import BLOCK_BYTES, STALE_SECONDS, Staging
from app.wiring import bucket_of
from tests.support.fault_proxy import fault_proxy
from tests.support.s3_server import Bucket

OWNER = "files/file-1"
PART_BYTES = 5 * 1024 * 1024  # the smallest that S3 takes
HASH = hashlib.sha256(b"content").hexdigest()


@dataclass(frozen=True)
class Store:
    """A store, and everything that lies in it or waits to."""

    objects: Objects
    left: Callable[[], Awaitable[list[str]]]


@pytest.fixture
async def requests(s3_bucket: Bucket, request: pytest.FixtureRequest) -> AsyncIterator[Requests]:
    """Signed requests to a folder of this test's own."""
    folder = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    async with connected(f"s3://{s3_bucket.name}/{folder}/a", s3_bucket.s3) as made:
        yield made


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, requests: Requests) -> Store:
    """One after the other."""
    if request.param == "folder":
        return folder_store(tmp_path)
    return bucket_store(requests, tmp_path)


def folder_store(folder: Path) -> Store:
    """Objects in a folder."""

    async def left() -> list[str]:
        return files(folder)

    return Store(LocalObjects(folder), left)


def bucket_store(requests: Requests, folder: Path) -> Store:
    """Objects in a bucket; uploads wait in the folder."""

    async def left() -> list[str]:
        listed = (await requests.send("GET", "", {"list-type": "2", "prefix": requests.prefix})).text
        keys = [part.split("</Key>")[0].removeprefix(requests.prefix) for part in listed.split("<Key>")[1:]]
        begun = (await requests.send("GET", "", {"uploads": "", "prefix": requests.prefix})).text
        return sorted(keys) + files(folder) + ["begun"] * begun.count("<UploadId>")

    return Store(BucketObjects(requests, Staging(folder), part_bytes=PART_BYTES), left)


async def parts(*content: bytes) -> AsyncIterator[bytes]:
    """Content as it comes over a socket."""
    for part in content:
        yield part


def files(folder: Path) -> list[str]:
    """Every file there is."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def read(objects: Objects, key: str, start: int = 0, end: int | None = None) -> bytes:
    """An object, or a part of it."""
    async with objects.read(key, start, end) as blocks:
        return b"".join([block async for block in blocks])


@pytest.mark.parametrize("blocks", [1, 5, 12], ids=lambda blocks: f"{blocks} MiB")
async def test_what_was_put_is_read_back(store: Store, blocks: int) -> None:
    """Size and hash are those of the bytes, also over several parts of an upload; a span, or a file, can be had."""
    content = [bytes([number]) * BLOCK_BYTES for number in range(blocks)] + [b"the end"]
    whole = b"".join(content)
    stored = await store.objects.put(OWNER, parts(*content), max_bytes=10**8)
    assert (stored.bytes, stored.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    key = f"{OWNER}/{stored.sha256}"
    assert await store.objects.size(key) == len(whole)
    assert await read(store.objects, key) == whole
    assert await read(store.objects, key, len(whole) - 7) == b"the end"
    assert await read(store.objects, key, BLOCK_BYTES - 1, BLOCK_BYTES + 1) == whole[BLOCK_BYTES - 1 : BLOCK_BYTES + 1]
    async with store.objects.file(key) as file:
        assert file.read() == whole
    await store.objects.put(OWNER, parts(whole), max_bytes=10**8, sha256=stored.sha256)
    assert await store.left() == [key]


async def test_a_put_that_fails_leaves_nothing_and_keeps_what_was(store: Store) -> None:
    """Too large, another hash, refused by its judge, broken off: the object that was there is untouched."""
    await store.objects.put(OWNER, parts(b"content"), max_bytes=10)

    def refuses(_: Path) -> None:
        raise InvalidRequest("no")

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x"
        raise InvalidRequest("gone")

    with pytest.raises(BodyTooLarge):
        await store.objects.put(OWNER, parts(b"x" * 11), max_bytes=10)
    with pytest.raises(Damaged):
        await store.objects.put(OWNER, parts(b"x"), max_bytes=10, sha256="0" * 64)
    with pytest.raises(InvalidRequest, match="no"):
        await store.objects.put(OWNER, parts(b"x"), max_bytes=10, judge=refuses)
    with pytest.raises(InvalidRequest, match="gone"):
        await store.objects.put(OWNER, breaks(), max_bytes=10)
    assert await read(store.objects, f"{OWNER}/{HASH}") == b"content"
    assert await store.left() == [f"{OWNER}/{HASH}"]


async def test_what_is_deleted_is_gone(store: Store) -> None:
    """Deleting twice is no error; an owner's objects go together, and no others."""
    await store.objects.put(OWNER, parts(b"content"), max_bytes=10)
    key = f"{OWNER}/{HASH}"
    await store.objects.delete(key)
    await store.objects.delete(key)
    assert await store.objects.size(key) is None
    with pytest.raises(NotFound):
        await read(store.objects, key)
    with pytest.raises(NotFound):
        async with store.objects.file(key):
            pass
    for owner in ("jobs/ftjob-1", "jobs/ftjob-12"):
        for content in (b"one", b"content"):
            await store.objects.put(owner, parts(content), max_bytes=10)
    await store.objects.delete_all("jobs/ftjob-1")
    await store.objects.delete_all("jobs/ftjob-1")
    assert {key.split("/")[1] for key in await store.left()} == {"ftjob-12"}


async def test_owners_are_found_by_their_age(store: Store) -> None:
    """One that got something since is not old; another kind is not looked at; a broken upload is swept a day late."""
    for owner in ("files/file-1", "files/file-2", "jobs/ftjob-1"):
        await store.objects.put(owner, parts(b"content"), max_bytes=10)
    later = time.time() + 100
    assert await store.objects.old_names("files", later) == {"file-1", "file-2"}
    assert await store.objects.old_names("files", later - 1000) == set()
    assert await store.objects.sweep(later + STALE_SECONDS) == 0
    assert len(await store.left()) == 3


@pytest.mark.parametrize(
    "key", ["../x", "files/../x", "files/", "/etc/passwd", "files/a/b/c", "files/.x", "Files/x", "", "files/a/b"]
)
async def test_a_key_of_another_form_is_a_defect(store: Store, key: str) -> None:
    """Nothing outside the store can be named, by any of its doors."""
    with pytest.raises(ValueError, match="not a key"):
        await store.objects.size(key)
    with pytest.raises(ValueError, match="not a key"):
        await store.objects.put(key, parts(b"x"), max_bytes=1)
    with pytest.raises(ValueError, match="not a key"):
        await store.objects.delete_all(key)
    assert await store.left() == []


async def test_an_open_object_of_a_folder_stays_readable(tmp_path: Path) -> None:
    """A download under way ends whole, whoever deletes meanwhile."""
    objects = LocalObjects(tmp_path)
    await objects.put(OWNER, parts(b"content"), max_bytes=10)
    async with objects.read(f"{OWNER}/{HASH}") as blocks:
        await objects.delete_all(OWNER)
        assert b"".join([block async for block in blocks]) == b"content"


async def test_a_folder_that_cannot_be_written_is_503(tmp_path: Path) -> None:
    """Ours to mend: the caller hears that nothing was kept."""
    place = tmp_path / "a-file"
    place.write_text("x", encoding="utf-8")
    with pytest.raises(Unavailable, match="Nothing was kept"):
        await LocalObjects(place).put(OWNER, parts(b"x"), max_bytes=10)


async def test_an_upload_in_parts_that_was_broken_off_is_swept(requests: Requests, tmp_path: Path) -> None:
    """What a killed gateway has begun in the bucket, and the file it had here, go a day later."""
    store = bucket_store(requests, tmp_path)
    await requests.send("POST", f"{OWNER}/{HASH}", {"uploads": ""})
    (tmp_path / "half").write_bytes(b"x")
    listed = (await requests.send("GET", "", {"uploads": ""})).text
    begun = datetime.fromisoformat(listed.split("<Initiated>")[1].split("<")[0]).timestamp()
    assert await store.objects.sweep(begun + 100) == 0
    assert await store.left() == ["half", "begun"]
    assert await store.objects.sweep(time.time() + STALE_SECONDS + 100) == 2
    assert await store.left() == []


async def test_a_listing_is_read_to_its_end(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that answers two keys at a time shows five."""
    send = requests.send

    async def short(method: str, key: str, query: dict[str, str] | None = None, **more: object) -> object:
        pages = {"max-keys": "2"} if query and "list-type" in query else {}
        return await send(method, key, {**(query or {}), **pages}, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(requests, "send", short)
    objects = bucket_store(requests, tmp_path).objects
    for number in range(5):
        await objects.put(f"files/file-{number}", parts(b"content"), max_bytes=10)
    assert len(await objects.old_names("files", time.time() + 100)) == 5


async def test_an_upload_that_fails_in_a_part_is_taken_back(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts before it do not stay to be paid for."""
    store = bucket_store(requests, tmp_path)
    send = requests.send

    async def ill(method: str, key: str, query: dict[str, str] | None = None, **more: object) -> object:
        if query and query.get("partNumber") == "2":
            raise Unavailable("gone")
        return await send(method, key, query, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="gone"):
        patched.setattr(requests, "send", ill)
        await store.objects.put(OWNER, parts(b"x" * (PART_BYTES + 1)), max_bytes=10**8)
    assert await store.left() == []


async def test_an_outage_is_tried_again_and_then_said(s3_bucket: Bucket, tmp_path: Path) -> None:
    """A connection that is cut costs a second try; a store that stays away is 503, with nothing kept."""
    async with (
        fault_proxy(int(s3_bucket.s3.endpoint.rsplit(":", 1)[1])) as proxy,
        httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as client,
    ):
        s3 = replace(s3_bucket.s3, endpoint=f"http://127.0.0.1:{proxy.port}")
        objects = BucketObjects(Requests(client, s3, s3_bucket.name, "outage/", pauses=(0.05,) * 40), Staging(tmp_path))
        proxy.refuse = True
        put = asyncio.create_task(objects.put(OWNER, parts(b"content"), max_bytes=10))
        while proxy.connections < 2:
            await asyncio.sleep(0.01)
        proxy.refuse = False
        assert (await put).sha256 == HASH
        hasty = BucketObjects(Requests(client, s3, s3_bucket.name, "outage/", pauses=()), Staging(tmp_path))
        proxy.refuse = True
        proxy.reset_all()
        with pytest.raises(Unavailable, match=r"cannot be reached: [A-Za-z]+\. Nothing was kept"):
            await hasty.put(OWNER, parts(b"content"), max_bytes=10)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await read(hasty, f"{OWNER}/{HASH}")
        assert files(tmp_path) == []


async def test_a_wrong_key_is_said_with_the_stores_own_word(s3_bucket: Bucket, tmp_path: Path) -> None:
    """The server recomputes every signature; the operator reads what it made of ours, and no secret."""
    wrong = replace(s3_bucket.s3, secret_key="a-wrong-secret")
    async with connected(f"s3://{s3_bucket.name}", wrong) as requests:
        objects = BucketObjects(requests, Staging(tmp_path))
        with pytest.raises(Unavailable, match="403 SignatureDoesNotMatch") as raised:
            await objects.put(OWNER, parts(b"x"), max_bytes=1)
        assert "a-wrong-secret" not in str(raised.value)
        with pytest.raises(Unavailable, match="403"):
            await read(objects, f"{OWNER}/{HASH}")
    async with connected("s3://no-such-bucket", s3_bucket.s3) as requests:
        with pytest.raises(Unavailable, match="404 NoSuchBucket"):
            await BucketObjects(requests, Staging(tmp_path)).put(OWNER, parts(b"x"), max_bytes=1)


def test_a_bucket_is_named_whole_or_the_gateway_does_not_start() -> None:
    """An address and its key; what lacks one of them is refused by the setting's name."""
    key = ObjectStoreSettings(endpoint="https://s3.example", access_key="AKIA", signing_key=SecretStr("x"))
    assert bucket_of(Training()) is None
    found = bucket_of(Training(store_url="s3://tunegate/prod", s3=key))
    assert found is not None
    assert (found[0], found[1].endpoint) == ("s3://tunegate/prod", "https://s3.example")
    with pytest.raises(SettingsError, match=r"training\.s3\.access_key"):
        bucket_of(Training(store_url="s3://tunegate/prod"))
    for url in ("s3://", "https://tunegate", "s3://tunegate//a", "s3://Tunegate", "s3://tunegate/a?b"):
        with pytest.raises(SettingsError, match="expected s3://bucket/folder"):
            bucket_of(Training(store_url=url, s3=key))
