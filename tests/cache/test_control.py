"""Cache-Control: what a caller may ask of the cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.control import DEFAULT, Control, control


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", DEFAULT),
        ("no-transform", DEFAULT),
        ("max-stale=5", DEFAULT),
        ("no-store", Control(reads=False, keeps=False)),
        ("no-cache", Control(reads=False)),
        (" no-cache , max-age=60", Control(reads=False)),
        ("no-cache, no-store", Control(reads=False, keeps=False)),
        ("max-age=60", Control(max_age_seconds=60)),
        ('max-age="60"', Control(max_age_seconds=60)),
        ("max-age=0", Control(reads=False, max_age_seconds=0)),
        ("max-age=-1", Control(reads=False, max_age_seconds=0)),
        ("max-age", Control(reads=False, max_age_seconds=0)),
        ("max-age=soon", Control(reads=False, max_age_seconds=0)),
        ("max-age=\u0661", Control(reads=False, max_age_seconds=0)),
        ("my-no-store", DEFAULT),
    ],
)
def test_directives(header: str, expected: Control) -> None:
    """Each directive alone, the strictest of several, and what cannot be read counts as stale."""
    assert control(header) == expected


def test_an_age_is_accepted_up_to_the_bound() -> None:
    """Without max-age any stored answer will do."""
    assert Control().accepts(1e9)
    assert Control(max_age_seconds=60).accepts(60)
    assert not Control(max_age_seconds=60).accepts(60.1)


@given(st.text())
def test_any_header_means_something(header: str) -> None:
    """Whatever a caller sends is read without an error."""
    assert isinstance(control(header.lower()), Control)
