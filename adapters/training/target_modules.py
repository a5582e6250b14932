"""Which linear layers get a low-rank update.

`auto` is every linear layer of the blocks: at equal cost it learns better than attention alone ("LoRA Without Regret",
2025; QLoRA, section 4), and vLLM serves all of them. Names are the last part of a module's path, as PEFT and vLLM match
them.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters.training.errors import InvalidRecipe

ATTENTION = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value", "out_proj", "dense"}
)
MLP = frozenset(
    {
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
        "c_fc",
        "c_proj",
        "fc1",
        "fc2",
        "dense_h_to_4h",
        "dense_4h_to_h",
    }
)


def chosen_targets(wanted: str | tuple[str, ...], linear: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Names of target modules in a fixed order; InvalidRecipe lists what the base really has."""
    have = ", ".join(sorted(linear))
    if not linear:
        raise InvalidRecipe(
            "adapter.targets: the base model has no linear layers that can be adapted", param="adapter.targets"
        )
    if isinstance(wanted, tuple):
        missing = [name for name in wanted if name not in linear]
        if missing or not wanted:
            told = ", ".join(missing) or "nothing"
            raise InvalidRecipe(f"adapter.targets: {told}: the base model has {have}", param="adapter.targets")
        return tuple(sorted(set(wanted)))
    family = {"attention": ATTENTION, "mlp": MLP}.get(wanted, frozenset(linear))
    found = tuple(sorted(family & set(linear)))
    if not found:
        raise InvalidRecipe(f"adapter.targets: {wanted}: none known here; name some of {have}", param="adapter.targets")
    return found


def adapter_parameters(rank: int, targets: tuple[str, ...], linear: Mapping[str, tuple[int, int]], layers: int) -> int:
    """How many numbers a LoRA of this rank holds."""
    return layers * sum(rank * (linear[name][0] + linear[name][1]) for name in targets)
