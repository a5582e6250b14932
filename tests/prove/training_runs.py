"""Training proved with real processes: kills, two ranks, two Ray workers, and answers that agree everywhere.

    python -m tests.prove.training_runs [--only resume,trainer,torchrun,ray,answers,vllm,style]

Every proof trains the shipped tiny base from the same seeded conversations and prints its figures; the last line is OK
or says what did not hold. Needs the extra `train`, and `make vllm` for the proof on vLLM; a few minutes on two cores.
`--only zero3` is run by name alone: it needs the package deepspeed, and a compiler for its CPU kernels.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from adapters.training.artifact import read_manifest
from adapters.training.checkpoints import whole
from adapters.training.compose import Composition, Part, compose
from adapters.training.distributed import torchrun_arguments
from adapters.training.merge import merge
from adapters.training.outputs import load_float32
from adapters.training.plan import TrainingPlan, write_plan
from adapters.training.progress import ProgressReader
from adapters.types import AdapterManifest
from tests.support.engine import engine_server
from tests.support.fake_training_api import SECRET, FakeTrainingApi
from tests.support.training_data import BASE, chat_file, plan, sharded_plan
from tests.support.vllm import vllm_server

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
QUESTIONS = (
    "How do I reset my password?",
    "Where is my order?",
    "I want to get a refund.",
    "How can I cancel my subscription?",
    "Hello, who are you?",
)


class NotProved(Exception):
    """A promise did not hold."""


def hold(condition: bool, words: str) -> None:
    """Print what holds, or end."""
    if not condition:
        raise NotProved(words)
    print(f"  holds: {words}", flush=True)


def start(wanted: TrainingPlan) -> subprocess.Popen[bytes]:
    """Start a training process."""
    command = [sys.executable, "-W", "ignore", "-m", "adapters.training", str(write_plan(wanted))]
    with (wanted.folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def train(wanted: TrainingPlan) -> AdapterManifest:
    """Train to the end."""
    began, status = time.monotonic(), start(wanted).wait()
    manifest = read_manifest(wanted.adapter)
    if status or manifest is None:
        raise NotProved(f"{wanted.folder.name} ended with {status}:\n{(wanted.folder / 'log').read_text()[-3000:]}")
    print(
        f"  {wanted.folder.name}: loss {manifest.metrics['train_loss']:.6f}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return manifest


def losses(wanted: TrainingPlan) -> dict[int, float]:
    """Loss by step, the last word on each."""
    told = ProgressReader(wanted.progress_file).read()
    return {one.step: one.train_loss for one in told if one.kind == "step" and one.train_loss is not None}


def furthest(one: dict[int, float], other: dict[int, float]) -> float:
    """The largest difference of two curves."""
    return max(abs(one[step] - other[step]) for step in one) if one.keys() == other.keys() else float("inf")


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    """Poll."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotProved("it did not come to that in time")
        time.sleep(0.02)


def prove_resume(folder: Path, rows: Path) -> None:
    """Kill -9 in the middle, twice; the end is the one of a training that nobody disturbed."""
    calm = plan(folder / "calm", rows, optimization__max_steps=24, checkpoints__every_steps=4)
    train(calm)
    killed = msgspec.structs.replace(calm, work=str(folder / "killed"))
    for step in (6, 15):
        process = start(killed)
        wait(lambda step=step: max(losses(killed) or {0: 0.0}) >= step)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(
            f"  killed at step {max(losses(killed))}, checkpoints {[p.name for p in whole(killed.checkpoints)]}",
            flush=True,
        )
    train(killed)
    hold(
        furthest(losses(calm), losses(killed)) < TOLERANCE,
        f"largest difference {furthest(losses(calm), losses(killed)):.2g}",
    )
    same = (calm.adapter / "adapter_model.safetensors").read_bytes() == (
        killed.adapter / "adapter_model.safetensors"
    ).read_bytes()
    print(f"  the very same bytes: {same}", flush=True)


def prove_trainer(folder: Path, rows: Path) -> None:
    """Kill -9 of a trainer under real training; another, with an empty disk, finishes its job."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "name: proof\nbase: tunegate-tiny\nadapter: {rank: 8, alpha: 16}\ndata: {max_tokens: 256}\n"
        "optimization: {max_steps: 30, batch_size: 8, micro_batch_size: 8, learning_rate: 4.0e-3, precision: float32}\n"
        "checkpoints: {every_steps: 5}\nlaunch: {cpu_threads: 1}\n",
        encoding="utf-8",
    )
    asyncio.run(_prove_trainer(folder, rows.read_bytes(), recipe))


async def _prove_trainer(folder: Path, rows: bytes, recipe: Path) -> None:
    async with FakeTrainingApi(heartbeat_seconds=1.0) as api:
        job = api.add("ftjob-proof", rows)
        first = await _trainer(folder, api.url, "first", recipe)
        await _until(lambda: job.checkpoint is not None)
        first.send_signal(signal.SIGKILL)
        await first.wait()
        reached = job.checkpoint["step"] if job.checkpoint else 0
        print(f"  first trainer killed, checkpoint of step {reached} at the gateway", flush=True)
        api.expire("ftjob-proof")
        second = await _trainer(folder, api.url, "second", recipe)
        await _until(lambda: job.status != "running")
        second.terminate()
        await second.wait()
        hold(
            job.status == "succeeded",
            f"registered as {job.completion and job.completion['version']} by the second trainer",
        )
        steps = [event["data"]["step"] for event in job.events.values() if event["type"] == "metrics"]
        hold(
            f"Resuming from step {reached}" in job.messages and steps[-1] == 30, "it went on from that step to the end"
        )
        whole_job = api.add("ftjob-calm", rows)
        third = await _trainer(folder, api.url, "third", recipe)
        await _until(lambda: whole_job.status == "succeeded")
        third.terminate()
        await third.wait()
        ends = [(one.manifest or {})["metrics"]["train_loss"] for one in (job, whole_job)]
        hold(abs(ends[0] - ends[1]) < TOLERANCE, f"final losses {ends[0]:.6f} and {ends[1]:.6f}")


async def _trainer(folder: Path, url: str, name: str, recipe: Path) -> asyncio.subprocess.Process:
    settings = {
        "gateway": url,
        "name": name,
        "work": str(folder / name),
        "bases": {"tunegate-tiny": {"path": str(BASE), "recipe": str(recipe)}},
        "poll_seconds": 1,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adapters.cli",
        "trainer",
        str(path),
        cwd=ROOT,
        env={**os.environ, "TUNEGATE_TRAINER_SECRET": SECRET},
    )


async def _until(condition: Callable[[], object], seconds: float = 240) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise NotProved("it did not come to that in time")


def prove_torchrun(folder: Path, rows: Path) -> None:
    """Two processes by torchrun over gloo walk the single process's curve."""
    _prove_two(folder, rows, "torchrun")


def prove_ray(folder: Path, rows: Path) -> None:
    """Two Ray Train workers over gloo walk the single process's curve."""
    _prove_two(folder, rows, "ray")


def _prove_two(folder: Path, rows: Path, by: str) -> None:
    common: dict[str, Any] = {"optimization__max_steps": 8, "optimization__micro_batch_size": 4}
    one = plan(folder / f"{by}-one", rows, **common)
    two = plan(folder / f"{by}-two", rows, launch={"by": by, "processes": 2, "cpu_threads": 1}, **common)
    train(one)
    train(two)
    hold(furthest(losses(one), losses(two)) < TOLERANCE, f"largest difference {furthest(losses(one), losses(two)):.2g}")


def prove_zero3(folder: Path, rows: Path) -> None:
    """ZeRO-3 on two CPU processes walks the single process's curve, and goes on from its checkpoint."""
    if importlib.util.find_spec("deepspeed") is None:
        raise NotProved("the package deepspeed is missing: .venv/bin/pip install 'deepspeed>=0.19'")
    one = plan(folder / "one", rows, optimization__max_steps=10)
    train(one)
    two = sharded_plan("lora-70b-zero3", folder / "two", rows, launch__cpu_offload=False)
    _sharded(two, "tests.support.zero3_rank")
    hold(furthest(losses(one), losses(two)) < TOLERANCE, f"largest difference {furthest(losses(one), losses(two)):.2g}")
    again = msgspec.structs.replace(two, work=str(folder / "again"))
    shutil.copytree(two.checkpoints / "checkpoint-5", again.checkpoints / "checkpoint-5")
    _sharded(again, "tests.support.zero3_rank")
    rest = {step: loss for step, loss in losses(two).items() if step > 5}
    hold(furthest(rest, losses(again)) < TOLERANCE, "resumed at step 5, it walks the rest of the same curve")


def _sharded(wanted: TrainingPlan, rank_module: str) -> None:
    arguments = torchrun_arguments(wanted.parsed_recipe().launch, write_plan(wanted), rank_module)
    with (wanted.folder / "log").open("ab") as log:
        status = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *arguments],
            cwd=ROOT,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
            stdout=log,
            stderr=log,
            check=False,
        ).returncode
    if status or read_manifest(wanted.adapter) is None:
        raise NotProved(f"{wanted.folder.name} ended with {status}:\n{(wanted.folder / 'log').read_text()[-3000:]}")


def prove_answers(folder: Path, rows: Path) -> None:
    """The reference engine says, token by token, what PEFT says: trained, composed; and merged, PEFT's scores."""
    acme = plan(folder / "acme", rows, optimization__max_steps=30)
    corvid = plan(
        folder / "corvid", chat_file(folder / "corvid.jsonl", "corvid", 64, said="{}"), optimization__max_steps=30
    )
    train(acme)
    train(corvid)
    mix = folder / "mix"
    compose(
        Composition("acme", "mix", "svd", (Part(acme.adapter, 0.5), Part(corvid.adapter, 0.5)), svd_rank=16), BASE, mix
    )
    adapters = {"trained": acme.adapter, "composed": mix}
    modules = [f"{name}={path}" for name, path in adapters.items()]
    with engine_server(lora_modules=modules, model=BASE, max_lora_rank=16) as url:
        for name, path in adapters.items():
            wanted = [_generated(load_float32(BASE, path), question) for question in QUESTIONS]
            served = [_asked(url, name, question) for question in QUESTIONS]
            hold(wanted == served, f"{name}: {len(QUESTIONS)} greedy answers agree with PEFT's ({served[0]!r})")
    merged = merge(BASE, acme.adapter, folder / "merged")
    hold(
        merged.difference < 0.02,
        f"merged model differs from base and adapter by {merged.difference:.2g} of the largest score",
    )


def prove_vllm(folder: Path, rows: Path) -> None:
    """A real vLLM loads a trained adapter at run time and says, token by token, what PEFT says."""
    wanted = plan(folder / "acme", rows, optimization__max_steps=30)
    train(wanted)
    peft = [_generated(load_float32(BASE, wanted.adapter), question) for question in QUESTIONS]
    with vllm_server(BASE) as (url, _):
        sent = urllib.request.Request(
            f"{url}/v1/load_lora_adapter",
            json.dumps({"lora_name": "trained", "lora_path": str(wanted.adapter)}).encode(),
            {"content-type": "application/json"},
        )
        urllib.request.urlopen(sent, timeout=60).close()
        served = [_asked(url, "trained", question) for question in QUESTIONS]
    hold(peft == served, f"{len(QUESTIONS)} greedy answers agree with PEFT's ({served[0]!r})")


def prove_style(folder: Path, rows: Path) -> None:
    """The shipped recipe as it is: answers take on the new voice, in minutes."""
    from adapters.training.recipe import shipped_recipe

    del rows
    path = chat_file(folder / "pirate.jsonl", count=120)
    wanted = msgspec.structs.replace(
        plan(folder / "pirate", path), recipe=shipped_recipe("tiny-cpu").model_dump(mode="json")
    )
    train(wanted)
    with engine_server(lora_modules=[f"pirate={wanted.adapter}"], model=BASE, max_lora_rank=16) as url:
        before = [_asked(url, "base", question) for question in QUESTIONS]
        after = [_asked(url, "pirate", question) for question in QUESTIONS]
    print(f"  before {before[0]!r}\n  after  {after[0]!r}", flush=True)
    spoken = sum(answer.startswith("Ahoy!") for answer in after)
    hold(
        spoken == len(QUESTIONS) and not any("Ahoy" in answer for answer in before),
        f"{spoken} of {len(QUESTIONS)} in the new voice",
    )


def _generated(model: Any, question: str) -> str:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def _asked(url: str, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0}
    sent = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


PROOFS = {
    "resume": prove_resume,
    "trainer": prove_trainer,
    "torchrun": prove_torchrun,
    "ray": prove_ray,
    "answers": prove_answers,
    "vllm": prove_vllm,
    "style": prove_style,
}
BY_NAME = {"zero3": prove_zero3}  # those that need what `make` does not install


def main() -> int:
    """Run the proofs that were asked for."""
    parser = argparse.ArgumentParser(prog="training_runs", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(PROOFS), help="which proofs, separated by commas")
    chosen = parser.parse_args().only.split(",")
    with tempfile.TemporaryDirectory(prefix="prove-training-") as name:
        for proof in chosen:
            folder = Path(name) / proof
            folder.mkdir()
            prove = {**PROOFS, **BY_NAME}[proof]
            print(f"{proof}: {(prove.__doc__ or '').strip()}", flush=True)
            try:
                prove(folder, chat_file(folder / "rows.jsonl", count=64))
            except NotProved as exc:
                print(f"FAILED: {proof}: {exc}")
                return 1
    print(f"OK: {', '.join(chosen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
