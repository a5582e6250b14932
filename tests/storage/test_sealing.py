from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.sealing import SealBroken, Sealer

PLACE = ("acme", "t1", "openai")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=200), st.lists(st.text(max_size=10), min_size=1, max_size=3))
def test_what_is_sealed_opens_in_its_place(secret: str, place: list[str]) -> None:
    """And shows nothing of itself while it is sealed."""
    sealer = Sealer.of("master")
    sealed = sealer.seal(secret, tuple(place))
    assert sealer.open(sealed, tuple(place)) == secret
    assert len(secret) < 4 or secret.encode() not in sealed
    assert sealer.seal(secret, tuple(place)) != sealed


@pytest.mark.parametrize("place", [("bloom", "t1", "openai"), ("acme", "t2", "openai"), ("acmet1", "", "openai")])
def test_a_copy_in_another_place_does_not_open(place: tuple[str, ...]) -> None:
    """A row that is moved to another tenant, team or provider is worth nothing."""
    sealer = Sealer.of("master")
    with pytest.raises(SealBroken):
        sealer.open(sealer.seal("sk-secret", PLACE), place)


def test_another_master_key_or_a_changed_byte_does_not_open() -> None:
    """Whatever is wrong, it is an error and never another secret."""
    sealed = Sealer.of("master").seal("sk-secret", PLACE)
    with pytest.raises(SealBroken):
        Sealer.of("other").open(sealed, PLACE)
    for broken in (sealed[:-1], b"", sealed[:12], bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(SealBroken):
            Sealer.of("master").open(broken, PLACE)
