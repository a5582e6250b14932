"""A chat template that marks the assistant's words, so that the loss counts them and nothing else.

A template without `{% generation %}` gives a mask of zeros, and a training that silently learns nothing (or, worse, the
user's words). So a mask is *proved*, not assumed: the marked template must give the very same tokens as the base's own
on every probe, and the marked tokens must decode to the assistant's words and the end-of-turn token.

Where the base's template has no marks they are added in one of two ways: by rewriting the usual loop (`{{ …
message['content'] … }}` in `for message in messages`), or by TRL's own collection for known model families. A recipe
can bring its own file (`data.chat_template`). Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.training.errors import InvalidTraining

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_CONTENT = re.compile(
    r"\{\{-?\s*(?P<head>[^{}]*?\+\s*)?(?P<content>(?P<var>\w+)(?:\['content'\]|\[\"content\"\]|\.content)(?P<filter>\s*\|\s*trim)?"
    r"(?P<tail>(?:\s*\+\s*(?:'[^']*'|\"[^\"]*\"|eos_token))*))\s*-?\}\}(?P<literal>[^{]*)"
)
_PROBES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hello there"), ("assistant", "Good day to you.")),
    (("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four!")),
)


def marked_template(tokenizer: Any, own: Path | None = None) -> str:
    """A template with generation marks that renders exactly as the tokenizer's; InvalidTraining when there is none."""
    original = tokenizer.chat_template
    if own is not None:
        candidates = [_read(own)]
        original = original or candidates[0]
    elif not isinstance(original, str) or not original:
        raise _refused("the base model has no chat template")
    else:
        candidates = _candidates(tokenizer, original)
    for candidate in candidates:
        if _proved(tokenizer, original, candidate):
            return candidate
    raise _refused("its chat template has no {% generation %} marks and none can be added that render the same tokens")


def assistant_mask(
    tokenizer: Any, template: str, messages: Sequence[dict[str, Any]], tools: Any = None
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and 1 for each token that the assistant said and that is to be learned.

    A turn with `weight` 0 is left out of the mask, as OpenAI's format has it.
    """
    made = tokenizer.apply_chat_template(
        [{key: value for key, value in message.items() if key != "weight"} for message in messages],
        tools=tools or None,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = list(made["input_ids"]), list(made["assistant_masks"])
    weights = [message.get("weight") for message in messages if message["role"] == "assistant"]
    return ids, _weighted(mask, weights) if 0 in weights else mask


def _weighted(mask: list[int], weights: list[int | None]) -> list[int]:
    starts = [at for at, bit in enumerate(mask) if bit and (at == 0 or not mask[at - 1])]
    if len(starts) != len(weights):
        raise InvalidTraining(
            "messages.weight: this chat template joins assistant turns, so a weight of 0 has no clear place; remove it"
        )
    kept = list(mask)
    for start, weight in zip(starts, weights, strict=True):
        at = start
        while weight == 0 and at < len(mask) and mask[at]:
            kept[at] = 0
            at += 1
    return kept


def _candidates(tokenizer: Any, original: str) -> list[str]:
    if _MARK.search(original):
        return [original]
    rewritten = _rewritten(original)
    return [text for text in (rewritten, _collected(tokenizer)) if text is not None]


def _rewritten(original: str) -> str | None:
    """Put the content of a message and the literal text behind it between marks when the assistant speaks."""
    found = list(_CONTENT.finditer(original))
    if len(found) != 1 or not re.search(rf"\{{%-?\s*for\s+{found[0]['var']}\s+in\s", original):
        return None
    hit = found[0]
    literal = hit["literal"].rstrip()
    said = f"{{{{ {hit['content']} }}}}{literal}"
    marked = (f"{{{{ {hit['head'].rstrip().removesuffix('+')} }}}}" if hit["head"] else "") + (
        f"{{% if {hit['var']}['role'] == 'assistant' %}}{{% generation %}}{said}{{% endgeneration %}}"
        f"{{% else %}}{said}{{% endif %}}{hit['literal'][len(literal) :]}"
    )
    return original[: hit.start()] + marked + original[hit.end() :]


def _collected(tokenizer: Any) -> str | None:
    """TRL's marked template of a known family, if it has one."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        collected = get_training_chat_template(tokenizer)
    except ValueError:
        return None
    return str(collected) if collected else None


def _proved(tokenizer: Any, original: str, candidate: str) -> bool:
    """Check on the probes that tokens are the same and that the marks lie on what the assistant said, and its end."""
    from jinja2 import TemplateError

    for probe in _PROBES:
        messages = [{"role": role, "content": text} for role, text in probe]
        said = [text for role, text in probe if role == "assistant"]
        try:
            plain = tokenizer.apply_chat_template(messages, chat_template=original, tokenize=True, return_dict=True)
            ids, mask = assistant_mask(tokenizer, candidate, messages)
        except TemplateError:
            return False
        if list(plain["input_ids"]) != ids or not _lies_on(tokenizer, ids, mask, said):
            return False
    return True


def _lies_on(tokenizer: Any, ids: list[int], mask: list[int], said: list[str]) -> bool:
    runs: list[list[int]] = []
    for at, (token, bit) in enumerate(zip(ids, mask, strict=True)):
        if bit and (at == 0 or not mask[at - 1]):
            runs.append([])
        if bit:
            runs[-1].append(token)
    texts = [tokenizer.decode(run) for run in runs]
    return len(runs) == len(said) and all(
        text.lstrip().startswith(words) and len(text.strip()) > len(words)
        for text, words in zip(texts, said, strict=True)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise InvalidTraining(f"data.chat_template: {path}: no such file", param="data.chat_template") from exc


def _refused(reason: str) -> InvalidTraining:
    return InvalidTraining(
        f"assistant-only loss: {reason}; give a template with marks in data.chat_template, "
        "or set data.assistant_only_loss: false to learn from every token",
        param="data.chat_template",
    )
