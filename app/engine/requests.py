"""From a request body to sampling parameters and token ids, with vLLM's refusals and their wording."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.engine.errors import RequestError, bad_parameter
from app.engine.protocol import ChatBody, CompletionBody, Message, SamplingBody
from app.engine.sampling import SamplingParams
from app.engine.tokenizer import Tokenizer

_MAX_LOGPROBS = 20
_MAX_SEQUENCES = 16384
_MORE_SEQUENCES = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
_MAX_TEMPERATURE = 2.0
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_UNDONE = frozenset(
    {
        *("allowed_token_ids", "bad_words", "logprob_token_ids", "prompt_embeds", "prompt_logprobs", "response_format"),
        *("structured_outputs", "truncate_prompt_tokens", "use_beam_search"),
    }
)


def chat_params(
    body: ChatBody, *, prompt: int, max_len: int, vocab: int, defaults: Mapping[str, Any]
) -> SamplingParams:
    """Check a chat request's parameters; `prompt` and `max_len` in tokens."""
    if body.top_logprobs < -1:
        raise bad_parameter("`top_logprobs` must be a positive value or -1.", "top_logprobs", body.top_logprobs)
    if body.top_logprobs != 0 and not body.logprobs:
        raise bad_parameter("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    _refuse_tools(body)
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    count = body.top_logprobs if body.logprobs else None
    limit = _max_tokens(asked, prompt, max_len)
    return _params(body, limit, count, n=body.n or (1 if body.n is None else 0), vocab=vocab, defaults=defaults)


def _refuse_tools(body: ChatBody) -> None:
    if body.tools == []:
        text = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise bad_parameter(text, "tools")
    asked = "tool_choice" in body.model_fields_set
    choice = body.tool_choice if asked else "auto" if body.tools else None
    if choice in (None, "none"):
        return
    if not body.tools:
        raise bad_parameter("When using `tool_choice`, `tools` must be set.", "tool_choice")
    raise RequestError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def completion_params(
    body: CompletionBody, *, prompt: int, max_len: int, vocab: int, defaults: Mapping[str, Any]
) -> SamplingParams:
    """Check a text completion's parameters; echo with `max_tokens` 0 still makes the one token vLLM makes."""
    if body.logprobs is not None and body.logprobs < -1:
        raise bad_parameter("`logprobs` must be a positive value or -1.", "logprobs", body.logprobs)
    if body.suffix:
        raise RequestError("suffix is only supported for models with FIM completion rendering", param="suffix")
    asked = 1 if body.echo and body.max_tokens == 0 else body.max_tokens
    limit = _max_tokens(asked, prompt, max_len)
    return _params(body, limit, body.logprobs, n=body.n, vocab=vocab, defaults=defaults)


def check_prompt(ids: Sequence[int], *, max_len: int, vocab: int) -> None:
    """Refuse a prompt that is empty, longer than the context, or has ids outside the vocabulary."""
    if not ids:
        raise RequestError("The decoder prompt cannot be empty")
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
    """Messages for the chat template: text parts joined by newlines, other kinds refused, a developer is the system."""
    return [_message_dict(message, model) for message in messages]


def _message_dict(message: Message, model: str) -> dict[str, Any]:
    data = message.model_dump(exclude_unset=True)
    content = data.get("content")
    if isinstance(content, list):
        data["content"] = "\n".join(_part_text(part, model) for part in content)
    elif content is None:
        if "content" in data and message.role != "assistant":
            raise RequestError(f"messages: the content of a {message.role} message must be a text", param="messages")
        data["content"] = ""
    return {**data, "role": "system" if message.role == "developer" else message.role}


def _part_text(part: Mapping[str, Any], model: str) -> str:
    if part.get("type") not in ("text", "input_text"):
        raise RequestError(f"{model} is not a multimodal model")
    if not isinstance(part.get("text"), str):
        raise RequestError("messages: a text part needs the member `text`", param="messages")
    return str(part["text"])


def completion_prompts(body: CompletionBody, tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts of a text completion as ids, whichever of the four forms they came in."""
    prompt = body.prompt
    if prompt is None or prompt == "":
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if not prompt:
        raise RequestError("You must pass at least one prompt")
    texts = [prompt] if isinstance(prompt, str) else [item for item in prompt if isinstance(item, str)]
    lists = [item for item in prompt if isinstance(item, list)]
    if max(len(texts), len(lists)) * body.n > _MAX_SEQUENCES:
        raise RequestError(f"prompt: at most {_MAX_SEQUENCES} answers in one request, prompts times n", param="prompt")
    if texts:
        return [tokenizer.encode(text, add_special_tokens=body.add_special_tokens) for text in texts]
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
    _refuse_undone(body)
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
        logit_bias=_bias(body.logit_bias or {}),
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop=body.include_stop_str_in_output,
        logprobs=logprobs if logprobs != -1 else vocab,
    )
    _check(params, n, vocab)
    if body.stream_options is not None and body.stream_options.model_fields_set and not body.stream:
        raise bad_parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    return params


def _refuse_undone(body: SamplingBody) -> None:
    """Refuse what would change the answer and is not done here; what vLLM itself ignores is ignored."""
    for name, value in (body.model_extra or {}).items():
        if name in _UNDONE and value not in (None, False, [], {"type": "text"}):
            raise RequestError(
                f"the reference engine does not do `{name}`; leave it out or ask a real vLLM", param=name
            )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _top_k(asked: int | None, default: int | None) -> int:
    """0 keeps all tokens; so does the older -1."""
    value = int(_first(asked, default, 0))
    return 0 if value == -1 else value


def _bias(raw: Mapping[str, float]) -> dict[int, float]:
    """Logit bias by id, clamped to [-100, 100]."""
    wrong = [key for key in raw if not _INTEGER.fullmatch(key)]
    if wrong:
        text = f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong}"
        raise bad_parameter(text, "logit_bias", wrong)
    return {int(token): min(100.0, max(-100.0, value)) for token, value in raw.items()}


def _check(params: SamplingParams, n: int, vocab: int) -> None:
    """The ranges vLLM's SamplingParams insists on, in its order."""
    if not 1 <= n <= _MAX_SEQUENCES:
        bound = f"at least 1, got {n}." if n < 1 else f"at most {_MAX_SEQUENCES}, got {n}. {_MORE_SEQUENCES}"
        raise RequestError(f"n must be {bound}")
    _check_penalties(params)
    _check_distribution(params)
    _check_ends(params)
    if n > 1 and params.greedy:
        raise RequestError(f"n must be 1 when using greedy sampling, got {n}.")
    if params.logprobs is not None and params.logprobs > _MAX_LOGPROBS:
        text = f"Requested sample logprobs of {params.logprobs}, which is greater than max allowed: {_MAX_LOGPROBS}"
        raise bad_parameter(text, "logprobs", params.logprobs)
    _check_vocabulary("stop_token_ids", params.stop_token_ids, vocab)
    _check_vocabulary("logit_bias", params.logit_bias, vocab)


def _check_penalties(params: SamplingParams) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(params, name)
        if not -2.0 <= value <= 2.0:
            raise RequestError(f"{name} must be in [-2, 2], got {value}.")
    repetition = params.repetition_penalty
    if not math.isfinite(repetition):
        raise RequestError(f"repetition_penalty must be a finite number, got {repetition}.")
    if repetition <= 0:
        raise RequestError(f"repetition_penalty must be greater than zero, got {repetition}.")


def _check_distribution(params: SamplingParams) -> None:
    value = params.temperature
    if not math.isfinite(value):
        raise bad_parameter(f"temperature must be a finite number, got {value}.", "temperature", value)
    if value < 0:
        raise bad_parameter(f"temperature must be non-negative, got {value}.", "temperature", value)
    if value > _MAX_TEMPERATURE:
        raise bad_parameter(f"temperature must be in [0, 2], got {value}.", "temperature", value)
    if not 0.0 < params.top_p <= 1.0:
        raise bad_parameter(f"top_p must be in (0, 1], got {params.top_p}.", "top_p", params.top_p)
    if params.top_k < 0:
        raise RequestError(f"top_k must be 0 (disable), or at least 1, got {params.top_k}.")
    if not 0.0 <= params.min_p <= 1.0:
        raise RequestError(f"min_p must be in [0, 1], got {params.min_p}.")


def _check_ends(params: SamplingParams) -> None:
    least, most = params.min_tokens, params.max_tokens
    if least < 0:
        raise RequestError(f"min_tokens must be greater than or equal to 0, got {least}.")
    if least > most:
        raise RequestError(f"min_tokens must be less than or equal to max_tokens={most}, got {least}.")
    if "" in params.stop:
        raise RequestError("stop cannot contain an empty string.")


def _check_vocabulary(name: str, tokens: Iterable[int], vocab: int) -> None:
    outside = [token for token in tokens if not 0 <= token < vocab]
    if outside:
        text = f"token_id(s) {outside} in {name} contain out-of-vocab token ids. Vocabulary size: {vocab}"
        raise bad_parameter(text, name, outside)
