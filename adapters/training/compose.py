"""One adapter made of several, without training (PEFT's `add_weighted_adapter`).

`linear` averages the factors (cheap, equal ranks); `svd` sums the updates and cuts the sum back to a rank; `cat` keeps
the exact sum at the sum of the ranks; `ties` (arXiv 2306.01708) drops small changes and settles signs by vote; `dare_*`
(arXiv 2311.03099) drops changes at random and rescales the rest. What is written is loaded again and must answer as the
composition in memory did.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from adapters.training.artifact import adapter_files, adapter_sha256, read_manifest, settle, version_id
from adapters.training.base_model import read_base, revision_of
from adapters.training.errors import InvalidRecipe, TrainingFailed
from adapters.training.outputs import difference, load_float32, scores
from adapters.training.provenance import code_commit, library_versions
from adapters.training.servable import check_adapter
from adapters.types import AdapterManifest

Combination = Literal[
    "linear", "svd", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"
]
_SAME = 1e-4  # relative; float32 round-off stays below a hundredth of it


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter of a composition and its weight."""

    folder: Path
    weight: float


@dataclass(frozen=True, slots=True)
class Composition:
    """What is to be made of which parts. `density` is the share of changes that ties and dare keep."""

    tenant: str
    name: str
    combination: Combination
    parts: tuple[Part, ...]
    density: float | None = None
    svd_rank: int | None = None
    seed: int = 42
    max_lora_rank: int = 16


def compose(wanted: Composition, base: Path, out: Path) -> AdapterManifest:
    """Make the adapter in `out`; refused when the parts do not go together or the result could not be served."""
    manifests = [_manifest(part.folder) for part in wanted.parts]
    rank = check_composition(wanted, manifests)
    model = _combined(wanted, base)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    model.save_pretrained(str(building), selected_adapters=["combined"], save_embedding_layers=False)
    _lift(building / "combined", building)
    check_adapter(building, read_base(base), max_lora_rank=wanted.max_lora_rank)
    distance = _proved(model, base, building)
    first = manifests[0]
    return settle(
        building,
        out,
        first.base_model,
        lambda folder: _described(wanted, folder, manifests, rank, revision_of(base), distance),
    )


def check_composition(wanted: Composition, manifests: list[AdapterManifest]) -> int:
    """The rank of the result; InvalidRecipe says which rule the parts break."""
    if wanted.combination not in get_args(Combination):
        raise InvalidRecipe(f"combination: {wanted.combination}: choose one of {', '.join(get_args(Combination))}")
    if len(manifests) < 2:
        raise InvalidRecipe("parts: a composition needs at least two adapters")
    if len({m.base_revision for m in manifests}) > 1:
        raise InvalidRecipe("parts: the adapters were trained on different bases; their updates cannot be added")
    if len({m.tenant for m in manifests} | {wanted.tenant}) > 1:
        raise InvalidRecipe("parts: the adapters belong to different tenants")
    if len({m.target_modules for m in manifests}) > 1:
        raise InvalidRecipe("parts: the adapters have different target modules; retrain one of them")
    ranks = [m.rank for m in manifests]
    by_svd = wanted.combination.endswith("svd")
    if not by_svd and wanted.combination != "cat" and len(set(ranks)) > 1:
        raise InvalidRecipe(f"combination: {wanted.combination} needs equal ranks, these are {ranks}; use svd or cat")
    if wanted.combination.startswith(("ties", "dare")) and not (wanted.density and 0 < wanted.density <= 1):
        raise InvalidRecipe(f"density: {wanted.combination} needs the share of changes to keep, above 0 and up to 1")
    rank = sum(ranks) if wanted.combination == "cat" else (wanted.svd_rank or max(ranks)) if by_svd else ranks[0]
    if rank > wanted.max_lora_rank:
        raise InvalidRecipe(
            f"the result would have rank {rank}, above the replicas' {wanted.max_lora_rank}; use svd with svd_rank"
        )
    return rank


def _manifest(folder: Path) -> AdapterManifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise InvalidRecipe(f"parts: {folder} is not a whole adapter: no manifest.json that fits its files")
    return manifest


def _combined(wanted: Composition, base: Path) -> Any:
    import torch
    from peft import PeftModel

    torch.manual_seed(wanted.seed)
    model = PeftModel.from_pretrained(load_float32(base), str(wanted.parts[0].folder), adapter_name="part0")
    for index, part in enumerate(wanted.parts[1:], start=1):
        model.load_adapter(str(part.folder), adapter_name=f"part{index}")
    model.add_weighted_adapter(
        [f"part{index}" for index in range(len(wanted.parts))],
        [part.weight for part in wanted.parts],
        "combined",
        combination_type=wanted.combination,
        svd_rank=wanted.svd_rank,
        density=wanted.density,
    )
    model.set_adapter("combined")
    return model.eval()


def _lift(inner: Path, outer: Path) -> None:
    """PEFT saves a named adapter one folder deeper."""
    for file in list(inner.iterdir()):
        file.replace(outer / file.name)
    inner.rmdir()


def _proved(model: Any, base: Path, folder: Path) -> float:
    """Load what was written and compare; returns how far the composition moves the base."""
    from adapters.training.model import load_tokenizer

    tokenizer = load_tokenizer(base)
    inside, written = scores(model, tokenizer), scores(load_float32(base, folder), tokenizer)
    if difference(inside, written) > _SAME:
        raise TrainingFailed(
            "the composed adapter on disk does not answer as the composition in memory; nothing was kept"
        )
    return difference(scores(load_float32(base), tokenizer), written)


def _described(
    wanted: Composition, folder: Path, parts: list[AdapterManifest], rank: int, revision: str, distance: float
) -> AdapterManifest:
    sha256, first = adapter_sha256(folder), parts[0]
    config = {
        "combination": wanted.combination,
        "weights": [part.weight for part in wanted.parts],
        "density": wanted.density,
        "svd_rank": wanted.svd_rank,
    }
    return AdapterManifest(
        tenant=wanted.tenant,
        name=wanted.name,
        version=version_id(wanted.tenant, wanted.name, sha256),
        sha256=sha256,
        files=adapter_files(folder),
        base_model=first.base_model,
        base_revision=revision,
        method=f"composed-{wanted.combination}",
        rank=rank,
        alpha=float(rank),
        target_modules=first.target_modules,
        dataset="+".join(part.dataset for part in parts),
        dataset_sha256="+".join(part.dataset_sha256 for part in parts),
        config=config,
        config_sha256=sha256_of(config),
        seed=wanted.seed,
        code_commit=code_commit(),
        libraries=library_versions(),
        metrics={"distance_from_base": distance},
        created_at=time.time(),
        parents=tuple(part.version for part in parts),
    )


def sha256_of(config: dict[str, Any]) -> str:
    """Hash of a configuration, whatever the order of its fields."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
