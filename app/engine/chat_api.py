"""POST /v1/chat/completions, whole and streamed."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.engine import answers
from app.engine.answers import Head
from app.engine.errors import EngineError
from app.engine.failures import error_body
from app.engine.lora import LoraRequest
from app.engine.protocol import ChatBody
from app.engine.requests import chat_params, check_prompt, message_dicts
from app.engine.sampling import SamplingParams, TokenLogprobs
from app.engine.sequence import Delta
from app.engine.service import Service, before_completion, service_of, streamed, whole

router = APIRouter()
_UNUSED_MESSAGE = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
_UNUSED = dict.fromkeys(("prompt_logprobs", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics"))


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A checked chat request, ready to run."""

    service: Service
    body: ChatBody
    head: Head
    prompt: list[int]
    params: SamplingParams
    lora: LoraRequest | None

    @property
    def choices(self) -> int:
        """How many answers were asked for."""
        return self.body.n or 1

    def logprobs(self, tokens: list[TokenLogprobs]) -> dict[str, Any] | None:
        """The `logprobs` member for some tokens, null when none were asked for."""
        if not self.body.logprobs:
            return None
        return answers.chat_logprobs(self.service.engine.tokenizer, tokens, self.body.top_logprobs)

    def ids(self, tokens: list[int]) -> list[int] | None:
        """Token ids where the caller wants them."""
        return tokens if self.body.return_token_ids else None


@dataclass(slots=True)
class Choice:
    """One answer while it grows."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: str | None = None
    stop: str | int | None = None

    def add(self, delta: Delta) -> None:
        """Take in one token."""
        self.text += delta.text
        self.tokens.append(delta.token)
        if delta.logprobs is not None:
            self.logprobs.append(delta.logprobs)
        self.finish, self.stop = delta.finish, delta.stop


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatBody, request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    await before_completion(service, request)
    call = _prepared(service, body, request)
    if body.stream:
        return streamed(service, _events(call))
    return await whole(service, request, _answer(call))


def _prepared(service: Service, body: ChatBody, request: Request) -> ChatCall:
    engine = service.engine
    lora = service.adapters.resolve(body.model)
    text = engine.tokenizer.render(
        message_dicts(body.messages, engine.options.served_model_name),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        kwargs=body.chat_template_kwargs,
    )
    prompt = engine.tokenizer.encode(text, add_special_tokens=False)
    vocab = engine.config.vocab
    check_prompt(prompt, max_len=engine.max_len, vocab=vocab)
    params = chat_params(body, prompt=len(prompt), max_len=engine.max_len, vocab=vocab, defaults=engine.defaults)
    model = engine.options.served_model_name if lora is None else lora.name
    head = answers.new_head("chatcmpl", request.headers.get("x-request-id"), model)
    return ChatCall(service, body, head, prompt, params, lora)


async def _answer(call: ChatCall) -> dict[str, Any]:
    choices = [Choice() for _ in range(call.choices)]
    async with call.service.engine.generate([call.prompt], call.params, call.lora, n=call.choices) as deltas:
        async for delta in deltas:
            choices[delta.index].add(delta)
    made = sum(len(choice.tokens) for choice in choices)
    return {
        **call.head.fields("chat.completion"),
        "choices": [_choice(call, index, choice) for index, choice in enumerate(choices)],
        "service_tier": None,
        "system_fingerprint": answers.FINGERPRINT,
        "usage": answers.full_usage(len(call.prompt), made),
        "prompt_token_ids": call.ids(call.prompt),
        **_UNUSED,
    }


def _choice(call: ChatCall, index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": choice.text, **_UNUSED_MESSAGE},
        "logprobs": call.logprobs(choice.logprobs),
        "finish_reason": choice.finish,
        "stop_reason": choice.stop,
        "token_ids": call.ids(choice.tokens),
        "routed_experts": None,
    }


async def _events(call: ChatCall) -> AsyncGenerator[bytes, None]:
    """A role chunk for each choice with the first token, a chunk for each token, usage if asked for, and [DONE]."""
    options = call.body.stream_options
    want_usage = bool(options and options.include_usage)
    every = want_usage and bool(options and options.continuous_usage_stats)
    made = [0] * call.choices
    left = call.choices
    try:
        async with call.service.engine.generate([call.prompt], call.params, call.lora, n=call.choices) as deltas:
            async for delta in deltas:
                if not any(made):
                    for index in range(call.choices):
                        yield answers.event(_role_chunk(call, index, every=every))
                made[delta.index] += 1
                left -= delta.finish is not None
                chunk = _token_chunk(call, delta)
                if every:
                    chunk["usage"] = _running_usage(call, made[delta.index])
                if left == 0 and not want_usage:
                    chunk["system_fingerprint"] = answers.FINGERPRINT
                yield answers.event(chunk)
    except EngineError as exc:
        yield answers.event(error_body(exc))
    else:
        if want_usage:
            total = answers.usage(len(call.prompt), sum(made))
            last = {"choices": [], "usage": total, "system_fingerprint": answers.FINGERPRINT}
            yield answers.event({**call.head.fields("chat.completion.chunk"), **last})
    yield answers.DONE


def _running_usage(call: ChatCall, made: int) -> dict[str, Any]:
    return {**answers.usage(len(call.prompt), made), "completion_tokens_details": None}


def _role_chunk(call: ChatCall, index: int, *, every: bool) -> dict[str, Any]:
    delta = {"role": "assistant", "content": ""}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {**call.head.fields("chat.completion.chunk"), "choices": [choice]}
    if every:
        chunk["usage"] = _running_usage(call, 0)
    return {**chunk, "prompt_token_ids": call.ids(call.prompt), "prompt_text": None}


def _token_chunk(call: ChatCall, delta: Delta) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": delta.index,
        "delta": {"content": delta.text},
        "logprobs": call.logprobs([delta.logprobs] if delta.logprobs else []),
        "finish_reason": delta.finish,
    }
    if delta.finish is not None:
        choice["stop_reason"] = delta.stop
    choice["token_ids"] = call.ids([delta.token])
    return {**call.head.fields("chat.completion.chunk"), "choices": [choice]}
