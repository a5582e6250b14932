"""From an uploaded tar to a version in the artifact store, judged by the rules of an import and by its job."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from app.api.fine_tuning.services import TrainingServices
from app.errors import InvalidRequest
from app.storage.archives import unpack
from app.storage.artifacts import CONFIG, WEIGHTS, import_adapter
from app.storage.tuning.jobs import Job
from app.types import AdapterVersion

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1024 * 1024
MEMBERS = frozenset({CONFIG, WEIGHTS, MANIFEST})
LINEAGE = (
    "base_model", "base_revision", "method", "rank", "alpha", "dataset", "dataset_sha256", "config_sha256", "seed",
    "code_commit", "libraries", "metrics", "quantization", "parents",
)  # fmt: skip


async def imported(
    services: TrainingServices, job: Job, key: str, adapter_sha256: str, manifest: Mapping[str, Any]
) -> AdapterVersion:
    """Import the job's adapter out of a blob; raises InvalidRequest with what is wrong, NotFound without the blob.

    Importing is not registering: the files have their content's name, and importing them again changes nothing.
    """
    if manifest.get("base_model") != job.base:
        raise InvalidRequest("manifest.base_model: it is not the base of this job.", param="manifest.base_model")
    async with services.objects.file(key) as file:
        version, packed = await asyncio.to_thread(partial(_import, services, job, file))
    if version.sha256 != adapter_sha256:
        message = "adapter_sha256: the files in the artifact have another content hash."
        raise InvalidRequest(message, param="adapter_sha256")
    if packed != manifest:
        raise InvalidRequest("manifest: the manifest in the artifact is another one.", param="manifest")
    return version


def lineage(job: Job, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where the version comes from: its job and files, and what the trainer wrote down, figures and hashes only."""
    found = {name: manifest[name] for name in LINEAGE if name in manifest}
    files = {"training_file": job.training_file, "validation_file": job.validation_file}
    return {"fine_tuning_job": job.id, **files, **found}


def _import(services: TrainingServices, job: Job, file: Any) -> tuple[AdapterVersion, Any]:
    admin = services.admin
    admin.artifacts.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=admin.artifacts) as folder:
        unpack(file, Path(folder), MEMBERS)
        manifest = Path(folder, MANIFEST)
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise InvalidRequest(f"{MANIFEST}: larger than {MAX_MANIFEST_BYTES} bytes.", param="artifact")
        try:
            packed = msgspec.json.decode(manifest.read_bytes())
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidRequest(f"{MANIFEST}: not JSON.", param="artifact") from exc
        try:
            version = import_adapter(
                admin.artifacts, job.tenant_id, job.name, str(Path(folder).resolve()), bases=admin.bases
            )
        except InvalidRequest as exc:
            raise InvalidRequest(f"artifact: {exc.message.removeprefix('path: ')}", param="artifact") from exc
    return version, packed
