"""Where an adapter comes from: code, libraries, data, base, recipe. What makes it believable."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "tokenizers",
    "safetensors",
    "datasets",
    "bitsandbytes",
    "ray",
)


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that decide the result; those not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_commit() -> str:
    """The git commit of this code, with `-dirty` when files differ from it; else the release it was installed from."""
    folder, git = Path(__file__).resolve().parent, shutil.which("git")
    head = _git(git, folder, "rev-parse", "HEAD")
    if git is None or head is None or _git(git, folder, "ls-files", "--error-unmatch", "provenance.py") is None:
        return f"tunegate {_release()}"
    return head + ("-dirty" if _git(git, folder, "status", "--porcelain", "--", str(folder.parent)) else "")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _git(git: str | None, folder: Path, *arguments: str) -> str | None:
    if git is None:
        return None
    ran = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, check=False, timeout=30)  # noqa: S603
    return ran.stdout.decode().strip() if ran.returncode == 0 else None


def _release() -> str:
    try:
        return version("tunegate")
    except PackageNotFoundError:
        return "unknown"
