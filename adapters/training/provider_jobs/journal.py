"""What has been done at a provider, on disk, so that a crash repeats nothing.

One JSON file per job, replaced atomically and synced *before* the next step is taken. What a crash can still lose is
the answer to the one request in flight; `job.py` then looks at the provider whether it took effect. A file lock keeps
two processes of one machine from working on the same job at the same time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from adapters.training.provider_jobs.errors import ProviderRefused


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of the provider. The hashes are of the files' bytes; another `attempt` is another job."""

    base_url: str
    model: str
    training_sha256: str
    validation_sha256: str = ""
    suffix: str = ""
    seed: int = 42
    n_epochs: int = 0
    batch_size: int = 0
    learning_rate_multiplier: float = 0.0
    dataset: str = ""
    attempt: int = 0

    @property
    def key(self) -> str:
        """The job's identity: the same request is the same job, however often it is made."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a job has come. Empty strings are steps not taken; `last_event` is the newest event that was told."""

    request: JobRequest
    training_path: str = ""
    validation_path: str = ""
    training_file: str = ""
    validation_file: str = ""
    job_id: str = ""
    status: str = ""
    model: str = ""
    trained_tokens: int = 0
    last_event: str = ""
    error: str = ""


class Journal:
    """The record of one job on disk."""

    def __init__(self, folder: Path, request: JobRequest) -> None:
        self._path = folder / f"{request.key}.json"
        self.record = self._read() or Record(request=request)

    def note(self, **changes: Any) -> Record:
        """Write down a step that was taken; on the disk when this returns."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(self.record), indent=1))
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(self._path)
        return self.record

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the job on this machine; ProviderRefused when another process does."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise ProviderRefused(f"job {self.record.request.key}: another process is working on it") from exc
            self.record = self._read() or self.record
            yield

    def _read(self) -> Record | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None


def records(folder: Path) -> list[Record]:
    """All jobs of a journal folder, by key."""
    return [msgspec.json.decode(path.read_bytes(), type=Record) for path in sorted(folder.glob("*.json"))]
