"""Request bodies, as vLLM reads them: lenient types, unknown fields ignored.

Defaults that depend on the model (temperature, top_p, ...) are None here and filled from its generation configuration.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_INT64 = 2**63 - 1
TokenId = Annotated[int, Field(ge=0)]
Stop = str | Annotated[list[str], Field(max_length=4)] | None


def _zero_if_none(value: object) -> object:
    return 0 if value is None else value


class Body(BaseModel):
    """A body whose unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Message(BaseModel):
    """One chat message; other members (tool calls, names) reach the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(Body):
    """What a stream carries besides its text."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class SamplingBody(Body):
    """What chat and text completions have in common; other members are kept to be looked at, never used."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = Field(None, ge=-_INT64 - 1, le=_INT64)
    stop: Stop = []
    stop_token_ids: list[int] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    user: str | None = None


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[Message]
    logprobs: bool | None = False
    top_logprobs: Annotated[int, BeforeValidator(_zero_if_none)] = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(SamplingBody):
    """POST /v1/completions; `logprobs` counts alternatives."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    logprobs: int | None = None
    max_tokens: int | None = 16
    n: int = 1
    echo: bool | None = False
    suffix: str | None = None
    add_special_tokens: bool = True


class TokenizeTextBody(Body):
    """POST /tokenize with a text."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatBody(Body):
    """POST /tokenize with messages."""

    model: str | None = None
    messages: list[Message]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    return_token_strs: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=_INT64)]]


class LoadBody(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadBody(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: str
    lora_int_id: int | None = None
