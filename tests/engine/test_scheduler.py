"""Who runs and who waits."""

from __future__ import annotations

from app.engine.lora import LoraRequest
from app.engine.sampling import Sampler, SamplingParams
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence
from app.engine.text import TextStream
from app.engine.tokenizer import Tokenizer


def sequence(tokenizer: Tokenizer, name: str, adapter: str | None = None) -> Sequence:
    """A sequence of a request of that name."""
    params = SamplingParams(max_tokens=4)
    return Sequence(
        request=name,
        index=0,
        prompt=[1],
        params=params,
        lora=None if adapter is None else LoraRequest(ord(adapter), adapter, f"/{adapter}"),
        emit=lambda _: None,
        sampler=Sampler(params, [1], vocab=8, end_ids=[]),
        stream=TextStream(tokenizer),
        end_ids=frozenset(),
        main_end_id=None,
    )


def filled(tokenizer: Tokenizer, wanted: str, *, seqs: int = 8, loras: int = 2) -> Scheduler:
    """A scheduler with one request per letter; a dot is the base model."""
    scheduler = Scheduler(max_num_seqs=seqs, max_loras=loras)
    for index, adapter in enumerate(wanted):
        scheduler.add(sequence(tokenizer, f"{index}{adapter}", None if adapter == "." else adapter))
    return scheduler


def names(sequences: list[Sequence]) -> list[str]:
    """The requests of some sequences."""
    return [one.request for one in sequences]


def test_a_third_adapter_is_deferred_and_overtaken(tokenizer: Tokenizer) -> None:
    """With two slots taken, a third adapter waits while later requests for the two, or for the base, pass it."""
    scheduler = filled(tokenizer, "abca.b")
    assert names(scheduler.admit()) == ["0a", "1b", "3a", "4.", "5b"]
    load = scheduler.load()
    assert (load.running, load.capacity, load.deferred) == (5, 0, 1)
    assert load.adapters == ("a", "b", "c")


def test_a_freed_slot_lets_the_deferred_one_in(tokenizer: Tokenizer) -> None:
    """When the last sequence of an adapter ends, the one that waited for a slot runs."""
    scheduler = filled(tokenizer, "aabc")
    first, second, _ = scheduler.admit()
    scheduler.finish(first)
    assert scheduler.admit() == []
    scheduler.finish(second)
    assert names(scheduler.admit()) == ["3c"]


def test_seats_are_limited_and_given_in_order(tokenizer: Tokenizer) -> None:
    """No more than `max_num_seqs` run; the rest wait for capacity, first come first served."""
    scheduler = filled(tokenizer, ".....", seqs=2)
    assert names(scheduler.admit()) == ["0.", "1."]
    assert scheduler.load().capacity == scheduler.load().waiting == 3
    scheduler.finish(scheduler.running[0])
    assert names(scheduler.admit()) == ["2."]


def test_an_aborted_request_leaves_wherever_it_is(tokenizer: Tokenizer) -> None:
    """Running or waiting, an aborted request is gone at once and frees its seat and slot."""
    scheduler = filled(tokenizer, "abc", loras=2)
    scheduler.admit()
    assert [scheduler.abort(name) for name in ("0a", "2c", "unknown")] == [1, 1, 0]
    assert names(list(scheduler)) == ["1b"]
