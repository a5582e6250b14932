"""Embeddings made inside the gateway: the same wire as `/v1/embeddings` of a provider, no network.

The official SDK asks for base64 (little-endian float32) unless told otherwise, so both encodings are spoken. Token
ids are refused with advice: they belong to another model's tokenizer, and decoding them wrongly would be silent.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.backends.metering import UNREADABLE
from app.errors import InvalidRequest, Unavailable
from app.interfaces import Embedder, TokenCounter
from app.types import Call, Endpoint

MAX_INPUTS = 256


class _Input(msgspec.Struct):
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


_INPUT = msgspec.json.Decoder(_Input)


@dataclass(slots=True)
class Made:
    """A finished answer that looks like an upstream's."""

    body: bytes
    endpoint: Endpoint
    status: int = 200
    content_type: bytes = b"application/json"

    async def blocks(self) -> AsyncIterator[bytes]:
        """The whole answer at once."""
        yield self.body


@dataclass(frozen=True, slots=True)
class EmbeddedBackend:
    """Implements `app.interfaces.Backend` for the embedding model inside the gateway."""

    embedder: Embedder | None
    count_tokens: TokenCounter

    @asynccontextmanager
    async def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AsyncIterator[Made]:
        """Embed the call's inputs; raises InvalidRequest naming the field."""
        del request_id  # nobody to tell it to
        if self.embedder is None:
            raise Unavailable("The embedded model is switched off; set cache.semantic to true.", retry_after_seconds=60)
        asked = _asked(call.body)
        texts = _texts(asked)
        if asked.dimensions not in (None, self.embedder.dimensions):
            raise InvalidRequest(f"dimensions: this model has {self.embedder.dimensions}", param="dimensions")
        if asked.encoding_format not in (None, "float", "base64"):
            raise InvalidRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")
        vectors = await self.embedder.embed(texts)
        tokens = sum(self.count_tokens(text) for text in texts)
        yield Made(_body(vectors, call.route, tokens, asked.encoding_format == "base64"), endpoint)


def _asked(body: bytes) -> _Input:
    try:
        return _INPUT.decode(body)
    except UNREADABLE as exc:
        field = next((name for name in _Input.__struct_fields__ if f"$.{name}" in str(exc)), None)
        raise InvalidRequest(f"{field or 'body'}: {str(exc).split(' - at', maxsplit=1)[0]}", param=field) from None


def _texts(asked: _Input) -> list[str]:
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest("input: expected non-empty text; this model takes no token ids", param="input")
    if len(texts) > MAX_INPUTS:
        raise InvalidRequest(f"input: expected at most {MAX_INPUTS} texts", param="input")
    return [str(text) for text in texts]


def _body(vectors: NDArray[np.float32], model: str, tokens: int, as_base64: bool) -> bytes:
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist(),
        }
        for index, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": rows, "model": model, "usage": usage})
