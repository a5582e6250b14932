"""The manifest of an adapter, from what was asked and what was measured."""

from __future__ import annotations

from pathlib import Path

from adapters.training.artifact import adapter_files, adapter_sha256, version_id
from adapters.training.base_model import revision_of
from adapters.training.plan import TrainingPlan
from adapters.training.preflight import Checked
from adapters.training.provenance import code_commit, library_versions
from adapters.types import AdapterManifest


def manifest_for(
    plan: TrainingPlan, checked: Checked, folder: Path, metrics: dict[str, float], created_at: float
) -> AdapterManifest:
    """Everything that is needed to believe this adapter, and to train it again."""
    recipe, sha256 = checked.recipe, adapter_sha256(folder)
    return AdapterManifest(
        tenant=plan.tenant,
        name=plan.name,
        version=version_id(plan.tenant, plan.name, sha256),
        sha256=sha256,
        files=adapter_files(folder),
        base_model=plan.base_name,
        base_revision=revision_of(checked.base.path),
        method=recipe.adapter.kind,
        rank=recipe.adapter.rank,
        alpha=recipe.adapter.alpha,
        target_modules=checked.targets,
        dataset=plan.dataset,
        dataset_sha256=plan.dataset_sha256,
        config=recipe.model_dump(mode="json"),
        config_sha256=recipe.sha256,
        seed=recipe.seed,
        code_commit=code_commit(),
        libraries=library_versions(),
        metrics=metrics,
        created_at=created_at,
        quantization="" if recipe.quantization == "none" else recipe.quantization,
    )
