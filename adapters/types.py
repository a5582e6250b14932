"""The values that travel between the stages of the data's way: frozen, without behaviour that does I/O.

They are msgspec structs because most of them live on disk: a stage reads what the stage before it wrote, and an absent
field is left out. Wall-clock instants are seconds since the Unix epoch. Nothing here imports another module of the
package.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Role(StrEnum):
    """Who speaks in a conversation, in OpenAI's words."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Split(StrEnum):
    """The three sides of a dataset; no customer and no near-duplicate cluster is on two of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class FunctionCall(msgspec.Struct, frozen=True):
    """The function an assistant calls; `arguments` is JSON text, as OpenAI sends it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """One call of an assistant message; the `tool` message that answers carries the same id."""

    id: str
    function: FunctionCall
    type: str = msgspec.field(default="function")


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn in OpenAI's chat form; `weight` 0 keeps an assistant turn out of the loss."""

    role: Role
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: int | None = None


class Example(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One conversation to learn from, and where it came from.

    `customer` is a keyed hash, never a name. `origin` says file and line (or table and key) to a person. `cluster`
    names the near-duplicate cluster, `parent` the real example that a synthetic one was made from.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None
    origin: str = ""
    customer: str = ""
    topic: str = ""
    created_at: float | None = None
    satisfaction: float | None = None
    resolution_seconds: float | None = None
    tokens: int = 0
    cluster: str = ""
    synthetic: bool = False
    teacher: str = ""
    parent: str = ""

    def chat(self) -> ChatLine:
        """The line OpenAI's fine-tuning API reads: the conversation and nothing else."""
        return ChatLine(self.messages, self.tools, self.parallel_tool_calls)


class ChatLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an exported JSONL file; `msgspec.json.encode` gives it without absent fields."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Line N of `<split>.lineage.jsonl` tells where line N of `<split>.jsonl` came from."""

    id: str
    origin: str = ""
    customer: str = ""
    topic: str = ""
    cluster: str = ""
    tokens: int = 0
    synthetic: bool = False
    teacher: str = ""
    parent: str = ""


class SplitFile(msgspec.Struct, frozen=True):
    """One side of a dataset: paths relative to the manifest, hashes of the bytes, rows and tokens in them."""

    path: str
    sha256: str
    rows: int
    tokens: int
    lineage_path: str
    lineage_sha256: str


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset version is: written last, so that a folder with a manifest is whole.

    `version` is `name@sha12` of the content of the three split files alone: the same rows give the same version
    whatever the day, the machine or the engine. `drops` counts every row that was left out, by reason.
    """

    name: str
    version: str
    sha256: str
    splits: dict[Split, SplitFile]
    rows: int
    tokens: int
    token_counter: str
    sources: tuple[str, ...]
    read: int
    drops: dict[str, int]
    redactions: dict[str, int]
    topics: dict[str, int]
    synthetic_rows: int
    config_sha256: str
    libraries: dict[str, str]
    created_at: float
    tenant: str = ""
    schema: int = 1


class AdapterFile(msgspec.Struct, frozen=True):
    """One file of an adapter: path relative to its manifest, hash and size in bytes."""

    path: str
    sha256: str
    bytes: int


class AdapterManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an adapter version is and how it came to be: written last, beside the PEFT files it names.

    `version` is `tenant--name@sha12` of the adapter's files. `dataset` is the version of the dataset it was trained on.
    """

    tenant: str
    name: str
    version: str
    sha256: str
    files: tuple[AdapterFile, ...]
    base_model: str
    base_revision: str
    method: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    dataset: str
    dataset_sha256: str
    config: dict[str, Any]
    config_sha256: str
    seed: int
    code_commit: str
    libraries: dict[str, str]
    metrics: dict[str, float]
    created_at: float
    quantization: str = ""
    parents: tuple[str, ...] = ()
    schema: int = 1
