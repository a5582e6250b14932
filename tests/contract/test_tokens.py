"""The answers: base and adapters give the tokens that transformers and peft gave, from either server."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.contract.conftest import TENANTS, Assets, Golden, Server

MODELS = ("base", *TENANTS)


def answered(server: Server, case: Golden, model: str | None = None) -> list[int]:
    """The token ids of the answer to a golden prompt."""
    answer = server.chat(model or case.model, case.messages, return_token_ids=True)
    assert answer["prompt_token_ids"] == case.prompt_token_ids
    ids: list[int] = answer["choices"][0]["token_ids"]
    return ids


@pytest.mark.parametrize("model", MODELS)
def test_greedy_chat_gives_the_golden_tokens(server: Server, assets: Assets, model: str) -> None:
    """Every golden prompt is answered with the golden ids, text and token counts."""
    for case in assets.of(model):
        answer = server.chat(model, case.messages, return_token_ids=True)
        choice = answer["choices"][0]
        assert choice["token_ids"] == case.token_ids
        assert choice["message"]["content"] == case.text
        assert answer["usage"]["prompt_tokens"] == len(case.prompt_token_ids)
        assert answer["usage"]["completion_tokens"] == len(case.token_ids)
        assert choice["finish_reason"] == ("length" if len(case.token_ids) == 48 else "stop")
        assert answer["model"] == model


@pytest.mark.parametrize("model", MODELS)
def test_prompts_of_token_ids_give_the_golden_tokens(server: Server, assets: Assets, model: str) -> None:
    """Several prompts in one request come back in their order."""
    cases = assets.of(model)
    prompts = [case.prompt_token_ids for case in cases]
    body = {"model": model, "prompt": prompts, "temperature": 0, "max_tokens": 48, "return_token_ids": True}
    choices = server.post("/v1/completions", body).json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(cases)))
    assert [choice["token_ids"] for choice in choices] == [case.token_ids for case in cases]


def test_each_tenant_answers_in_its_own_way(assets: Assets) -> None:
    """The golden answers differ between all models, so that a wrong adapter cannot pass for the right one."""
    answers = {model: [tuple(case.token_ids) for case in assets.of(model)] for model in MODELS}
    assert len({tuple(tokens) for tokens in answers.values()}) == len(MODELS)


def test_more_adapters_than_host_memory_all_answer(server: Server, assets: Assets, tmp_path: Path) -> None:
    """Nine adapters over four places in host memory and two slots: each answers as itself, twice round."""
    names = {tenant: [tenant] for tenant in TENANTS}
    for tenant in TENANTS:
        for number in range(2):
            copy = shutil.copytree(assets.adapter(tenant), tmp_path / f"{tenant}{number}")
            assert server.load(f"{tenant}-{number}", str(copy)).status_code == 200
            names[tenant].append(f"{tenant}-{number}")
    for _ in range(2):
        for place in range(3):
            for tenant in TENANTS:
                case = assets.of(tenant)[place]
                assert answered(server, case, names[tenant][place]) == case.token_ids


def test_concurrent_tenants_never_mix(server: Server, assets: Assets) -> None:
    """The golden prompts of all tenants at once, three adapters over two slots: every answer is its own adapter's."""
    cases = [case for case in assets.golden if case.model != "base"]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda case: answered(server, case), cases))
    assert found == [case.token_ids for case in cases]


def test_the_base_never_mixes_with_the_tenants(reference: Server, assets: Assets) -> None:
    """Base model and tenants at once: the base answers as itself.

    The CPU build of vLLM 0.32 is not held to this. Its fallback kernels index the slots with -1 where a row has no
    adapter, which is the last slot: a base request that shares a step with a tenant's is answered by an adapter.
    """
    cases = sorted(assets.golden, key=lambda case: case.text)
    for tenant in TENANTS:
        reference.load(tenant, assets.adapter(tenant))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda case: answered(reference, case), cases))
    assert found == [case.token_ids for case in cases]


def test_loading_in_place_changes_the_answers(bare: Server, assets: Assets) -> None:
    """A name loaded in place over other files answers with the new ones."""
    old, new = assets.of("acme")[0], assets.of("bloom")[1]
    assert bare.load("tenant", assets.adapter("acme")).status_code == 200
    assert answered(bare, old, "tenant") == old.token_ids
    assert bare.load("tenant", assets.adapter("bloom"), load_inplace=True).status_code == 200
    assert answered(bare, new, "tenant") == new.token_ids


def test_a_seed_repeats_a_sample(server: Server, assets: Assets) -> None:
    """The same seed gives the same answer, and the answers of one request differ among themselves."""
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 3, "n": 4, "max_tokens": 16}
    first, second = (server.chat("acme", assets.golden[0].messages, **fields)["choices"] for _ in range(2))
    texts = [choice["message"]["content"] for choice in first]
    assert texts == [choice["message"]["content"] for choice in second]
    assert len(set(texts)) > 1


def test_the_official_client_reads_both(server: Server, assets: Assets) -> None:
    """The unmodified `openai` package chats, streams and lists models."""
    case = assets.of("bloom")[0]
    with OpenAI(base_url=f"{server.http.base_url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = case.messages
        whole = client.chat.completions.create(model="bloom", messages=messages, temperature=0, max_tokens=48)
        assert whole.choices[0].message.content == case.text
        parts = client.chat.completions.create(
            model="bloom", messages=messages, temperature=0, max_tokens=48, stream=True
        )
        assert "".join(part.choices[0].delta.content or "" for part in parts) == case.text
        assert [model.id for model in client.models.list()] == list(MODELS)


@pytest.mark.vllm
@pytest.mark.parametrize("model", ["base", "corvid"])
def test_log_probabilities_agree(reference: Server, vllm: Server, assets: Assets, model: str) -> None:
    """Both servers give every token of an answer, and its alternatives, the same probability."""
    found = []
    for server in (reference, vllm):
        if model != "base" and model not in [card["id"] for card in server.listed()]:
            server.load(model, assets.adapter(model))
        answer = server.chat(model, assets.of(model)[0].messages, logprobs=True, top_logprobs=3)
        found.append(answer["choices"][0]["logprobs"]["content"])
    for ours, theirs in zip(*found, strict=True):
        assert (ours["token"], ours["bytes"]) == (theirs["token"], theirs["bytes"])
        assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=2e-3)
        ours_top, theirs_top = ([entry["logprob"] for entry in side["top_logprobs"]] for side in (ours, theirs))
        assert ours_top == pytest.approx(theirs_top, abs=2e-3)
