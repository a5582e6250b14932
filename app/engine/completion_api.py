"""POST /v1/completions, whole and streamed: one or many prompts, as text or as token ids."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.engine import answers
from app.engine.answers import Head
from app.engine.chat_api import Choice
from app.engine.errors import EngineError, RequestError
from app.engine.failures import error_body
from app.engine.lora import LoraRequest
from app.engine.protocol import CompletionBody
from app.engine.requests import check_prompt, completion_params, completion_prompts
from app.engine.sampling import SamplingParams, TokenLogprobs
from app.engine.sequence import Delta
from app.engine.service import Service, before_completion, service_of, streamed, whole

router = APIRouter()
_UNUSED = dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A checked request, ready to run; choice i belongs to prompt i // n."""

    service: Service
    body: CompletionBody
    head: Head
    prompts: list[list[int]]
    params: SamplingParams
    lora: LoraRequest | None

    @property
    def choices(self) -> int:
        """How many texts come back in all."""
        return len(self.prompts) * self.body.n

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt) for prompt in self.prompts)

    def echoed(self, index: int) -> str:
        """The prompt's text where the caller wants it before the answer."""
        if not self.body.echo:
            return ""
        return self.service.engine.tokenizer.decode(self.prompts[index // self.body.n])

    def logprobs(self, tokens: list[TokenLogprobs], offset: int) -> dict[str, Any] | None:
        """The `logprobs` member for some tokens, null when none were asked for."""
        if self.body.logprobs is None:
            return None
        return answers.text_logprobs(self.service.engine.tokenizer, tokens, offset)

    def ids(self, tokens: list[int]) -> list[int] | None:
        """Token ids where the caller wants them."""
        return tokens if self.body.return_token_ids else None


@router.post("/v1/completions")
async def create_completion(body: CompletionBody, request: Request) -> Response:
    """Continue one or many texts."""
    service = service_of(request)
    await before_completion(service, request)
    call = _prepared(service, body, request)
    if body.stream:
        return streamed(service, _events(call))
    return await whole(service, request, _answer(call))


def _prepared(service: Service, body: CompletionBody, request: Request) -> CompletionCall:
    engine = service.engine
    lora = service.adapters.resolve(body.model)
    if body.echo and body.logprobs is not None:
        raise RequestError("the reference engine does not give log-probabilities of echoed prompts", param="echo")
    prompts = completion_prompts(body, engine.tokenizer)
    vocab = engine.config.vocab
    for prompt in prompts:
        check_prompt(prompt, max_len=engine.max_len, vocab=vocab)
    longest = max(len(prompt) for prompt in prompts)
    params = completion_params(body, prompt=longest, max_len=engine.max_len, vocab=vocab, defaults=engine.defaults)
    model = engine.options.served_model_name if lora is None else lora.name
    head = answers.new_head("cmpl", request.headers.get("x-request-id"), model)
    return CompletionCall(service, body, head, prompts, params, lora)


async def _answer(call: CompletionCall) -> dict[str, Any]:
    choices = [Choice() for _ in range(call.choices)]
    async with call.service.engine.generate(call.prompts, call.params, call.lora, n=call.body.n) as deltas:
        async for delta in deltas:
            choices[delta.index].add(delta)
    made = sum(len(choice.tokens) for choice in choices)
    return {
        **call.head.fields("text_completion"),
        "choices": [_choice(call, index, choice) for index, choice in enumerate(choices)],
        "service_tier": None,
        "system_fingerprint": answers.FINGERPRINT,
        "usage": answers.full_usage(call.prompt_tokens, made),
        **_UNUSED,
    }


def _choice(call: CompletionCall, index: int, choice: Choice) -> dict[str, Any]:
    shown = "" if call.body.echo and call.body.max_tokens == 0 else choice.text
    return {
        "index": index,
        "text": call.echoed(index) + shown,
        "logprobs": call.logprobs(choice.logprobs, 0),
        "finish_reason": choice.finish,
        "stop_reason": choice.stop,
        "token_ids": call.ids(choice.tokens),
        "prompt_logprobs": None,
        "prompt_token_ids": call.ids(call.prompts[index // call.body.n]),
        "routed_experts": None,
    }


async def _events(call: CompletionCall) -> AsyncGenerator[bytes, None]:
    """A chunk for each token, usage if asked for, and [DONE]."""
    options = call.body.stream_options
    want_usage = bool(options and options.include_usage)
    every = want_usage and bool(options and options.continuous_usage_stats)
    choices = [Choice() for _ in range(call.choices)]
    try:
        async with call.service.engine.generate(call.prompts, call.params, call.lora, n=call.body.n) as deltas:
            async for delta in deltas:
                choice = choices[delta.index]
                chunk = _chunk(call, delta, choice)
                choice.add(delta)
                if every:
                    prompt = len(call.prompts[delta.index // call.body.n])
                    chunk["usage"] = answers.usage(prompt, len(choice.tokens))
                if not want_usage and all(one.finish for one in choices):
                    chunk["system_fingerprint"] = answers.FINGERPRINT
                yield answers.event(chunk)
    except EngineError as exc:
        yield answers.event(error_body(exc))
    else:
        if want_usage:
            total = answers.usage(call.prompt_tokens, sum(len(choice.tokens) for choice in choices))
            last = {"choices": [], "usage": total, "system_fingerprint": answers.FINGERPRINT}
            yield answers.event({**call.head.fields("text_completion"), **last})
    yield answers.DONE


def _chunk(call: CompletionCall, delta: Delta, before: Choice) -> dict[str, Any]:
    """One token's chunk; the first of a choice carries the echo and the prompt's ids."""
    first = not before.tokens
    shown = "" if call.body.echo and call.body.max_tokens == 0 else delta.text
    choice = {
        "index": delta.index,
        "text": (call.echoed(delta.index) if first else "") + shown,
        "logprobs": call.logprobs([delta.logprobs] if delta.logprobs else [], len(before.text)),
        "finish_reason": delta.finish,
        "stop_reason": delta.stop,
        "prompt_token_ids": call.ids(call.prompts[delta.index // call.body.n]) if first else None,
        "token_ids": call.ids([delta.token]),
    }
    return {**call.head.fields("text_completion"), "choices": [choice]}
