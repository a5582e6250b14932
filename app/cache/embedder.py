"""Sentence embeddings with MiniLM on onnxruntime: one worker thread, concurrent callers joined into one batch.

The event loop never waits for arithmetic: texts are tokenised and embedded in the worker. What arrives while a batch
runs forms the next one, so a burst of callers costs one hand-over, and a lone caller waits for nobody. A caller that
is cancelled only stops waiting. Texts are cut at 256 tokens, as the model was trained; vectors have length 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.cache.batching import Batcher
from app.cache.minilm import DIMENSIONS, GRAPH_REVISION, MAX_TOKENS, ensure_graph, model_files
from app.interfaces import EmbedderFailed

MAX_BATCH_TOKENS = 4096  # padded tokens of one run of the graph; bounds memory when a caller sends hundreds of texts


class MiniLM:
    """Implements `app.interfaces.Embedder`; build it with `MiniLM.load` and close it when done."""

    dimensions = DIMENSIONS
    model = f"minilm-int8-{GRAPH_REVISION}"

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: str) -> None:
        self._session = session
        self._counter = Tokenizer.from_str(tokenizer)
        self._counter.no_padding()
        self._counter.no_truncation()
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="minilm")
        self._batcher = Batcher(self._in_worker)
        self._closed = False

    @classmethod
    def load(cls, folder: Path) -> MiniLM:
        """The model from `folder`, built there first (a second); raises MissingModel. Blocks: call it at start."""
        files = model_files()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        graph = ensure_graph(files, folder)
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return cls(session, files.tokenizer.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Let the batch that runs end, then refuse; whoever still waits gets EmbedderFailed."""
        self._closed = True
        self._worker.shutdown(wait=True)

    def count_tokens(self, text: str) -> int:
        """Tokens of a whole text in this model's vocabulary, without the two that frame it."""
        return len(self._counter.encode(text, add_special_tokens=False).ids)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), 384), rows of length 1; never blocks the event loop. Raises EmbedderFailed."""
        if not texts:
            return np.zeros((0, DIMENSIONS), np.float32)
        return await self._batcher.embed(texts)

    async def _in_worker(self, texts: list[str]) -> NDArray[np.float32]:
        if self._closed:
            raise EmbedderFailed("the embedder is closed")
        made = asyncio.get_running_loop().run_in_executor(self._worker, self._vectors, texts)
        await asyncio.wait([made])
        if (exc := made.exception()) is not None:
            raise EmbedderFailed(f"the model failed: {type(exc).__name__}") from exc
        return made.result()

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = [self._tokenizer.encode(text).ids for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        for rows in _batches(order, tokens):
            vectors[rows] = self._run([tokens[row] for row in rows])
        return vectors

    def _run(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        vectors: NDArray[np.float32] = self._session.run(["vectors"], {"ids": ids, "mask": mask})[0]
        return vectors


def _batches(order: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows from short to long, cut where padding to the longest would pass the bound."""
    batches: list[list[int]] = []
    for row in order:
        if not batches or (len(batches[-1]) + 1) * len(tokens[row]) > MAX_BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
