"""How weights, gradients and optimizer states are spread over processes: FSDP2 (PyTorch) or ZeRO-3 (DeepSpeed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from adapters.training.errors import InvalidRecipe
from adapters.training.recipe import Recipe


def check_strategy(strategy: str, *, cuda: bool) -> None:
    """Refuse what this machine cannot do; without this, accelerate would quietly train with plain DDP on a CPU."""
    if strategy == "ddp":
        return
    if not cuda:
        raise InvalidRecipe(
            f"launch.strategy: {strategy} needs CUDA devices; use ddp on a CPU", param="launch.strategy"
        )
    if strategy == "zero3" and importlib.util.find_spec("deepspeed") is None:
        raise InvalidRecipe(
            "launch.strategy: zero3 needs the package deepspeed: pip install 'deepspeed>=0.18'", param="launch.strategy"
        )


def fsdp_config(recipe: Recipe) -> dict[str, Any]:
    """FSDP2: every decoder layer is a unit that is gathered, used and dropped again (`reshard_after_forward`).

    Activations are recomputed by transformers, not by FSDP's own wrapper, at the price of gathering a layer once more:
    behind the wrapper PEFT does not find its tensors, and checkpoints would be written without a word and without them.
    """
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "cpu_offload": recipe.launch.cpu_offload,
        "cpu_ram_efficient_loading": True,
        "state_dict_type": "SHARDED_STATE_DICT",
    }


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """ZeRO-3; `auto` values are filled by transformers from its own arguments, so that they are said once."""
    offload = {"device": "cpu", "pin_memory": True} if recipe.launch.cpu_offload else {"device": "none"}
    return {
        "bf16": {"enabled": recipe.optimization.precision == "bfloat16"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
            "offload_optimizer": offload,
            "offload_param": offload,
        },
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def save_adapter(trainer: Any, folder: Path, strategy: str) -> None:
    """Write the adapter, gathered from all processes; every one of them must call this.

    Under FSDP2 the adapter's tensors alone are gathered: transformers saves nothing while checkpoints are sharded, and
    the whole base in one process's memory otherwise.
    """
    if strategy != "fsdp2":
        trainer.save_model(str(folder))
        return
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    whole = {name: weight.full_tensor().detach().cpu() for name, weight in trained.items()}
    if trainer.args.should_save:
        trainer.model.save_pretrained(folder, state_dict=whole)
