"""Plans for one server: done once they are empty, never against a call in flight, never for names that are not ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.placement.reconcile import plan
from tests.placement.adapters import adapter

VERSIONS = {adapter(number).id: adapter(number) for number in range(10)}
_IDS = st.sampled_from(sorted(VERSIONS))


@given(
    st.dictionaries(_IDS | st.sampled_from(["by-hand", "x"]), st.sampled_from(["", "/moved"])),
    st.sets(_IDS),
    st.lists(_IDS, unique=True),
    st.sets(_IDS),
    st.integers(0, 8),
)
def test_a_plan_carried_out_leaves_nothing_to_do(
    found: dict[str, str], served_ids: set[str], warm_ids: list[str], busy: set[str], places: int
) -> None:
    """Whatever is there, applying the plan twice is applying it once; and it keeps every promise on the way."""
    actual = {name: (VERSIONS[name].path if name in VERSIONS else "/x") + moved for name, moved in found.items()}
    served = {name: VERSIONS[name].path for name in served_ids}
    warm = [VERSIONS[name] for name in warm_ids if name in served]
    made = plan(actual, served=served, warm=warm, busy=busy, places=places)
    assert not set(made.unload) & busy
    assert all(name in VERSIONS for name in made.unload)
    after = {name: path for name, path in actual.items() if name not in made.unload}
    after |= {version.id: version.path for version in made.load}
    assert len(after) <= max(places, len(actual))
    again = plan(after, served=served, warm=warm, busy=busy, places=places)
    assert (again.unload, again.load) == ((), ())


def test_the_most_important_is_loaded_last() -> None:
    """The server's own LRU then keeps it longest."""
    warm = [adapter(1), adapter(2), adapter(3)]
    made = plan({}, served={}, warm=warm, busy=(), places=2)
    assert [version.id for version in made.load] == [adapter(2).id, adapter(1).id]
