"""What the gateway thinks of its servers: who is well, what they run, and what their own lists correct."""

from __future__ import annotations

from app.placement.replica import PROBES_TO_FAIL, Replica, new_replica
from app.placement.replicas import SUSPECT_SECONDS, ReplicaSet
from app.placement.residency import Level
from tests.placement.adapters import Clock, pool

URLS = ("http://a", "http://b", "http://c")


def _replica() -> Replica:
    return new_replica(pool("http://a"), "http://a")


def _set(clock: Clock, usable: frozenset[str] = frozenset(URLS)) -> ReplicaSet:
    return ReplicaSet(pool(*URLS), clock=clock, usable=usable.__contains__)


def test_a_server_is_out_after_two_failed_probes_and_back_after_one_good() -> None:
    """One lost probe is noise; one good probe is proof."""
    replica = _replica()
    replica.probed(alive=True)
    for _ in range(PROBES_TO_FAIL - 1):
        replica.probed(alive=False)
        assert replica.healthy
    replica.probed(alive=False)
    assert not replica.healthy
    replica.probed(alive=True)
    assert replica.healthy


def test_a_server_that_was_never_seen_is_out_after_one() -> None:
    """At the start nothing speaks for it."""
    replica = _replica()
    replica.probed(alive=False)
    assert not replica.healthy


def test_the_servers_list_is_the_truth() -> None:
    """Names it lost are forgotten, names that another gateway registered are taken over."""
    replica = _replica()
    replica.register("x", "/x", 1.0)
    replica.register("y", "/y", 2.0)
    assert not replica.reconcile({"y": "/y", "z": "/z"}, asked_at=3.0)
    assert {name: known.path for name, known in replica.registered.items()} == {"y": "/y", "z": "/z"}
    assert list(replica.registered) == ["y", "z"]


def test_a_name_registered_under_another_path_is_corrected() -> None:
    """What the server says it serves is what counts."""
    replica = _replica()
    replica.register("x", "/old", 1.0)
    replica.reconcile({"x": "/new"}, asked_at=2.0)
    assert replica.registered["x"].path == "/new"


def test_a_name_registered_while_the_list_was_on_its_way_stays() -> None:
    """An answer that was true before the load does not undo it."""
    replica = _replica()
    replica.register("x", "/x", 5.0)
    assert not replica.reconcile({}, asked_at=4.0)
    assert "x" in replica.registered


def test_losing_every_name_is_a_restart() -> None:
    """A new process holds nothing, so its mirror is emptied; its health is asked, not assumed."""
    replica = _replica()
    for name in "xy":
        replica.register(name, f"/{name}", 1.0)
    assert replica.reconcile({}, asked_at=2.0)
    assert replica.residency.level("x") is Level.ABSENT
    assert not replica.registered
    assert not replica.reconcile({}, asked_at=3.0)


def test_reconciling_twice_changes_nothing() -> None:
    """The second comparison with the same list finds nothing to do."""
    replica = _replica()
    replica.register("x", "/x", 1.0)
    replica.reconcile({"z": "/z"}, asked_at=2.0)
    before = dict(replica.registered)
    assert not replica.reconcile({"z": "/z"}, asked_at=3.0)
    assert dict(replica.registered) == before


def test_forgetting_spares_what_was_registered_later() -> None:
    """A 404 that was answered before the reload does not undo the reload."""
    replica = _replica()
    replica.register("x", "/x", 5.0)
    replica.forget("x", known_at=4.0)
    assert "x" in replica.registered
    replica.forget("x", known_at=5.0)
    assert "x" not in replica.registered


def test_a_suspect_goes_last_for_a_moment() -> None:
    """After a failed call others are preferred; alone, it is still used."""
    clock = Clock()
    servers = _set(clock)
    first = servers.choose("x", "")
    assert first is not None
    servers.suspect(first.url)
    second = servers.choose("x", "")
    assert second is not None
    assert second.url != first.url
    for url in URLS:
        servers.suspect(url)
    assert servers.choose("x", "") is not None
    clock.now += SUSPECT_SECONDS
    assert servers.choose("x", "") is first


def test_an_open_breaker_orders_and_never_shuts_the_last_one_out() -> None:
    """Servers whose breaker is open are used when there is nobody else."""
    chosen = _set(Clock(), frozenset({"http://b"})).choose("x", "")
    assert chosen is not None
    assert chosen.url == "http://b"
    assert _set(Clock(), frozenset()).choose("x", "") is not None


def test_servers_that_are_not_well_are_the_last_resort() -> None:
    """While one is well it is taken; when none is, late probes do not turn a slow pool into one that refuses."""
    servers = _set(Clock())
    assert servers.choose("x", "", avoid=URLS) is None
    assert not servers.any_left(avoid=URLS)
    for url in URLS[1:]:
        for _ in range(PROBES_TO_FAIL):
            servers.replicas[url].probed(alive=False)
    for number in range(20):
        chosen = servers.choose(f"a{number}", "")
        assert chosen is not None
        assert chosen.url == URLS[0]
    for _ in range(PROBES_TO_FAIL):
        servers.replicas[URLS[0]].probed(alive=False)
    assert servers.choose("x", "") is not None
