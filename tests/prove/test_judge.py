"""The judge has teeth: wrong words, late versions and lost ledger entries are each told apart, and nothing else is."""

from __future__ import annotations

import pytest

from tests.prove.judge import Adapter, Answer, Tally

OURS, THEIRS = ("acme", "support"), ("bloom", "support")
OLD, NEW, FOREIGN = "acme--support@1", "acme--support@2", "bloom--support@1"


@pytest.fixture
def adapters() -> dict[tuple[str, str], Adapter]:
    """Two tenants' adapters; ours has two versions."""
    return {OURS: Adapter([(OLD, "old words"), (NEW, "new words")]), THEIRS: Adapter([(FOREIGN, "their words")])}


def judged(adapters: dict[tuple[str, str], Adapter], answer: Answer, asked_at: float, at: float) -> Tally:
    """A tally after one answer."""
    tally = Tally()
    tally.judge(adapters, OURS, answer, asked_at, at)
    return tally


def test_the_words_of_the_named_version_are_right(adapters: dict[tuple[str, str], Adapter]) -> None:
    """Named, said and current: nothing to complain of, and the ledger will be asked for it."""
    tally = judged(adapters, Answer(200, "old words", OLD, "r1"), 1.0, 2.0)
    assert (tally.ok, tally.wrong, tally.promises_held()) == (1, 0, True)
    assert tally.answered == {"r1": OLD}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (Answer(200, "new words", OLD), "wrong_version"),
        (Answer(200, "old words", NEW), "wrong_version"),
        (Answer(200, "old words"), "wrong_version"),
        (Answer(200, "their words", OLD), "wrong_tenant"),
        (Answer(200, "their words", FOREIGN), "wrong_tenant"),
        (Answer(200, "the base's words", OLD), "wrong_other"),
        (Answer(200, "", OLD), "wrong_other"),
    ],
)
def test_other_words_than_the_named_versions_are_wrong_at_any_time(
    adapters: dict[tuple[str, str], Adapter], answer: Answer, field: str
) -> None:
    """No tolerance: not even while the alias moves between the two."""
    adapters[OURS].flipping(1.5)
    tally = judged(adapters, answer, 1.0, 2.0)
    assert getattr(tally, field) == 1
    assert tally.wrong == 1
    assert not tally.promises_held()


def test_a_version_may_be_named_while_any_moment_of_the_call_was_its_own(
    adapters: dict[tuple[str, str], Adapter],
) -> None:
    """Before the flip is confirmed both are right; a call that begins after it may only name the new one."""
    adapters[OURS].flipping(10.0)
    for version in (OLD, NEW):
        assert adapters[OURS].seconds_late(version, 10.5, 11.0) == 0
    adapters[OURS].flipped(12.0)
    assert adapters[OURS].seconds_late(OLD, 11.9, 15.0) == 0
    assert adapters[OURS].seconds_late(OLD, 12.5, 15.0) == pytest.approx(0.5)
    assert adapters[OURS].seconds_late(NEW, 12.5, 15.0) == 0
    late = judged(adapters, Answer(200, "old words", OLD), 12.5, 15.0)
    assert (late.late, late.promises_held()) == (1, False)
    assert late.late_seconds == pytest.approx(0.5)


def test_a_version_before_its_flip_was_asked_for_is_wrong(adapters: dict[tuple[str, str], Adapter]) -> None:
    """Nobody can have meant it: that is later than any bound."""
    assert judged(adapters, Answer(200, "new words", NEW), 1.0, 2.0).late == 1


def test_an_answer_by_the_new_version_ends_the_old_meaning_before_it_is_confirmed(
    adapters: dict[tuple[str, str], Adapter],
) -> None:
    """Once anyone has the new version, no call that begins later may get the old one, on whatever gateway."""
    tally = Tally()
    adapters[OURS].flipping(10.0)
    tally.judge(adapters, OURS, Answer(200, "new words", NEW), 9.0, 11.0)
    tally.judge(adapters, OURS, Answer(200, "old words", OLD), 10.9, 12.0)
    assert tally.wrong == 0
    tally.judge(adapters, OURS, Answer(200, "old words", OLD), 11.1, 12.0)
    assert tally.late == 1


def test_an_answer_that_may_be_by_an_earlier_meaning_ends_nothing(adapters: dict[tuple[str, str], Adapter]) -> None:
    """Flipped forth and back: a call from before says nothing about the second flip."""
    ours = adapters[OURS]
    ours.flipping(10.0)
    ours.flipped(11.0)
    ours.flipping(12.0)  # back to the old one, not confirmed yet
    ours.seen(OLD, 10.5, 13.0)
    assert ours.seconds_late(NEW, 13.5, 14.0) == 0
    ours.seen(OLD, 11.5, 13.0)
    assert ours.seconds_late(NEW, 13.5, 14.0) == pytest.approx(0.5)


def test_what_the_ledger_does_not_name_and_what_failed_are_broken_promises() -> None:
    """And recoveries are held to their time only where one was measured."""
    assert not Tally(not_in_ledger=1).promises_held()
    assert not Tally(failed=1).promises_held()
    assert Tally().is_in_time(5.0)
    assert not Tally(gateway_seconds=5.1).is_in_time(5.0)
    assert not Tally(recovered_seconds=5.1).is_in_time(5.0)
    assert not Tally(felt_seconds=5.1).is_in_time(5.0)
