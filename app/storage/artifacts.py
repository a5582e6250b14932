"""Adapter artifacts: copied once into a folder named by their content, then never changed.

`<folder>/adapters/<tenant>--<name>@<sha12>/` holds adapter_config.json and adapter_model.safetensors, nothing else. The
bytes are judged after they have been copied, so nothing can change between the look and the use; the copy is synced and
appears under its name by one rename, whole or not at all. No symbolic link, device or pipe is followed or opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import Conflict, GatewayError, InvalidRequest, Unavailable
from app.storage.adapter_files import LoraConfig, Unservable, check_tensors, read_config
from app.storage.base_shapes import BaseShapes
from app.storage.s3 import S3
from app.storage.safetensors_header import BadHeader, read_header
from app.types import AdapterVersion

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_BYTES = {CONFIG: 1024 * 1024, WEIGHTS: 16 * 1024**3}
BLOCK_BYTES = 1024 * 1024
_VERSION = re.compile(r"[a-z0-9-]+@[0-9a-f]{12}")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # never `--`, which parts tenant and adapter


def import_adapter(
    folder: Path,
    tenant_id: str,
    name: str,
    path: str,
    *,
    bases: Mapping[str, BaseShapes] | None = None,
    s3: S3 | None = None,
) -> AdapterVersion:
    """Copy an adapter from a local folder or an S3 bucket into the store; the same bytes give the same version again.

    With `bases` (shapes by the base model's name), an adapter of another base, or of other shapes, is refused.

    Blocking: call it in a thread. Raises InvalidRequest (`path`) with the reason when it is not an adapter that can be
    served, Conflict when other bytes stand under its name, Unavailable when the store cannot be written.
    """
    if not all(NAME.fullmatch(part) and len(part) <= 63 for part in (tenant_id, name)):
        raise InvalidRequest("name: expected small letters, digits and single hyphens.", param="name")
    store = folder / "adapters"
    with _writing():
        store.mkdir(parents=True, exist_ok=True)
        staging = store / f".incoming-{secrets.token_hex(8)}"
        staging.mkdir()
    try:
        if path.startswith("s3://"):
            _fetch(s3, path, staging)
        else:
            _copy(path, staging)
        config = _judge(staging, bases or {})
        sha256 = content_hash(staging)
        version_id = f"{tenant_id}--{name}@{sha256[:12]}"
        with _writing():
            _publish(staging, store / version_id, sha256)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return AdapterVersion(
        id=version_id,
        tenant_id=tenant_id,
        name=name,
        sha256=sha256,
        path=str(store / version_id),
        base_model=config.base_model,
        rank=max(config.ranks),
    )


def content_hash(folder: Path) -> str:
    """SHA-256 over both files, each led by its length, so that no bytes can move from one to the other."""
    total = hashlib.sha256(b"tunegate-adapter\x00")
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            total.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
            while block := file.read(BLOCK_BYTES):
                total.update(block)
    return total.hexdigest()


def _fetch(s3: S3 | None, path: str, staging: Path) -> None:
    if s3 is None:
        raise _refused("no object store is configured here; set adapters.s3")
    for name in (CONFIG, WEIGHTS):
        s3.download(path, name, staging / name, MAX_BYTES[name])
        with _writing(), (staging / name).open("rb") as file:
            os.fsync(file.fileno())


def _copy(path: str, staging: Path) -> None:
    if not path.startswith("/") or "\x00" in path:
        raise _refused("expected an absolute path")
    source = _open(path, os.O_DIRECTORY, "this folder")
    try:
        for name in (CONFIG, WEIGHTS):
            with os.fdopen(_open_file(name, source), "rb") as file:
                _copy_file(file, staging / name, MAX_BYTES[name])
    finally:
        os.close(source)


def _open(name: str, flags: int, said: str, *, folder: int | None = None) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as exc:
        raise _refused(f"{said} {_reason(exc, said)}") from exc


def _reason(exc: OSError, said: str) -> str:
    if exc.errno == errno.ENOENT and said == WEIGHTS:
        return "is not there: only safetensors are taken, save the adapter with safe_serialization=True"
    if exc.errno == errno.ENOENT:
        return "is not there on the gateway's machine"
    if exc.errno in (errno.ELOOP, errno.ENOTDIR):
        return "is a symbolic link or not what it should be; give the real folder and files"
    return f"cannot be opened ({exc.strerror})"


def _open_file(name: str, folder: int) -> int:
    """A regular file of the folder, opened without waiting: a pipe would wait for its writer."""
    descriptor = _open(name, os.O_NONBLOCK, name, folder=folder)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES[name]:
        return descriptor
    os.close(descriptor)
    wrong = f"larger than {MAX_BYTES[name]} bytes" if stat.S_ISREG(status.st_mode) else "not a regular file"
    raise _refused(f"{name} is {wrong}")


def _copy_file(source: BinaryIO, target: Path, most: int) -> None:
    copied = 0
    with _writing(), target.open("xb") as file:
        while block := source.read(BLOCK_BYTES):
            copied += len(block)
            if copied > most:
                raise _refused(f"{target.name} grew while it was read")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _judge(folder: Path, bases: Mapping[str, BaseShapes]) -> LoraConfig:
    try:
        config = read_config((folder / CONFIG).read_bytes())
    except Unservable as exc:
        raise _refused(f"{CONFIG}: {exc}") from exc
    if bases and config.base_model not in bases:
        known = ", ".join(sorted(bases))
        raise _refused(f"{CONFIG}: base_model_name_or_path: expected one of the served base models: {known}")
    weights = folder / WEIGHTS
    try:
        with weights.open("rb") as file:
            tensors = read_header(file, weights.stat().st_size)
        check_tensors(tensors, config)
        if bases:
            bases[config.base_model].check(tensors)
    except (BadHeader, Unservable) as exc:
        raise _refused(f"{WEIGHTS}: {exc}") from exc
    return config


def remove_adapter(folder: Path, version_id: str) -> None:
    """Remove a version's files; blocking. They vanish from their name by one rename, so nobody sees half of them."""
    if _VERSION.fullmatch(version_id) is None:
        raise ValueError(f"not a version's id: {version_id!r}")
    trash = folder / "adapters" / f".outgoing-{secrets.token_hex(8)}"
    try:
        (folder / "adapters" / version_id).rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash)


def _publish(staging: Path, final: Path, sha256: str) -> None:
    _sync_folder(staging)
    try:
        staging.rename(final)
    except OSError as exc:
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if content_hash(final) != sha256:
            raise Conflict(
                f"Other bytes stand under {final.name}: the stored files are damaged.", param="path"
            ) from exc
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing() -> Iterator[None]:
    """A store that cannot be written is ours to mend, not the caller's."""
    try:
        yield
    except OSError as exc:
        raise Unavailable(f"The artifact folder cannot be written: {exc.strerror}.") from exc


def _refused(reason: str) -> GatewayError:
    return InvalidRequest(f"path: {reason}.", param="path")
