"""From a request body to sampling parameters and token ids, with vLLM's refusals and their wording."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.engine.errors import RequestError, bad_parameter
from app.engine.protocol import ChatBody, CompletionBody, Message, SamplingBody
from app.engine.sampling import SamplingParams
from app.engine.tokenizer import Tokenizer

_MAX_LOGPROBS = 20


def chat_params(
    body: ChatBody, *, prompt: int, max_len: int, vocab: int, defaults: Mapping[str, Any]
) -> SamplingParams:
    """Check a chat request's parameters; `prompt` and `max_len` in tokens."""
    if body.top_logprobs < -1:
        raise bad_parameter("`top_logprobs` must be a positive value or -1.", "top_logprobs", body.top_logprobs)
    if body.top_logprobs != 0 and not body.logprobs:
        raise bad_parameter("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if body.tools and body.tool_choice != "none":
        raise RequestError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    count = body.top_logprobs if body.logprobs else None
    limit = _max_tokens(asked, prompt, max_len)
    return _params(body, limit, count, n=body.n or (1 if body.n is None else 0), vocab=vocab, defaults=defaults)


def completion_params(
    body: CompletionBody, *, prompt: int, max_len: int, vocab: int, defaults: Mapping[str, Any]
) -> SamplingParams:
    """Check a text completion's parameters; echo with `max_tokens` 0 still makes the one token vLLM makes."""
    asked = 1 if body.echo and body.max_tokens == 0 else body.max_tokens
    limit = _max_tokens(asked, prompt, max_len)
    return _params(body, limit, body.logprobs, n=body.n, vocab=vocab, defaults=defaults)


def check_prompt(ids: Sequence[int], *, max_len: int, vocab: int) -> None:
    """Refuse a prompt longer than the context or with ids outside the vocabulary."""
    if len(ids) > max_len:
        raise bad_parameter(
            f"This model's maximum context length is {max_len} tokens. However, your prompt contains at least"
            f" {max_len + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the"
            " length of the input prompt.",
            "input_tokens",
            max_len + 1,
        )
    worst = max(ids, default=0)
    if worst >= vocab:
        raise RequestError(f"Token id {worst} is out of vocabulary")


def message_dicts(messages: Sequence[Message], model: str) -> list[dict[str, Any]]:
    """Messages for the chat template: text parts joined by newlines, other kinds refused."""
    found = []
    for message in messages:
        data = message.model_dump(exclude_unset=True)
        content = data.get("content")
        if isinstance(content, list):
            if any(part.get("type") not in ("text", "input_text") for part in content):
                raise RequestError(f"{model} is not a multimodal model")
            data["content"] = "\n".join(str(part.get("text", "")) for part in content)
        elif content is None:
            data["content"] = ""
        found.append(data)
    return found


def completion_prompts(body: CompletionBody, tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts of a text completion as ids, whichever of the four forms they came in."""
    prompt = body.prompt
    if prompt is None or prompt == "":
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt, add_special_tokens=body.add_special_tokens)]
    if not prompt:
        raise RequestError("You must pass at least one prompt")
    texts = [item for item in prompt if isinstance(item, str)]
    if texts:
        return [tokenizer.encode(text, add_special_tokens=body.add_special_tokens) for text in texts]
    lists = [item for item in prompt if isinstance(item, list)]
    return lists or [[item for item in prompt if isinstance(item, int)]]


def _max_tokens(asked: int | None, prompt: int, max_len: int) -> int:
    """What may be generated: the request's wish, cut to the context that is left."""
    if asked is not None and asked > max_len:
        raise bad_parameter(
            f"max_tokens={asked} cannot be greater than max_model_len={max_len}. Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    limit = max_len - prompt if asked is None else min(asked, max_len - prompt)
    if limit < 1:
        raise bad_parameter(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    return limit


def _params(
    body: SamplingBody,
    limit: int,
    logprobs: int | None,
    *,
    n: int,
    vocab: int,
    defaults: Mapping[str, Any],
) -> SamplingParams:
    params = SamplingParams(
        max_tokens=limit,
        temperature=_first(body.temperature, defaults.get("temperature"), 1.0),
        top_p=_first(body.top_p, defaults.get("top_p"), 1.0),
        top_k=_top_k(body.top_k, defaults.get("top_k")),
        min_p=_first(body.min_p, defaults.get("min_p"), 0.0),
        seed=None if body.seed is None else body.seed % 2**64,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_first(body.repetition_penalty, defaults.get("repetition_penalty"), 1.0),
        logit_bias=_bias(body.logit_bias or {}, vocab),
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop=body.include_stop_str_in_output,
        logprobs=logprobs if logprobs != -1 else vocab,
    )
    _check(params, n)
    if body.stream_options is not None and not body.stream:
        raise bad_parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    return params


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _top_k(asked: int | None, default: int | None) -> int:
    """0 keeps all tokens; so does the older -1."""
    value = int(_first(asked, default, 0))
    return 0 if value == -1 else value


def _bias(raw: Mapping[str, float], vocab: int) -> dict[int, float]:
    """Logit bias by id, clamped to [-100, 100]."""
    bias = {int(token): min(100.0, max(-100.0, value)) for token, value in raw.items()}
    outside = [token for token in bias if not 0 <= token < vocab]
    if outside:
        text = f"token_id(s) {outside} in logit_bias contain out-of-vocab token ids. Vocabulary size: {vocab}"
        raise bad_parameter(text, "logit_bias", outside)
    return bias


def _check(params: SamplingParams, n: int) -> None:
    """The ranges vLLM's SamplingParams insists on."""
    if n < 1:
        raise RequestError(f"n must be at least 1, got {n}.")
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(params, name)
        if not -2.0 <= value <= 2.0:
            raise RequestError(f"{name} must be in [-2, 2], got {value}.")
    _check_distribution(params)
    if params.min_tokens > params.max_tokens:
        limit = params.max_tokens
        raise RequestError(f"min_tokens must be less than or equal to max_tokens={limit}, got {params.min_tokens}.")
    if "" in params.stop:
        raise RequestError("stop cannot contain an empty string.")
    if n > 1 and params.greedy:
        raise RequestError(f"n must be 1 when using greedy sampling, got {n}.")
    if params.logprobs is not None and params.logprobs > _MAX_LOGPROBS:
        text = f"Requested sample logprobs of {params.logprobs}, which is greater than max allowed: {_MAX_LOGPROBS}"
        raise bad_parameter(text, "logprobs", params.logprobs)


def _check_distribution(params: SamplingParams) -> None:
    if params.temperature < 0:
        value = params.temperature
        raise bad_parameter(f"temperature must be non-negative, got {value}.", "temperature", value)
    if not 0.0 < params.top_p <= 1.0:
        raise bad_parameter(f"top_p must be in (0, 1], got {params.top_p}.", "top_p", params.top_p)
    if params.top_k < 0:
        raise RequestError(f"top_k must be 0 (disable), or at least 1, got {params.top_k}.")
