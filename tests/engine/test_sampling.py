"""The choice of tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.sampling import Sampler, SamplingParams

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
END = 3


def sampler(*, prompt: tuple[int, ...] = (), **fields: Any) -> Sampler:
    """A sampler over four tokens, the last of which ends a sequence."""
    return Sampler(SamplingParams(max_tokens=50, **fields), prompt, vocab=4, end_ids=[END])


def draws(count: int, **fields: Any) -> list[int]:
    """That many draws from the same logits."""
    one = sampler(**fields)
    return [one.choose(LOGITS)[0] for _ in range(count)]


def test_greedy_takes_the_most_likely() -> None:
    """Temperature zero, or next to it, is no draw at all."""
    assert draws(5, temperature=0.0) == draws(5, temperature=1e-6) == [0] * 5


@given(seed=st.integers(0, 2**64 - 1))
def test_a_seed_fixes_the_draws(seed: int) -> None:
    """The same seed draws the same tokens."""
    assert draws(20, seed=seed) == draws(20, seed=seed)


def test_without_a_seed_draws_differ() -> None:
    """Two sequences without a seed go different ways."""
    assert draws(60) != draws(60)


def test_frequencies_follow_the_distribution() -> None:
    """Many draws at temperature one come near the probabilities."""
    counts = Counter(draws(20_000, seed=1))
    assert [counts[token] / 20_000 for token in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.02)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_p": 0.69}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"top_p": 0.001}, {0}),
        ({"min_p": 0.6}, {0, 1}),
        ({"top_k": 3, "top_p": 0.5}, {0, 1}),
    ],
)
def test_cuts_keep_the_most_likely(fields: dict[str, Any], kept: set[int]) -> None:
    """top-k, top-p and min-p leave exactly the tokens they should, and at least one."""
    assert set(draws(500, seed=3, **fields)) == kept


def test_minimum_length_holds_back_the_end() -> None:
    """No end token before `min_tokens`, even where it is by far the most likely."""
    one = sampler(temperature=0.0, min_tokens=2)
    logits = np.array([0, 0, 0, 9], np.float32)
    assert [one.choose(logits)[0] for _ in range(3)] == [0, 0, END]


def test_penalties_act_on_what_was_generated() -> None:
    """Frequency and presence penalties push down tokens already made; the prompt's do not count for them."""
    assert [sampler(temperature=0.0, presence_penalty=1.0, prompt=(0,)).choose(LOGITS)[0]] == [0]
    assert draws(3, temperature=0.0, presence_penalty=1.0) == [0, 1, 2]
    assert draws(4, temperature=0.0, frequency_penalty=0.5) == [0, 1, 0, 2]


def test_repetition_penalty_counts_the_prompt_too() -> None:
    """A token of the prompt is pushed down by the repetition penalty."""
    assert sampler(temperature=0.0, repetition_penalty=2.0, prompt=(0,)).choose(LOGITS)[0] == 1


def test_bias_is_added_before_the_choice_but_not_to_log_probabilities() -> None:
    """Log-probabilities describe the model, not the request."""
    token, logprobs = sampler(temperature=0.0, logit_bias={2: 50.0}, logprobs=2).choose(LOGITS)
    assert token == 2
    assert logprobs is not None
    assert logprobs.logprob == pytest.approx(np.log(0.2), abs=1e-5)
    assert [entry[0] for entry in logprobs.top] == [2, 0, 1]


@given(logits=st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4), count=st.integers(0, 4))
def test_log_probabilities_are_a_distribution(logits: list[float], count: int) -> None:
    """All of them together sum to one, the chosen one first, the rest in falling order, none twice."""
    _, logprobs = sampler(seed=0, logprobs=count).choose(np.array(logits, np.float32))
    assert logprobs is not None
    tokens = [token for token, _ in logprobs.top]
    assert tokens[0] == logprobs.token
    assert len(set(tokens)) == len(tokens)
    rest = [value for _, value in logprobs.top[1:]]
    assert rest == sorted(rest, reverse=True)
    if count == 4:
        assert sum(np.exp(value) for _, value in logprobs.top) == pytest.approx(1.0, abs=1e-4)
