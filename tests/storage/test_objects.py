"""The object store: whole or not at all, under keys of the gateway's making."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.errors import BodyTooLarge, Damaged, InvalidRequest, NotFound, Unavailable
from app.storage.objects import BLOCK_BYTES, LocalObjects

KEY = "files/file-1"


async def parts(*content: bytes) -> AsyncIterator[bytes]:
    """Content as it comes over a socket."""
    for part in content:
        yield part


def left(folder: Path) -> list[str]:
    """Every file there is."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_what_was_put_is_read_back(tmp_path: Path) -> None:
    """Size and hash are those of the bytes, over several blocks; a part can be read; putting again replaces."""
    objects = LocalObjects(tmp_path)
    content = [b"a" * BLOCK_BYTES, b"b" * (BLOCK_BYTES // 2), b"c" * BLOCK_BYTES]
    stored = await objects.put(KEY, parts(*content), max_bytes=10**8)
    whole = b"".join(content)
    assert (stored.bytes, stored.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await objects.size(KEY) == len(whole)
    with await objects.open(KEY) as opened:
        assert opened.read() == whole
    await objects.put(KEY, parts(b"new"), max_bytes=10)
    with await objects.open(KEY) as opened:
        assert opened.read() == b"new"
    assert left(tmp_path) == [KEY]


async def test_a_put_that_fails_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    """Too large, another hash, refused by its judge, broken off: the object that was there is untouched."""
    objects = LocalObjects(tmp_path)
    await objects.put(KEY, parts(b"old"), max_bytes=10)

    def refuses(_: Path) -> None:
        raise InvalidRequest("no")

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x"
        raise InvalidRequest("gone")

    with pytest.raises(BodyTooLarge):
        await objects.put(KEY, parts(b"x" * 11), max_bytes=10)
    with pytest.raises(Damaged):
        await objects.put(KEY, parts(b"x"), max_bytes=10, sha256="0" * 64)
    with pytest.raises(InvalidRequest, match="no"):
        await objects.put(KEY, parts(b"x"), max_bytes=10, judge=refuses)
    with pytest.raises(InvalidRequest, match="gone"):
        await objects.put(KEY, breaks(), max_bytes=10)
    with await objects.open(KEY) as opened:
        assert opened.read() == b"old"
    assert left(tmp_path) == [KEY]


async def test_what_is_deleted_is_gone_and_an_open_one_stays_readable(tmp_path: Path) -> None:
    """A download under way ends whole; deleting twice is no error; a prefix takes all under it."""
    objects = LocalObjects(tmp_path)
    await objects.put(KEY, parts(b"content"), max_bytes=10)
    opened = await objects.open(KEY)
    await objects.delete(KEY)
    await objects.delete(KEY)
    with opened:
        assert opened.read() == b"content"
    assert await objects.size(KEY) is None
    with pytest.raises(NotFound):
        await objects.open(KEY)
    for number in "12":
        await objects.put(f"jobs/ftjob-1/{number}", parts(b"x"), max_bytes=10)
    await objects.delete_all("jobs/ftjob-1")
    await objects.delete_all("jobs/ftjob-1")
    assert left(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_503(tmp_path: Path) -> None:
    """Ours to mend: the caller hears that nothing was kept."""
    place = tmp_path / "a-file"
    place.write_text("x", encoding="utf-8")
    with pytest.raises(Unavailable, match="Nothing was kept"):
        await LocalObjects(place).put(KEY, parts(b"x"), max_bytes=10)


@pytest.mark.parametrize(
    "key", ["../x", "files/../x", "files/", "/etc/passwd", "files/a/b/c", "files/.x", "Files/x", ""]
)
async def test_a_key_of_another_form_is_a_defect(tmp_path: Path, key: str) -> None:
    """Nothing outside the folder can be named."""
    with pytest.raises(ValueError, match="not a key"):
        await LocalObjects(tmp_path).size(key)
