"""All configuration of the data rooms: one YAML file (a data recipe), checked before anything is read.

Every field says its unit in its name and its meaning in its description; unknown fields are refused. Secrets come from
the environment, by the name that the field gives, so that a recipe can be kept in a repository.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters.errors import ConfigurationError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$")]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Similarity = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Section):
    """Which column (or dotted path of a JSON row) holds what; an unset one is not there."""

    id: str | None = Field(default=None, description="Unique key of a ticket; also the order in which SQL is read.")
    customer: str | None = Field(default=None, description="Who wrote; kept as a keyed hash, groups the split.")
    topic: str | None = Field(default=None, description="Subject or category; stratifies the split.")
    created_at: str | None = Field(default=None, description="Instant: epoch seconds, ISO 8601, or a SQL timestamp.")
    satisfaction: str | None = Field(default=None, description="Rating, on `filters.satisfaction_scale`.")
    resolution_seconds: str | None = Field(default=None, description="Time until solved, in seconds.")
    question: str | None = Field(default=None, description="Shape `ticket`: what the customer wrote.")
    answer: str | None = Field(default=None, description="Shape `ticket`: what the agent answered.")
    messages: str | None = Field(default=None, description="Shape `chat`: OpenAI messages, as JSON or JSON text.")
    tools: str | None = Field(default=None, description="Shape `chat`: OpenAI tools, as JSON or JSON text.")
    role: str | None = Field(default=None, description="Shape `thread`: who wrote this row.")
    content: str | None = Field(default=None, description="Shape `thread`: what this row says.")


class SourceSettings(_Section):
    """One place to read from. `examples` reads rows that this package wrote (synthetic ones, labelled ones)."""

    kind: Literal["sql", "jsonl", "csv", "parquet", "traffic", "examples"] = Field(description="What it is.")
    name: Name = Field(default="data", description="Goes before each row's id, so that two sources never clash.")
    path: Path | None = Field(default=None, description="The file, for every kind but sql.")
    url: str | None = Field(default=None, description="SQLAlchemy URL; `${NAME}` is replaced from the environment.")
    query: str | None = Field(default=None, description="SELECT that gives the rows; or say `table`.")
    table: str | None = Field(default=None, description="Table or view, with its schema if it has one.")
    shape: Literal["ticket", "chat", "thread"] = Field(
        default="chat", description="ticket: question and answer; chat: messages; thread: one row per message."
    )
    columns: Columns = Field(default=Columns(), description="Which column holds what.")
    system: str | None = Field(default=None, description="System message put before a conversation that has none.")
    agents: frozenset[str] = Field(
        default=frozenset({"agent", "assistant", "support"}),
        description="Shape `thread`: roles that are the assistant.",
    )
    broken_share: float = Field(
        default=0.05, ge=0, le=1, description="More broken rows than this share fail the file; 0 fails on the first."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "sql":
            if self.url is None or (self.query is None) == (self.table is None):
                raise ValueError("a sql source needs `url` and either `query` or `table`")
            if self.columns.id is None:
                raise ValueError("a sql source needs `columns.id`: the unique key that orders its rows")
        elif self.path is None:
            raise ValueError(f"a {self.kind} source needs `path`")
        wanted = {"ticket": ("question", "answer"), "thread": ("id", "role", "content"), "chat": ()}[self.shape]
        missing = [name for name in wanted if getattr(self.columns, name) is None]
        if missing and self.kind not in {"traffic", "examples"}:
            raise ValueError(f"shape `{self.shape}` needs {', '.join(f'`columns.{name}`' for name in missing)}")
        return self


class Filters(_Section):
    """Which tickets are good enough to learn from. A filter applies where its column is mapped."""

    satisfaction_above: float | None = Field(default=4.0, description="Keep ratings above this; null keeps all.")
    satisfaction_scale: float = Field(default=5.0, gt=0, description="The best rating; a higher one is a broken row.")
    last_months: int | None = Field(default=12, ge=1, description="Keep tickets of the last N months; null keeps all.")
    resolution_seconds_max: float | None = Field(default=None, gt=0, description="Keep what was solved within.")
    characters_min: int | None = Field(default=None, ge=0, description="Keep conversations at least so long.")
    characters_max: int | None = Field(default=None, ge=1, description="Keep conversations at most so long.")


class Cleaning(_Section):
    """What is taken out of texts before anything reads them."""

    markup: bool = Field(default=True, description="HTML to text, links of markdown to their words.")
    quotes: bool = Field(default=True, description="Quoted earlier mails.")
    signatures: bool = Field(default=True, description="Signatures and closing formulas with what follows them.")
    urls: Literal["mark", "drop", "keep"] = Field(default="mark", description="mark writes [URL] in their place.")


class Redaction(_Section):
    """What is personal and replaced by a stand-in. The same value gets the same stand-in everywhere."""

    entities: tuple[Literal["EMAIL", "PHONE", "CARD", "IBAN", "IP", "SSN"], ...] = Field(
        default=("EMAIL", "PHONE", "CARD", "IBAN", "IP", "SSN"), description="Kinds found by pattern and checksum."
    )
    regions: tuple[str, ...] = Field(
        default=("US", "GB", "DE"), min_length=1, description="Countries whose national phone numbers are known."
    )
    name_model: str | None = Field(
        default=None, description="spaCy pipeline (package or folder) that finds people; null finds no names."
    )
    key_env: str = Field(
        default="ADAPTERS_REDACTION_KEY",
        description="Environment variable with the key of the stand-ins; unset: a key kept in the work folder.",
    )


class Validation(_Section):
    """The rules a conversation must meet to be trained on."""

    characters_min: int = Field(default=10, ge=0, description="Shortest user or assistant message.")
    characters_max: int = Field(default=4_000, ge=1, description="Longest user or assistant message.")
    tokens_max: int = Field(default=8_192, ge=16, description="Longest conversation, in tokens.")
    tokenizer: Path | None = Field(default=None, description="tokenizer.json of the base model; null estimates.")


class Embeddings(_Section):
    """An OpenAI-compatible /embeddings endpoint: the gateway's own, usually."""

    base_url: Url = Field(description="Address with its closing /v1.")
    model: str = Field(default="minilm", description="Model name there.")
    key_env: str = Field(default="TUNEGATE_API_KEY", description="Environment variable with the API key.")
    batch: int = Field(default=128, ge=1, le=2_048, description="Texts per request.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="For one request, in seconds.")


class Deduplication(_Section):
    """What counts as the same question asked again."""

    near: Similarity = Field(default=0.8, description="Estimated Jaccard similarity from which a row is dropped.")
    group: Similarity = Field(default=0.6, description="... from which two rows stay on one side of the split.")
    permutations: int = Field(default=128, ge=32, le=512, description="MinHash functions per row.")
    semantic: Similarity = Field(default=0.95, description="Cosine from which a row is dropped, with embeddings.")
    embeddings: Embeddings | None = Field(default=None, description="Where texts are embedded; null: not done.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.group > self.near:
            raise ValueError("`group` must not be above `near`: what is dropped as a duplicate also belongs together")
        return self


class Splitting(_Section):
    """How a dataset is divided."""

    validation: Share = Field(default=0.1, description="Share of the validation side.")
    test: Share = Field(default=0.1, description="Share of the test side.")
    seed: str = Field(default="1", description="Another seed gives another division.")
    largest_group: Share = Field(default=0.05, description="Groups with a larger share of all rows go to train.")


class Quality(_Section):
    """From how many examples on a dataset is what."""

    minimum: int = Field(default=10, ge=1, description="Fewer training examples are refused.")
    usable: int = Field(default=100, ge=1, description="Fewer are reported as too few to judge.")
    good: int = Field(default=1_000, ge=1, description="From here on the report calls the count good.")
    topic_minimum: int = Field(default=10, ge=1, description="Topics with fewer examples are reported as thin.")


class Topic(_Section):
    """A topic for rows whose source has none: the first whose words occur in the user's text."""

    name: str = Field(description="The topic.")
    words: tuple[str, ...] = Field(min_length=1, description="Any of these, as whole words, case ignored.")


class TeacherSettings(_Section):
    """A chat route that writes synthetic examples: the gateway's own, or any compatible endpoint."""

    base_url: Url = Field(description="Address with its closing /v1.")
    model: str = Field(description="Route or model name there.")
    key_env: str = Field(default="TUNEGATE_API_KEY", description="Environment variable with the API key.")
    temperature: float = Field(default=0.9, ge=0, le=2, description="Higher gives more varied examples.")
    timeout_seconds: float = Field(default=120.0, gt=0, description="For one answer, in seconds.")


class DataSettings(_Section):
    """A data recipe."""

    name: Name = Field(description="Name of the dataset; versions are `name@sha12`.")
    tenant: str = Field(default="", description="Whose data it is.")
    sources: tuple[SourceSettings, ...] = Field(min_length=1, description="Where the rows come from, in this order.")
    topics: tuple[Topic, ...] = Field(default=(), description="Topics by words, for rows without one.")
    filters: Filters = Field(default=Filters(), description="Which tickets are kept.")
    cleaning: Cleaning = Field(default=Cleaning(), description="What is taken out of texts.")
    redaction: Redaction = Field(default=Redaction(), description="What is replaced by stand-ins.")
    validation: Validation = Field(default=Validation(), description="The rules of a row.")
    deduplication: Deduplication = Field(default=Deduplication(), description="What counts as the same.")
    splitting: Splitting = Field(default=Splitting(), description="Shares of the sides.")
    quality: Quality = Field(default=Quality(), description="Thresholds of the report.")
    rows_per_part: int = Field(default=5_000, ge=1, description="Rows per file between stages: the unit of memory.")


def load(path: Path) -> DataSettings:
    """Read a data recipe; relative paths in it are relative to the recipe."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read ({exc.strerror}); give the path of a data recipe") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: is not YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path}: must be a mapping with `name` and `sources`")
    try:
        settings = DataSettings.model_validate(raw)
    except ValidationError as exc:
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in _words(exc))) from exc
    return settings.model_copy(update={"sources": tuple(_beside(path, source) for source in settings.sources)})


def secret(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The value of an environment variable that a recipe names; empty counts as unset."""
    return (os.environ if environment is None else environment).get(name) or None


def expand(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace `${NAME}` by the environment's value; an unset name is an error."""
    pieces = text.split("${")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, closed, rest = piece.partition("}")
        value = secret(name, environment)
        if not closed or value is None:
            raise ConfigurationError(f"`${{{name}}}` is not set: export {name}")
        out += [value, rest]
    return "".join(out)


def _beside(recipe: Path, source: SourceSettings) -> SourceSettings:
    if source.path is None or source.path.is_absolute():
        return source
    return source.model_copy(update={"path": recipe.parent / source.path})


def _words(exc: ValidationError) -> list[str]:
    return [f"{'.'.join(str(part) for part in error['loc']) or 'recipe'}: {_reason(error)}" for error in exc.errors()]


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "is not a setting; see docs for the names"
    return str(error["msg"]).removeprefix("Value error, ")
