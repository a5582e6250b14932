"""`/v1/files`: a tenant's files, in OpenAI's shape. Bytes go from the socket into the object store block by block."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel

from app.api.admin.fields import PRINTABLE
from app.api.body import streamed
from app.api.fine_tuning.guard import Caller, FilesRoute, Services, UploadRoute
from app.api.fine_tuning.services import TrainingServices
from app.api.fine_tuning.uploads import Upload
from app.api.multipart import Multipart, Part
from app.api.objects import ObjectResponse, respond_with
from app.errors import InvalidRequest
from app.storage.tuning import files
from app.storage.tuning.files import File
from app.types import Stored

PURPOSES = ("fine-tune", "batch")
EXPIRY_SECONDS = (3600, 2_592_000)
uploads = APIRouter(tags=["files"], route_class=UploadRoute)
router = APIRouter(prefix="/v1/files", tags=["files"], route_class=FilesRoute)
FileId = Annotated[str, Path(pattern=r"^file-[A-Za-z0-9_-]{1,35}$", description="The file.")]
Store = Callable[[AsyncIterator[bytes]], Awaitable[Stored]]
_logger = structlog.get_logger()


class FileJson(BaseModel):
    """A file in OpenAI's shape."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, file: File) -> FileJson:
        """The same as JSON."""
        expires = None if file.expires_at is None else int(file.expires_at)
        fields = {"id": file.id, "bytes": file.bytes, "filename": file.filename, "purpose": file.purpose}
        return cls(**fields, created_at=int(file.created_at), expires_at=expires)


class FilesPage(BaseModel):
    """A part of the listing."""

    object: Literal["list"] = "list"
    data: list[FileJson]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedJson(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


@uploads.post("/v1/files")
async def upload(request: Request, caller: Caller, services: Services) -> FileJson:
    """Upload a file (multipart: `file`, `purpose`, and `expires_after` if it shall not stay)."""
    form = Multipart(request.headers.get("content-type", ""), streamed(request))
    file_id = f"file-{secrets.token_hex(12)}"
    async with AsyncExitStack() as unless_kept:
        unless_kept.push_async_callback(services.objects.delete_all, files.owner(file_id))
        with services.uploads.one(caller.tenant_id) as one:
            fields, filename, stored = await _received(form, partial(_stored, services, one, file_id))
            now = services.clock()
            file = File(
                id=file_id,
                tenant_id=caller.tenant_id,
                filename=filename,
                purpose=_purpose(fields),
                bytes=stored.bytes,
                sha256=stored.sha256,
                created_at=now,
                expires_at=_expiry(fields, now),
            )
            async with services.write() as connection:
                await files.add(connection, file, max_stored_bytes=services.limits.max_stored_bytes)
        unless_kept.pop_all()
    _logger.info("file_uploaded", tenant=file.tenant_id, file=file.id, bytes=file.bytes, purpose=file.purpose)
    return FileJson.of(file)


@router.get("")
async def listing(
    caller: Caller,
    services: Services,
    purpose: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    after: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FilesPage:
    """The tenant's files, newest first unless `order=asc`."""
    async with services.read() as connection:
        page = await files.listing(
            connection,
            caller.tenant_id,
            now=services.clock(),
            purpose=purpose,
            after=after,
            limit=limit,
            newest_first=order == "desc",
        )
    data = [FileJson.of(file) for file in page.items]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return FilesPage(data=data, has_more=page.has_more, first_id=ends[0], last_id=ends[1])


@router.get("/{file_id}")
async def get(file_id: FileId, caller: Caller, services: Services) -> FileJson:
    """One file."""
    return FileJson.of(await _get(services, caller.tenant_id, file_id))


@router.get("/{file_id}/content", status_code=200, response_class=ObjectResponse)
async def content(file_id: FileId, request: Request, caller: Caller, services: Services) -> ObjectResponse:
    """A file's bytes; `Range` is understood."""
    file = await _get(services, caller.tenant_id, file_id)
    key = files.object_key(file)
    return respond_with(request, services.objects, key, size=file.bytes, sha256=file.sha256, filename=file.filename)


@router.delete("/{file_id}")
async def delete(file_id: FileId, caller: Caller, services: Services) -> DeletedJson:
    """Delete a file that no open job needs."""
    async with services.write() as connection:
        await files.remove(connection, caller.tenant_id, file_id, now=services.clock())
    await services.objects.delete_all(files.owner(file_id))
    return DeletedJson(id=file_id)


async def _get(services: TrainingServices, tenant_id: str, file_id: str) -> File:
    async with services.read() as connection:
        return await files.get(connection, tenant_id, file_id, now=services.clock())


async def _received(form: Multipart, store: Store) -> tuple[dict[str, str], str, Stored]:
    """Fields, file name and what was stored; a purpose that comes before the file is judged before its bytes."""
    fields: dict[str, str] = {}
    filename, stored = "", None
    while (part := await form.next_part()) is not None:
        if part.filename is None and part.name != "file":
            fields[part.name] = await form.text(part.name)
        elif part.name == "file" and stored is None:
            if "purpose" in fields:
                _purpose(fields)
            filename = _filename(part)
            stored = await store(form.content())
        else:
            raise InvalidRequest("file: expected one file, in the part `file`.", param="file")
    if stored is None:
        raise InvalidRequest("file: is required.", param="file", code="missing_required_parameter")
    if stored.bytes == 0:
        raise InvalidRequest("file: it is empty.", param="file")
    return fields, filename, stored


async def _stored(services: TrainingServices, one: Upload, file_id: str, content: AsyncIterator[bytes]) -> Stored:
    async with services.read() as connection:
        kept = await files.stored_bytes(connection, one.tenant_id)
    counted = one.counted(content, kept=kept, most=services.limits.max_stored_bytes)
    return await services.objects.put(files.owner(file_id), counted, max_bytes=services.limits.max_file_bytes)


def _filename(part: Part) -> str:
    name = (part.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in name if character.isprintable())[:255] or "file"


def _purpose(fields: Mapping[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose: is required.", param="purpose", code="missing_required_parameter")
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose: expected one of: {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def _expiry(fields: Mapping[str, str], now: float) -> float | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    low, high = EXPIRY_SECONDS
    if anchor != "created_at" or (after := _whole(seconds or "", low, high)) is None:
        message = f"expires_after: expected the anchor created_at and seconds from {low} to {high}."
        raise InvalidRequest(message, param="expires_after")
    return now + after


def _whole(text: str, low: int, high: int) -> int | None:
    """The number that is written there, if it is one of this range; Python reads no more than 4,300 digits."""
    return int(text) if text.isdecimal() and len(text) <= len(str(high)) and low <= int(text) <= high else None
