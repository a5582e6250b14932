"""Whether two answers say the same: plain contradictions count, wording does not."""

from __future__ import annotations

import pytest

from app.cache.compare import AGREEMENT, agree, same_words


@pytest.mark.parametrize(
    ("one", "other", "similarity", "agreed"),
    [
        ("Press the  Button.", "press the button.", 0.0, True),
        ("Press the button.", "Push the red button.", AGREEMENT, True),
        ("Press the button.", "We are closed.", AGREEMENT - 0.01, False),
        ("It takes 5 days.", "It takes 7 days.", 0.99, False),
        ("It takes 5 days.", "It takes about 5 days, rarely 7.", 0.9, True),
        ("It takes a while.", "It takes 7 days.", 0.9, True),
        ("Yes, you can.", "No, you cannot.", 0.95, False),
        ("Yes, you can.", "You can.", 0.95, True),
        ("Unfortunately not.", "Sure, here is how.", 0.9, False),
        ("No, sorry. " * 400, "No. " * 400, 0.9, True),
    ],
)
def test_answers_are_compared(one: str, other: str, similarity: float, agreed: bool) -> None:
    """In both directions, and for long answers too."""
    assert agree(one, other, similarity) is agree(other, one, similarity) is agreed


def test_the_same_words_need_no_vectors() -> None:
    """White space and case do not make another answer."""
    assert same_words(" A\n b", "a B")
    assert not same_words("a", "b")
