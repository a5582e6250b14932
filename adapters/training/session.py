"""One training process: from a plan to a sealed adapter. The same code is every rank of a distributed training.

The order is the recipe's: check, tokens, mask proved, model, steps, adapter. A work folder with a whole checkpoint is
resumed from it, optimizer, schedule, random state and place in the data included; one with a finished adapter answers
at once. Only the first process writes; all take part in saving where the weights are spread. torch and its libraries
are imported here, inside the functions, because the command line and the worker must start without them.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from adapters.training.arguments import planned_steps, training_arguments
from adapters.training.artifact import read_manifest, settle
from adapters.training.callbacks import Interrupt, Steps, step_callback
from adapters.training.checkpoints import newest
from adapters.training.disk import full, says_full
from adapters.training.lineage import manifest_for
from adapters.training.model import adapter_config, load_base, load_tokenizer, quiet, to_bfloat16, use_threads
from adapters.training.plan import TrainingPlan
from adapters.training.preflight import Checked, Machine, check
from adapters.training.progress import Progress, ProgressWriter
from adapters.training.recipe import Recipe
from adapters.training.servable import check_adapter
from adapters.training.sharding import save_adapter
from adapters.training.template import marked_template
from adapters.training.tokens import TokenRows, check_count, check_sample, read_chat, tokenize
from adapters.training.tracking import Tracker
from adapters.types import AdapterManifest


@dataclass(frozen=True, slots=True)
class Examples:
    """Tokenized examples of both sides."""

    train: TokenRows
    validation: TokenRows | None


def run(plan: TrainingPlan, machine: Machine, interrupt: Interrupt) -> AdapterManifest | None:
    """Train as one rank; the first rank returns the manifest, the others None, and so does an interrupted one."""
    done = read_manifest(plan.adapter)
    if done is not None:
        return done
    checked = check(plan, machine)
    tokenizer = load_tokenizer(checked.base.path)
    examples = _examples(plan, checked, tokenizer)
    try:
        return _train(plan, checked, machine, tokenizer, examples, interrupt)
    except (OSError, RuntimeError, SafetensorError) as exc:
        if says_full(exc):
            raise full(plan.folder) from exc
        raise


def _examples(plan: TrainingPlan, checked: Checked, tokenizer: Any) -> Examples:
    data = checked.recipe.data
    template = marked_template(tokenizer, data.chat_template) if data.assistant_only_loss else None
    train = tokenize(tokenizer, template, read_chat(Path(plan.train_file)), data.max_tokens)
    check_count(len(train.rows), data.min_examples, too_long=train.too_long, max_tokens=data.max_tokens)
    if template is not None:
        fits = (line for _, line in read_chat(Path(plan.train_file)))
        first = next(line for line in fits if tokenize(tokenizer, template, [(0, line)], data.max_tokens).rows)
        check_sample(tokenizer, train, first)
    validation = None
    if plan.validation_file is not None:
        validation = tokenize(tokenizer, template, read_chat(Path(plan.validation_file)), data.max_tokens)
    return Examples(train, validation if validation and validation.rows else None)


def _train(
    plan: TrainingPlan, checked: Checked, machine: Machine, tokenizer: Any, examples: Examples, interrupt: Interrupt
) -> AdapterManifest | None:
    """Build the trainer, let it run from the newest whole checkpoint, and settle the adapter."""
    from transformers import PrinterCallback, set_seed

    quiet()
    recipe = checked.recipe
    use_threads(recipe.launch.cpu_threads)
    arguments = training_arguments(
        recipe, plan, cuda=machine.cuda_devices > 0, validates=examples.validation is not None
    )
    first = arguments.process_index == 0
    resume = _resume_point(plan)
    model = load_base(checked.base.path, recipe, cuda=machine.cuda_devices > 0)
    set_seed(recipe.seed)
    trainer = _trainer(model, arguments, tokenizer, examples, adapter_config(recipe, checked.targets), recipe)
    total = _schedule(trainer, recipe)
    tracker = Tracker(recipe.tracking, plan) if recipe.tracking is not None and first else None
    writer = ProgressWriter(plan.progress_file) if first else None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(step_callback(Steps(recipe.checkpoints.keep, writer, tracker, interrupt)))
    if writer is not None:
        writer.tell(Progress(kind="start", total_steps=total, message=examples.train.told()))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if interrupt.asked and trainer.state.global_step < total:
        return None
    metrics = _metrics(trainer, examples)
    return _finish(plan, checked, trainer, metrics, tracker, writer)


def _schedule(trainer: Any, recipe: Recipe) -> int:
    """Fix how many steps there are and over how many the rate rises, now that packing has made the rows; all steps."""
    total = planned_steps(recipe, len(trainer.train_dataset))
    trainer.args.max_steps = total
    trainer.args.warmup_steps = int(total * recipe.optimization.warmup_ratio)
    return total


def _resume_point(plan: TrainingPlan) -> Path | None:
    """The same checkpoint on every rank: the first one tidies up, the others look after it."""
    from accelerate import PartialState

    with PartialState().main_process_first():
        return newest(plan.checkpoints)


def _trainer(model: Any, arguments: Any, tokenizer: Any, examples: Examples, peft_config: Any, recipe: Any) -> Any:
    from datasets import Dataset
    from transformers import EarlyStoppingCallback
    from trl import SFTTrainer

    def dataset(rows: TokenRows) -> Dataset:
        return Dataset.from_dict(
            {"input_ids": [row.input_ids for row in rows.rows], "labels": [row.labels for row in rows.rows]}
        )

    evaluation = recipe.evaluation
    patient = evaluation.patience is not None and examples.validation is not None
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset(examples.train),
        eval_dataset=dataset(examples.validation) if examples.validation else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[EarlyStoppingCallback(evaluation.patience, evaluation.min_gain)] if patient else [],
    )


def _metrics(trainer: Any, examples: Examples) -> dict[str, float]:
    """Final figures. The training loss is the mean of the last ten steps, so that one batch does not speak for all."""
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    last = history[-10:]
    epochs = float(trainer.state.epoch or 0)
    metrics = {
        "steps": float(trainer.state.global_step),
        "epochs": epochs,
        "train_loss": sum(entry["loss"] for entry in last) / max(1, len(last)),
        "first_loss": float(history[0]["loss"]) if history else 0.0,
        "train_accuracy": float(last[-1].get("mean_token_accuracy", 0.0)) if last else 0.0,
        "trained_tokens": float(round(examples.train.tokens * epochs)),
        "learned_tokens_per_epoch": float(examples.train.learned),
        "examples": float(len(examples.train.rows)),
        "examples_too_long": float(examples.train.too_long),
    }
    if examples.validation is not None:
        measured = trainer.evaluate()
        metrics["valid_loss"] = float(measured["eval_loss"])
        metrics["valid_accuracy"] = float(measured.get("eval_mean_token_accuracy", 0.0))
    return metrics


def _finish(
    plan: TrainingPlan,
    checked: Checked,
    trainer: Any,
    metrics: dict[str, float],
    tracker: Tracker | None,
    writer: ProgressWriter | None,
) -> AdapterManifest | None:
    """Save on every rank, settle on the first: tidy, judge, manifest last."""
    building = plan.folder / "adapter.building"
    if writer is not None:
        shutil.rmtree(building, ignore_errors=True)
    save_adapter(trainer, building, plan.parsed_recipe().launch.strategy)
    trainer.accelerator.wait_for_everyone()
    if writer is None:
        return None
    recipe = checked.recipe
    if recipe.optimization.precision == "bfloat16":
        to_bfloat16(building)
    if recipe.serving.servable:
        check_adapter(building, checked.base, max_lora_rank=recipe.serving.max_lora_rank)
    manifest = settle(
        building, plan.adapter, plan.base_name, lambda folder: manifest_for(plan, checked, folder, metrics, time.time())
    )
    if tracker is not None:
        tracker.finish(manifest, plan.adapter)
    writer.tell(Progress(kind="end", step=int(metrics["steps"]), total_steps=int(metrics["steps"])))
    return manifest
