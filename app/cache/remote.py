"""Embeddings of an OpenAI-compatible service: a provider's `/v1/embeddings`, or vLLM's.

Concurrent callers' texts go out together, after at most two milliseconds. Vectors are brought to length 1, whatever
the service does; an answer of another shape is refused, for vectors of two models must never be compared.

Fail mode: EmbedderFailed, which costs the caller a semantic hit. No text is in any message.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from app.cache.batching import Batcher
from app.interfaces import EmbedderFailed

WINDOW_SECONDS = 0.002
MAX_TEXTS = 128  # of one request; services allow from some hundred
PARALLEL = 8
MAX_REPLY_BYTES = 32 * 1024 * 1024


class _Row(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Reply(msgspec.Struct):
    data: list[_Row]


_REPLY = msgspec.json.Decoder(_Reply)


@dataclass(frozen=True, slots=True)
class EmbeddingService:
    """Where embeddings are made, and how long their vectors are; `base_url` with or without a closing /v1."""

    base_url: str
    model: str
    dimensions: int
    api_key: str | None = None
    timeout_seconds: float = 2.0


class RemoteEmbedder:
    """Implements `app.interfaces.Embedder`; build it with `RemoteEmbedder.open`."""

    def __init__(self, service: EmbeddingService, session: aiohttp.ClientSession) -> None:
        self.dimensions = service.dimensions
        self.model = f"{service.base_url} {service.model}"
        self._service = service
        self._session = session
        base = service.base_url.rstrip("/")
        self._url = f"{base if base.endswith('/v1') else base + '/v1'}/embeddings"
        self._batcher = Batcher(self._ask, window_seconds=WINDOW_SECONDS, max_texts=MAX_TEXTS, parallel=PARALLEL)

    @classmethod
    @asynccontextmanager
    async def open(cls, service: EmbeddingService) -> AsyncIterator[RemoteEmbedder]:
        """An embedder with connections of its own; connects when first used."""
        headers = {"authorization": f"Bearer {service.api_key}"} if service.api_key else {}
        timeout = aiohttp.ClientTimeout(total=service.timeout_seconds)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session:
            yield cls(service, session)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), dimensions), rows of length 1. Raises EmbedderFailed."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        return await self._batcher.embed(texts)

    async def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        body = msgspec.json.encode({"model": self._service.model, "input": texts, "encoding_format": "base64"})
        try:
            async with self._session.post(
                self._url, data=body, headers={"content-type": "application/json"}, allow_redirects=False
            ) as reply:
                if reply.status != 200:
                    raise EmbedderFailed(f"the embedding service answered with status {reply.status}")
                if (reply.content_length or 0) > MAX_REPLY_BYTES:
                    raise EmbedderFailed("the embedding service's answer is too large")
                payload = await reply.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise EmbedderFailed(f"the embedding service did not answer: {type(exc).__name__}") from exc
        return self._vectors(payload, len(texts))

    def _vectors(self, payload: bytes, count: int) -> NDArray[np.float32]:
        try:
            rows = {row.index: _floats(row.embedding) for row in _REPLY.decode(payload).data}
            vectors = np.stack([rows[index] for index in range(count)])
        except (msgspec.MsgspecError, ValueError, KeyError) as exc:
            raise EmbedderFailed(f"the embedding service's answer cannot be read: {type(exc).__name__}") from exc
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[1] != self.dimensions or not np.isfinite(lengths).all() or not lengths.all():
            raise EmbedderFailed(
                f"the embedding service sent vectors of {vectors.shape[1]} dimensions, or of no direction; "
                f"{self.dimensions} dimensions are configured"
            )
        return np.asarray(vectors / lengths, np.float32)


def _floats(embedding: str | list[float]) -> NDArray[np.float32]:
    """A vector as it was sent: base64 of little-endian floats, or a list where a service knows no base64."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.array(embedding, np.float32)
