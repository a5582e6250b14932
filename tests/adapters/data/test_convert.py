from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapters.data.filters import months_before
from adapters.settings import Columns, Filters, SourceSettings, Topic
from adapters.types import Role
from tests.adapters.data.sources import AS_OF, COLUMNS, TICKETS, fetched, jsonl, source


def test_threads_become_conversations(tmp_path: Path) -> None:
    """One row per message: rows of one ticket are one conversation, agents are the assistant."""
    rows = [
        {"t": 1, "by": "Customer", "text": "my router is broken"},
        {"t": 1, "by": "Agent", "text": "please restart it"},
        {"t": 2, "by": "Customer", "text": "where is my order"},
    ]
    columns = Columns(id="t", role="by", content="text")
    threads = SourceSettings(
        kind="jsonl", path=jsonl(tmp_path / "t.jsonl", rows), shape="thread", columns=columns, broken_share=1
    )
    examples, drops = fetched(tmp_path, threads)
    assert [[message.role for message in row.messages] for row in examples] == [[Role.USER, Role.ASSISTANT]]
    assert [(drop.origin, drop.reason) for drop in drops] == [("t.jsonl:3", "broken:no_assistant")]


def test_chat_rows_get_system_message_and_topic(tmp_path: Path) -> None:
    """A system message is put where there is none; a topic is found by whole words where none is given."""
    answer = {"role": "assistant", "content": "Yes."}
    rows = [
        {"messages": [{"role": "user", "content": "A refund please"}, answer]},
        {"messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "refunded?"}, answer]},
    ]
    chats = SourceSettings(kind="jsonl", path=jsonl(tmp_path / "c.jsonl", rows), system="Be kind.")
    examples, _ = fetched(tmp_path, chats, topics=(Topic(name="refund", words=("refund", "money back")),))
    assert [row.messages[0].content for row in examples] == ["Be kind.", "Mine."]
    assert [row.topic for row in examples] == ["refund", ""]
    assert len({row.id for row in examples}) == 2


def test_traffic_needs_consent_and_takes_corrections(tmp_path: Path) -> None:
    """Only agreed traffic; a correction replaces the answer; the rating decides; a bad line is named."""
    request = {"messages": [{"role": "user", "content": "how do I pay"}]}
    response = {"choices": [{"message": {"role": "assistant", "content": "by card", "refusal": None}}]}
    base = {
        "consent": True,
        "user": "u1",
        "route": "support",
        "created_at": AS_OF - 60,
        "request": request,
        "response": response,
    }
    lines = [
        {**base, "id": "good", "feedback": {"rating": 5}},
        {**base, "id": "corrected", "feedback": {"rating": 0, "correction": "by invoice"}},
        {**base, "id": "bad", "feedback": {"rating": 2}},
        {**base, "id": "silent"},
        {**base, "id": "private", "consent": False},
        {**base, "id": "broken", "response": {}, "feedback": {"rating": 5}},
        {**base, "id": "future", "created_at": AS_OF + 60, "feedback": {"rating": 5}},
    ]  # fmt: skip
    traffic = SourceSettings(kind="traffic", path=jsonl(tmp_path / "t.jsonl", lines), broken_share=0.5)
    examples, drops = fetched(tmp_path, traffic, filters=Filters())
    assert [(row.id, row.messages[-1].content, row.topic) for row in examples] == [
        ("data:good", "by card", "support"),
        ("data:corrected", "by invoice", "support"),
    ]
    assert [drop.reason for drop in drops] == [
        "filter:satisfaction",
        "filter:satisfaction_unknown",
        "filter:no_consent",
        "broken:response_type",
        "filter:in_the_future",
    ]


def test_filters_count_each_reason(tmp_path: Path) -> None:
    """Rating above four of five, the last twelve months, time until solved, length; unknown is its own reason."""
    base = TICKETS[0]
    rows = [
        {**base, "took": 10},
        {**base, "stars": 4, "took": 10},
        {**base, "stars": None, "took": 10},
        {**base, "stars": 6, "took": 10},
        {**base, "at": "2025-10-31", "took": 10},
        {**base, "at": None, "took": 10},
        {**base, "at": "yesterday", "took": 10},
        {**base, "took": 100},
        {**base, "took": None},
        {**base, "q": "x" * 99, "took": 10},
        {**base, "q": "", "took": 10},
    ]
    columns = COLUMNS.model_copy(update={"resolution_seconds": "took"})
    tickets = source("jsonl", jsonl(tmp_path / "t.jsonl", rows), columns=columns, broken_share=1)
    filters = Filters(resolution_seconds_max=50, characters_min=10, characters_max=100)
    examples, drops = fetched(tmp_path, tickets, filters=filters)
    assert len(examples) == 1
    assert [drop.reason for drop in drops] == [
        "filter:satisfaction",
        "filter:satisfaction_unknown",
        "broken:number",
        "filter:age",
        "filter:age_unknown",
        "broken:instant",
        "filter:resolution",
        "filter:resolution_unknown",
        "filter:too_long",
        "filter:too_short",
    ]


def test_months_are_calendar_months() -> None:
    """Twelve months before the last of February is the last of February; a shorter month ends earlier."""
    leap = datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert datetime.fromtimestamp(months_before(leap.timestamp(), 12), UTC) == datetime(2023, 2, 28, 12, tzinfo=UTC)
    assert datetime.fromtimestamp(months_before(leap.timestamp(), 3), UTC) == datetime(2023, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request": 7}, "broken:request_type"),
        ({"request": {"messages": 7}}, "broken:messages_type"),
        ({"response": {"choices": [7]}}, "broken:response_type"),
        ({"feedback": [5]}, "broken:feedback_type"),
        ({"created_at": [1]}, "broken:instant"),
        ({"feedback": {"rating": "good"}}, "broken:number"),
    ],
)
def test_a_bad_traffic_line_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """Whatever member is wrong, its rule is counted."""
    message = {"role": "assistant", "content": "by card"}
    line = {"consent": True, "request": {"messages": [{"role": "user", "content": "how"}]}, "feedback": {"rating": 5}}
    line |= {"response": {"choices": [{"message": message}]}, "created_at": AS_OF - 60} | changes
    traffic = SourceSettings(kind="traffic", path=jsonl(tmp_path / "t.jsonl", [line]), broken_share=1)
    _, drops = fetched(tmp_path, traffic, filters=Filters())
    assert [drop.reason for drop in drops] == [reason]


def test_own_examples_are_checked_again(tmp_path: Path) -> None:
    """Rows of this package are taken as they are, filters aside; what a person broke in them is named."""
    good = {
        "id": "s:1",
        "synthetic": True,
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    lines = [good, {"id": "s:2"}, {"id": "s:3", "messages": good["messages"][:1]}]  # type: ignore[index]
    made = SourceSettings(kind="examples", path=jsonl(tmp_path / "e.jsonl", lines), broken_share=1)
    examples, drops = fetched(tmp_path, made, filters=Filters())
    assert [(row.id, row.synthetic, row.origin) for row in examples] == [("s:1", True, "e.jsonl:1")]
    assert [drop.reason for drop in drops] == ["broken:example_type", "broken:no_assistant"]


def test_columns_may_be_nested_json_text_and_dates(tmp_path: Path) -> None:
    """Dotted paths reach into objects; JSON text of a column is read, empty or broken text is a broken row."""
    chat = json.dumps([{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}])
    rows = [{"meta": {"who": "x", "at": 5}, "chat": chat}, {"chat": ""}, {"chat": "["}]
    columns = Columns(customer="meta.who", created_at="meta.at", messages="chat")
    nested = SourceSettings(kind="jsonl", path=jsonl(tmp_path / "t.jsonl", rows), columns=columns, broken_share=1)
    examples, drops = fetched(tmp_path, nested)
    assert [(bool(row.customer), row.created_at) for row in examples] == [(True, 5.0)]
    assert [drop.reason for drop in drops] == ["broken:messages_missing", "broken:not_json"]
    dated = tmp_path / "d.parquet"
    answered = {"q": "where is it", "a": "over there"}
    pq.write_table(pa.Table.from_pylist([{**answered, "at": datetime(2026, 10, 1, tzinfo=UTC).date()}]), dated)
    days, _ = fetched(
        tmp_path / "d", source("parquet", dated, columns=Columns(question="q", answer="a", created_at="at"))
    )
    assert days[0].created_at == datetime(2026, 10, 1, tzinfo=UTC).timestamp()
