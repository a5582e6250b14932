"""The answer cache: its sizes and its embedder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.settings.fields import Name, Seconds, Section


class EmbedderSettings(Section):
    """An embedding service in place of MiniLM; the texts of cached routes are sent to it."""

    upstream: Name = Field(description="The provider or pool whose /v1/embeddings is used.")
    model: str = Field(description="The embedding model's name there.")
    dimensions: int = Field(ge=1, le=8192, description="How long its vectors are.")
    timeout_seconds: Seconds = Field(default=2.0, description="For one request of it, in seconds.")


class CacheSettings(Section):
    """The cache's own sizes; whether a route uses it is said on the route."""

    max_scopes: int = Field(default=1024, ge=1, description="Scopes whose vectors are kept in memory per process.")
    max_entries_per_scope: int = Field(default=10_000, ge=1, description="Answers kept per scope.")
    max_entries_per_tenant: int = Field(
        default=50_000, ge=1, description="Vectors of one tenant in memory per process; least recently used scopes go."
    )
    max_answer_bytes: int = Field(default=1024 * 1024, ge=1, description="Largest answer that is kept.")
    coalesced_callers_pay: Literal["first", "each"] = Field(
        default="first",
        description="Of identical calls answered by one upstream call, the first to get its answer pays, or each.",
    )
    when_away: Literal["bypass", "refuse"] = Field(
        default="bypass",
        description="While Redis or the embedder is away: ask the upstream, or refuse calls of cached routes with 503.",
    )
    semantic: bool = Field(default=True, description="False leaves the sentence embedder unloaded: exact answers only.")
    embedder: EmbedderSettings | None = Field(
        default=None, description="A provider or pool that embeds; none uses MiniLM in this process."
    )
