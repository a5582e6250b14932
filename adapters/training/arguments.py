"""A recipe in the words of TRL and transformers: one place, so that nothing is set twice."""

from __future__ import annotations

import math
from typing import Any

from adapters.training.plan import TrainingPlan
from adapters.training.recipe import Recipe
from adapters.training.sharding import deepspeed_config, fsdp_config

MAX_EPOCHS = 50


def steps_per_epoch(recipe: Recipe, rows: int) -> int:
    """Optimizer steps to see every row once; the last batch of an epoch may be smaller."""
    return max(1, math.ceil(rows / recipe.optimization.batch_size))


def planned_steps(recipe: Recipe, rows: int) -> int:
    """All optimizer steps: `max_steps`, else the epochs, stretched to `min_steps` but not past 50 epochs."""
    optimization, epoch = recipe.optimization, steps_per_epoch(recipe, rows)
    if optimization.max_steps is not None:
        return optimization.max_steps
    steps = math.ceil(optimization.epochs * epoch)
    return max(steps, min(optimization.min_steps, MAX_EPOCHS * epoch))


def training_arguments(recipe: Recipe, plan: TrainingPlan, *, cuda: bool, validates: bool) -> Any:
    """TRL's configuration. Create it before the model: ZeRO-3 and FSDP load weights according to it."""
    from trl import SFTConfig

    optimization, evaluation, launch = recipe.optimization, recipe.evaluation, recipe.launch
    measured = validates and evaluation.every_steps is not None
    patient = measured and evaluation.patience is not None
    accumulation = optimization.batch_size // (optimization.micro_batch_size * launch.world_size)
    return SFTConfig(
        output_dir=str(plan.checkpoints),
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not cuda,
        ddp_backend=("nccl" if cuda else "gloo") if launch.world_size > 1 else None,
        bf16=optimization.precision == "bfloat16",
        per_device_train_batch_size=optimization.micro_batch_size,
        per_device_eval_batch_size=optimization.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=optimization.learning_rate,
        lr_scheduler_type=optimization.schedule,
        weight_decay=optimization.weight_decay,
        max_grad_norm=optimization.max_grad_norm,
        optim=optimization.optimizer,
        activation_checkpointing=optimization.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        max_length=recipe.data.max_tokens,
        packing=recipe.data.packing,
        eval_packing=False,
        eval_strategy="steps" if measured else "no",
        eval_steps=evaluation.every_steps if measured else None,
        save_strategy="steps",
        save_steps=recipe.checkpoints.every_steps,
        load_best_model_at_end=patient,
        metric_for_best_model="eval_loss" if patient else None,
        greater_is_better=False if patient else None,
        restore_callback_states_from_checkpoint=patient,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
        fsdp=launch.strategy == "fsdp2" or None,
        fsdp_config=fsdp_config(recipe) if launch.strategy == "fsdp2" else None,
        deepspeed=deepspeed_config(recipe) if launch.strategy == "zero3" else None,
    )
