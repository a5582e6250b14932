"""The data card: what a person must know of a dataset before training on it, as Markdown beside the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from adapters.types import DatasetManifest


def data_card(manifest: DatasetManifest, warnings: tuple[str, ...]) -> str:
    """Write the card of a dataset version."""
    made = datetime.fromtimestamp(manifest.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"# {manifest.version}",
        "",
        f"{manifest.rows} conversations in OpenAI's chat form, {manifest.tokens} tokens ({manifest.token_counter}).",
        f"Made on {made}" + (f" for tenant {manifest.tenant}." if manifest.tenant else "."),
        f"{manifest.synthetic_rows} of them are synthetic; all of those are in train.",
        "",
        "## Sides",
        "",
        *_table(
            ("side", "rows", "tokens", "file", "sha256"),
            [
                (side, split.rows, split.tokens, f"`{split.path}`", f"`{split.sha256[:12]}`")
                for side, split in manifest.splits.items()
            ],
        ),
        "",
        "No customer and no near-duplicate cluster stands on two sides.",
        "Line N of a `.lineage.jsonl` file tells where line N of its data file came from; customers are keyed hashes.",
        "",
        "## Sources",
        "",
        *(f"- {source}" for source in manifest.sources),
        "",
        f"## From {manifest.read} rows read to {manifest.rows}",
        "",
        *_counts("left out because of", manifest.drops),
        "",
        "## Personal data replaced",
        "",
        *_counts("kind", manifest.redactions),
        "",
        "Found by pattern and checksum, and people's names only where the recipe names a model for them.",
        "The texts may still tell who somebody is: handle the files as personal data.",
        "",
        "## Topics",
        "",
        *_counts("topic", {topic or "(none)": count for topic, count in manifest.topics.items()}),
    ]
    if warnings:
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in warnings)]
    return "\n".join(lines) + "\n"


def _counts(name: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return ["Nothing."]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _table((name, "rows"), ordered)


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    body = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]
