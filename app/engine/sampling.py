"""Choose the next token from logits.

Order, as in vLLM: log-probabilities of the raw logits, then logit bias, minimum length, penalties, temperature, top-k,
min-p, top-p, draw. A temperature below 1e-5 is greedy. A seed fixes the draws of one sequence, whatever else runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from app.engine.weights import Array

_GREEDY_BELOW = 1e-5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is sampled and when it ends; lengths in tokens, `logprobs` None for none."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < _GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The chosen token's log-probability and the most likely alternatives, the chosen one first, none twice."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """The draws of one sequence: its own generator and the counts its penalties need."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int], *, vocab: int, end_ids: Sequence[int]) -> None:
        """Seed the generator; without a seed it is seeded by the system."""
        self._params = params
        self._random = None if params.greedy else np.random.default_rng(params.seed)
        self._counts = np.zeros(vocab, np.int32)
        self._seen = np.zeros(vocab, bool)
        self._seen[list(prompt)] = True
        self._end_ids = [*end_ids, *params.stop_token_ids]
        self._generated = 0

    def choose(self, raw: Array) -> tuple[int, TokenLogprobs | None]:
        """Draw the next token from (vocab,) logits and count it."""
        token = self._draw(self._adjusted(raw))
        self._counts[token] += 1
        self._generated += 1
        return token, None if self._params.logprobs is None else _logprobs(raw, token, self._params.logprobs)

    def _adjusted(self, raw: Array) -> Array:
        params, logits = self._params, raw
        blocked = self._generated < params.min_tokens
        penalised = bool(params.presence_penalty or params.frequency_penalty) or params.repetition_penalty != 1.0
        if not (params.logit_bias or blocked or penalised):
            return logits
        logits = raw.copy()
        for token, bias in params.logit_bias.items():
            logits[token] += bias
        if blocked:
            logits[self._end_ids] = -np.inf
        if penalised:
            self._penalise(logits)
        return logits

    def _penalise(self, logits: Array) -> None:
        params, used = self._params, self._counts > 0
        if params.repetition_penalty != 1.0:
            seen = self._seen | used
            positive = logits > 0
            logits[seen & positive] /= params.repetition_penalty
            logits[seen & ~positive] *= params.repetition_penalty
        logits -= np.float32(params.frequency_penalty) * self._counts
        logits -= np.float32(params.presence_penalty) * used

    def _draw(self, logits: Array) -> int:
        if self._random is None:
            return int(np.argmax(logits))
        probs = _probabilities(logits.astype(np.float64) / self._params.temperature)
        order = np.argsort(-probs, kind="stable")
        kept = _kept(probs[order], self._params)
        cumulative = np.cumsum(kept)
        drawn = self._random.random() * cumulative[-1]
        return int(order[int(np.searchsorted(cumulative, drawn, side="right"))])


def _kept(ordered: Floats, params: SamplingParams) -> Floats:
    """Cut probabilities in falling order to top-k, then min-p, then top-p; at least one is left."""
    kept = ordered[: params.top_k] if params.top_k > 0 else ordered
    if params.min_p > 0:
        kept = kept[kept >= params.min_p * kept[0]]
    if params.top_p < 1:
        before = np.cumsum(kept) - kept
        kept = kept[before < params.top_p * kept.sum()]
    return kept


def _probabilities(logits: Floats) -> Floats:
    exps = np.exp(logits - logits.max())
    return cast("Floats", exps / exps.sum())


def _logprobs(raw: Array, token: int, count: int) -> TokenLogprobs:
    shifted = raw.astype(np.float64) - float(raw.max())
    logs = shifted - np.log(np.exp(shifted).sum())
    best = np.argsort(-logs, kind="stable")[:count]
    top = [(token, float(logs[token]))]
    top += [(int(index), float(logs[index])) for index in best if index != token]
    return TokenLogprobs(token, float(logs[token]), tuple(top))
