"""A finished adapter on disk: two PEFT files and the manifest, which is written last.

The folder is built under a temporary name and renamed, so a folder with the final name is whole. The identity is a hash
over the two files, never over their packaging.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters.training.errors import TrainingFailed
from adapters.training.provenance import file_sha256
from adapters.training.servable import CONFIG_FILE, WEIGHTS_FILE
from adapters.types import AdapterFile, AdapterManifest

MANIFEST_FILE = "manifest.json"
_BLOCK = 1 << 20
_ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)


def adapter_sha256(folder: Path) -> str:
    """The content address of an adapter, as the gateway's store computes it (docs/training-api.md, "Complete")."""
    total = hashlib.sha256(b"tunegate-adapter\0")
    for name in _ADAPTER_FILES:
        total.update((folder / name).stat().st_size.to_bytes(8, "big"))
        with (folder / name).open("rb") as opened:
            while block := opened.read(_BLOCK):
                total.update(block)
    return total.hexdigest()


def version_id(tenant: str, name: str, sha256: str) -> str:
    """`tenant--name@sha12`."""
    return f"{tenant}--{name}@{sha256[:12]}"


def adapter_files(folder: Path) -> tuple[AdapterFile, ...]:
    """The files as the manifest lists them."""
    return tuple(
        AdapterFile(name, file_sha256(folder / name), (folder / name).stat().st_size) for name in _ADAPTER_FILES
    )


def settle(
    building: Path, final: Path, base_name: str, manifest_of: Callable[[Path], AdapterManifest]
) -> AdapterManifest:
    """Tidy a folder that PEFT has written, write its manifest, and give it its final name."""
    tidy(building, base_name)
    manifest = manifest_of(building)
    path = building / MANIFEST_FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    for file in building.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(final, ignore_errors=True)
    building.replace(final)
    return manifest


def read_manifest(folder: Path) -> AdapterManifest | None:
    """The manifest of a whole adapter whose files are what it says, or None."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=AdapterManifest)
    except FileNotFoundError:
        return None
    return manifest if adapter_sha256(folder) == manifest.sha256 else None


def tidy(folder: Path, base_name: str) -> None:
    """Name the base neutrally, sort what PEFT leaves in any order, and drop what is not the adapter."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise TrainingFailed("the training ended without an adapter_config.json")
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        if file.name in _ADAPTER_FILES:
            file.chmod(0o644)
        elif file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


def pack(folder: Path, target: Path) -> str:
    """Make the same tar for the same files, whoever makes it and when; returns its SHA-256."""
    with target.open("wb") as opened, tarfile.open(fileobj=opened, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
    return file_sha256(target)


def unpack(archive: bytes | Path, target: Path) -> None:
    """Unpack a tar of `pack` into a new folder; only plain files at the top level are taken."""
    opened = tarfile.open(fileobj=io.BytesIO(archive)) if isinstance(archive, bytes) else tarfile.open(archive)  # noqa: SIM115
    target.mkdir(parents=True)
    with opened as tar:
        for entry in tar:
            if not entry.isfile() or "/" in entry.name or entry.name.startswith("."):
                raise TrainingFailed("the archive holds something other than plain files at its top level")
            content = tar.extractfile(entry)
            if content is not None:
                with (target / entry.name).open("wb") as out:
                    shutil.copyfileobj(content, out)
