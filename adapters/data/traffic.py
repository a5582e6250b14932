"""Reading the gateway's own traffic, exported as JSONL: what users agreed to, and what they said of the answer.

One line per request:

    {"id": "req_7f…", "created_at": 1764000000, "consent": true, "user": "u-42", "route": "support", "topic": "refund",
     "request":  {"messages": [...], "tools": [...]},
     "response": {"choices": [{"message": {...}, "logprobs": {"content": [{"logprob": -0.1}, ...]}}]},
     "feedback": {"rating": 5, "correction": "…"},
     "alternatives": [{"variant": "candidate", "content": "…"}]}

`request` and `response` are OpenAI's chat request and reply as they were. `consent` must be true: a line without it is
dropped, whatever else it says. `rating` is 0 to 5 (a thumb is 5 or 0); `correction` is what a person says the answer
should have been, and replaces it with the best rating. `logprobs` and `alternatives` (answers of other variants to the
same request) are read by the selection of what to label, not by training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.data.chat import BrokenRow
from adapters.settings import Columns

BEST_RATING = 5.0
TRAFFIC_COLUMNS = Columns(satisfaction="feedback.rating", created_at="created_at")


def chat_fields(line: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a traffic line into the flat shape of a chat row; raises BrokenRow."""
    if line.get("consent") is not True:
        raise BrokenRow("consent", "consent", "the user did not agree to training on this request")
    request = _object(line, "request")
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise BrokenRow("messages_type", "request.messages", "must be a list of messages")
    feedback = line.get("feedback") or {}
    if not isinstance(feedback, Mapping):
        raise BrokenRow("feedback_type", "feedback", "must be an object with `rating` or `correction`")
    correction = feedback.get("correction")
    answer = {"role": "assistant", "content": correction} if correction else _answer(line)
    return {
        "id": line.get("id"),
        "customer": line.get("user"),
        "topic": line.get("topic") or line.get("route"),
        "created_at": line.get("created_at"),
        "satisfaction": BEST_RATING if correction else feedback.get("rating"),
        "messages": [*messages, answer],
        "tools": request.get("tools"),
    }


def _answer(line: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = _object(line, "response").get("choices")
    message = (
        choices[0].get("message") if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    )
    if not isinstance(message, Mapping):
        raise BrokenRow("response_type", "response.choices[0].message", "must be an assistant message")
    kept = {key: message[key] for key in ("role", "content", "tool_calls") if message.get(key)}
    return {"role": "assistant", **kept}


def _object(line: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = line.get(name)
    if not isinstance(value, Mapping):
        raise BrokenRow(f"{name}_type", name, "must be an object")
    return value
