"""Make everything under `app/engine/assets`: tokenizer, base model, three adapters, and the manifest that seals them.

    python -m models.make_models --out app/engine/assets

Seeded from end to end. Weights are rounded to bfloat16 before the golden answers are made, so that numpy, transformers
and vLLM start from the same numbers. Needs `pip install 'tunegate[models]'`; a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Parse the options and make the models."""
    parser = argparse.ArgumentParser(prog="make_models", description="Make the tiny base model and its adapters.")
    parser.add_argument("--out", type=Path, required=True, help="folder for base/, adapters/ and manifest.json")
    parser.add_argument("--base-steps", type=int, default=1500, help="optimizer steps of the base model")
    parser.add_argument("--adapter-steps", type=int, default=150, help="optimizer steps of each adapter")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    chosen = parser.parse_args()

    from models.manifest import write_manifest
    from models.train import Plan, make_adapter, make_base, make_tokenizer

    plan = Plan(chosen.out, chosen.base_steps, chosen.adapter_steps, chosen.threads)
    make_tokenizer(plan)
    losses = {"base": make_base(plan)}
    for tenant in ("acme", "bloom", "corvid"):
        losses[tenant] = make_adapter(plan, tenant)
    write_manifest(plan, losses)


if __name__ == "__main__":
    main()
