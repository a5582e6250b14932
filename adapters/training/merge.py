"""An adapter merged into its base: a plain model that any engine serves, for the one tenant who fills a replica alone.

Merged in float32 and saved in the base's own type. Never into quantized weights: rounding there changes answers (PEFT
issues 1043, 2105, 2321); merge into the 16-bit base and quantize afterwards. The merged model is loaded back from disk
and must answer as base and adapter do, within what the type can hold; only then does it get its final name.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.training.artifact import read_manifest
from adapters.training.base_model import read_base, revision_of
from adapters.training.errors import InvalidRecipe, TrainingFailed
from adapters.training.model import load_tokenizer, quiet
from adapters.training.outputs import difference, load_float32, scores

_TOLERANCE = {
    "torch.float32": 1e-4,
    "torch.float16": 5e-3,
    "torch.bfloat16": 2e-2,
}  # relative; 1.2e-3 was measured for bfloat16


@dataclass(frozen=True, slots=True)
class Merged:
    """What was made, and how far its answers are from base and adapter (a share of the largest score)."""

    folder: Path
    version: str
    base_revision: str
    difference: float


def merge(base: Path, adapter: Path, out: Path) -> Merged:
    """Merge and save under `out`, which must not exist yet."""
    import torch
    from transformers import AutoConfig

    quiet()
    manifest = read_manifest(adapter)
    if manifest is None:
        raise InvalidRecipe(f"{adapter} is not a whole adapter: no manifest.json that fits its files")
    if read_base(base).quantized:
        raise InvalidRecipe("base: its weights are quantized; merge into the 16-bit base and quantize the result")
    if revision_of(base) != manifest.base_revision:
        raise InvalidRecipe(f"base: this adapter was trained on revision {manifest.base_revision}, not on this one")
    if out.exists():
        raise InvalidRecipe(f"{out} exists already; merged models are never overwritten")
    tokenizer = load_tokenizer(base)
    tuned = load_float32(base, adapter)
    wanted = scores(tuned, tokenizer)
    kind = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    tuned.merge_and_unload().to(kind).save_pretrained(building)
    tokenizer.save_pretrained(building)
    distance = difference(wanted, scores(load_float32(building), tokenizer))
    if distance > _TOLERANCE.get(str(kind), 1e-4):
        raise TrainingFailed(
            f"the merged model answers differently (by {distance:.3f} of the largest score); nothing was kept"
        )
    note = {"adapter": manifest.version, "base_revision": manifest.base_revision, "difference": distance}
    (building / "merge.json").write_bytes(msgspec.json.encode(note) + b"\n")
    building.replace(out)
    return Merged(out, manifest.version, manifest.base_revision, distance)
