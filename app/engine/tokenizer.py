"""The model's tokenizer and chat template.

The template runs in jinja2's immutable sandbox with the names Hugging Face gives it (`messages`,
`add_generation_prompt`, the special tokens, `raise_exception`, `tojson`); whitespace control as there.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as RawTokenizer

from app.engine.errors import RequestError

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token")
_ONE_END = (
    "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want the"
    " model to continue the final message, and add_generation_prompt when you want to add a header that will prompt it"
    " to start a new assistant message instead."
)
Message = Mapping[str, Any]


class Tokenizer:
    """Text to ids and back for one model folder."""

    def __init__(self, folder: Path) -> None:
        """Read `tokenizer.json`, `tokenizer_config.json` and, where there is one, `chat_template.jinja`."""
        self.raw = RawTokenizer.from_file(str(folder / "tokenizer.json"))
        config_file = folder / "tokenizer_config.json"
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        self._special = {name: _text(config[name]) for name in _SPECIAL if config.get(name) is not None}
        self._template = _compiled(folder, config)

    @property
    def eos_id(self) -> int | None:
        """The id of the end token, if the tokenizer names one."""
        token = self._special.get("eos_token")
        return None if token is None else self.raw.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text; one that is no Unicode (half a surrogate pair) is the caller's 400."""
        try:
            return list(self.raw.encode(text, add_special_tokens=add_special_tokens).ids)
        except TypeError as exc:
            raise RequestError(str(exc)) from exc

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids; ids outside the vocabulary give nothing, those beyond 32 bits are the caller's 400."""
        try:
            return str(self.raw.decode(list(ids), skip_special_tokens=skip_special_tokens))
        except OverflowError as exc:
            raise RequestError(str(exc)) from exc

    def token_text(self, token: int) -> str:
        """Text of one id as log-probabilities show it: empty where its bytes are no whole character."""
        text = self.decode([token])
        return "" if "\ufffd" in text else text

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Vocabulary entries of ids."""
        return [str(self.raw.id_to_token(token)) for token in ids]

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render the conversation with the chat template; a template's own complaint is the caller's 400."""
        if not messages:
            raise RequestError("Cannot apply chat template to an empty conversation. Provide at least one message.")
        if self._template is None:
            raise RequestError("The tokenizer of this model has no chat template.")
        if continue_final_message and add_generation_prompt:
            raise RequestError(_ONE_END)
        if kwargs and "messages" in kwargs:
            raise RequestError(
                "chat_template_kwargs: `messages` is the conversation itself", param="chat_template_kwargs"
            )
        names = {
            **self._special,
            **(kwargs or {}),
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            text = self._template.render(names)
        except TemplateError as exc:
            raise RequestError(str(exc)) from exc
        return _opened(text, messages[-1]) if continue_final_message else text


def _opened(text: str, last: Message) -> str:
    """The rendered conversation up to the end of its last message; the template may have trimmed that message."""
    final = str(last.get("content") or "")
    if final.strip() not in text:
        raise RequestError(
            "continue_final_message is set but the final message does not appear in the chat after applying the chat"
            " template! This can happen if the chat template deletes portions of the final message."
        )
    start = text.rindex(final.strip())
    whole = final.lstrip()
    return text[:start] + (whole if text.startswith(whole, start) else final.strip())


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _compiled(folder: Path, config: Mapping[str, Any]) -> Template | None:
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        return None
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _complain
    env.globals["strftime_now"] = _now
    return env.from_string(source)


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _complain(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now(UTC).strftime(pattern)
