"""The cache stage on a real Redis and the real embedder: what is found, what is kept, who never sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from app.cache import promise
from app.cache.cache import AnswerCache, CacheConfig
from app.cache.guard import GuardReason
from app.cache.key import label
from app.cache.question import Question
from app.cache.state import States
from app.cache.stored import text_of, usage_of
from app.interfaces import EmbedderFailed
from app.storage.redis import RedisStore
from app.types import CachedAnswer, CachePolicy, CacheStatus, Call, Choice, Operation, Principal, Usage
from tests.cache.calls import call_of, make_answer, make_call, make_choice, make_principal, make_stream, make_target
from tests.cache.conftest import Caches, FakeClock
from tests.support.processes import free_port

ACME = make_principal()
QUESTION = "How do I reset my password?"
PARAPHRASE = "What is the way to reset my password?"
ANSWER = make_answer()


async def found(
    cache: AnswerCache, call: Call | None = None, choice: Choice | None = None, principal: Principal = ACME
) -> CachedAnswer | None:
    """What a call would be answered from."""
    return await cache.ask(principal, call or make_call(QUESTION), choice or make_choice()).answer()


async def kept(
    cache: AnswerCache,
    call: Call | None = None,
    choice: Choice | None = None,
    *,
    principal: Principal = ACME,
    body: bytes = ANSWER,
    usage: Usage | None = None,
) -> None:
    """Let a call miss and its answer be kept, if it may."""
    call, choice = call or make_call(QUESTION), choice or make_choice()
    asked = cache.ask(principal, call, choice)
    await asked.answer()
    keep = asked.keep(choice.targets[0])
    if keep is not None:
        await keep(body, usage)


def status(answer: CachedAnswer | None) -> CacheStatus | None:
    """How an answer was found."""
    return None if answer is None else answer.status


async def test_a_repeat_is_exact_and_a_paraphrase_semantic(caches: Caches) -> None:
    """The same words find the same bytes; other words with the same meaning find them by their vector."""
    cache = caches.make()
    assert await found(cache) is None
    await kept(cache)
    repeat = await found(cache)
    assert repeat is not None
    assert (repeat.status, repeat.body) == (CacheStatus.EXACT, ANSWER)
    near = await found(cache, make_call(PARAPHRASE))
    assert near is not None
    assert (near.status, near.body) == (CacheStatus.SEMANTIC, ANSWER)


async def test_two_hundred_tenants_never_meet(caches: Caches) -> None:
    """The same prompts of 200 tenants: every answer found is the tenant's own, exact and semantic alike."""
    cache = caches.make()
    tenants = [f"tenant-{number}" for number in range(200)]
    for tenant in tenants[:100]:
        await kept(cache, principal=make_principal(tenant), body=make_answer(tenant))
    for tenant in tenants:
        for turn in (QUESTION, PARAPHRASE):
            answer = await found(cache, make_call(turn), principal=make_principal(tenant))
            assert (text_of(answer.body) if answer else None) == (tenant if tenant in tenants[:100] else None)


async def test_a_near_miss_is_refused_with_its_reason(caches: Caches) -> None:
    """Another number, near as it is, is not answered from the cache, and the reason is told."""
    cache = caches.make()
    await kept(cache, make_call("How do I reset my passcode for account 1234?"))
    assert await found(cache, make_call("How do I reset my passcode for account 1235?")) is None
    assert caches.refusals == [GuardReason.NUMBER]


async def test_a_refused_neighbour_does_not_hide_the_next(caches: Caches) -> None:
    """Of two near turns the guard refuses the nearer one and lets the other through."""
    cache = caches.make()
    await kept(cache, make_call("How do I not reset my password?"), body=make_answer("not"))
    await kept(cache, make_call("How can I reset my password?"), body=make_answer("can"))
    answer = await found(cache, make_call(QUESTION))
    assert answer is not None
    assert text_of(answer.body) == "can"


async def test_replicas_share_an_entry_at_once(caches: Caches) -> None:
    """What one gateway keeps, another finds with its next lookup, both ways."""
    one, other = caches.make(), caches.make()
    assert await found(other) is None
    await kept(one)
    assert status(await found(other)) is CacheStatus.EXACT
    await caches.drain()
    assert status(await found(other, make_call(PARAPHRASE))) is CacheStatus.SEMANTIC


async def test_a_restarted_gateway_is_warm(caches: Caches) -> None:
    """A new process finds by meaning what others kept before it, more than one page of it."""
    before = caches.make()
    await asyncio.gather(*(kept(before, make_call(f"Where is parcel {number}?")) for number in range(300)))
    await kept(before)
    await caches.drain()
    after = caches.make()
    assert status(await found(after, make_call(PARAPHRASE))) is CacheStatus.SEMANTIC


async def test_an_evicted_scope_is_read_again_from_its_beginning(caches: Caches) -> None:
    """A scope that went out of memory between sending and answering is not half forgotten."""
    cache = caches.make(max_scopes=1)
    await kept(cache)
    assert status(await found(cache, make_call(PARAPHRASE))) is CacheStatus.SEMANTIC
    asked = cache.ask(ACME, make_call(PARAPHRASE), make_choice())  # asks for what comes after the first entry
    other = make_choice(variant="candidate")
    await kept(cache, choice=other)
    assert (
        status(await found(cache, make_call(PARAPHRASE), other)) is CacheStatus.SEMANTIC
    )  # the first scope is evicted
    assert status(await asked.answer()) is CacheStatus.SEMANTIC


async def test_answers_expire_with_their_turns(caches: Caches, clock: FakeClock) -> None:
    """After the time to live neither the words nor the meaning find the answer, and the stream lets go of it."""
    choice = make_choice(CachePolicy(exact=True, semantic=True, ttl_seconds=1))
    cache = caches.make()
    await kept(cache, choice=choice)
    assert status(await found(cache, choice=choice)) is CacheStatus.EXACT
    await caches.drain()
    async with asyncio.timeout(5):
        while await caches.store.command("KEYS", "tg:{acme}:*:*"):
            await asyncio.sleep(0.05)
    assert await found(cache, choice=choice) is None
    assert await found(cache, make_call(PARAPHRASE), choice) is None
    assert await found(cache, make_call(PARAPHRASE), choice) is None  # and the index has forgotten it, too


async def test_promotion_leaves_old_answers_unreachable(caches: Caches) -> None:
    """Another version of the adapter starts empty; taking it back finds the old answers again."""
    cache = caches.make()
    old, new = make_choice(), make_choice(targets=(make_target("b" * 64),))
    await kept(cache, choice=old)
    assert await found(cache, choice=new) is None
    assert await found(cache, make_call(PARAPHRASE), new) is None
    assert status(await found(cache, choice=old)) is CacheStatus.EXACT


@pytest.mark.parametrize(
    ("policy", "repeat", "paraphrase"),
    [
        (CachePolicy(), None, None),
        (CachePolicy(exact=True), CacheStatus.EXACT, None),
        (CachePolicy(semantic=True), CacheStatus.EXACT, CacheStatus.SEMANTIC),
        (CachePolicy(semantic=True, threshold=0.9999), CacheStatus.EXACT, None),
    ],
)
async def test_a_route_has_what_it_asks_for(
    caches: Caches, policy: CachePolicy, repeat: CacheStatus | None, paraphrase: CacheStatus | None
) -> None:
    """Off by default, exact alone, semantic with its threshold."""
    cache, choice = caches.make(), make_choice(policy)
    await kept(cache, choice=choice)
    assert status(await found(cache, choice=choice)) is repeat
    assert status(await found(cache, make_call(PARAPHRASE), choice)) is paraphrase


async def test_without_a_cache_nothing_is_asked(caches: Caches) -> None:
    """A route with the cache off, an uncacheable call and `no-store` share one object that does nothing."""
    cache = caches.make()
    asked = [
        cache.ask(ACME, make_call(), make_choice(CachePolicy())),
        cache.ask(ACME, make_call(n=2), make_choice()),
        cache.ask(ACME, make_call(cache_control="no-store"), make_choice()),
    ]
    assert asked[0] is asked[1] is asked[2]
    assert asked[0].status is CacheStatus.BYPASS
    assert await asked[0].answer() is None
    assert asked[0].keep(make_target()) is None


async def test_callers_control_the_cache(caches: Caches, clock: FakeClock) -> None:
    """no-store keeps nothing, no-cache renews, max-age takes what is young enough, by words and by meaning."""
    cache = caches.make()
    await kept(cache, make_call(cache_control="no-store"))
    assert await found(cache) is None
    await kept(cache, body=make_answer("old"))
    renewing = cache.ask(ACME, make_call(cache_control="no-cache"), make_choice())
    assert renewing.status is CacheStatus.BYPASS
    assert await renewing.answer() is None
    await kept(cache, make_call(cache_control="no-cache"), body=make_answer("new"))
    answer = await found(cache)
    assert answer is not None
    assert text_of(answer.body) == "new"
    clock.now += 61
    for turn, expected in ((QUESTION, CacheStatus.EXACT), (PARAPHRASE, CacheStatus.SEMANTIC)):
        assert await found(cache, make_call(turn, cache_control="max-age=60")) is None
        assert status(await found(cache, make_call(turn, cache_control="max-age=62"))) is expected


async def test_a_fallbacks_answer_is_not_kept(caches: Caches) -> None:
    """Only the first target's answers are: a fallback's would outlive the failure that it covered for."""
    choice = make_choice(targets=(make_target(), make_target(upstream="other")))
    asked = caches.make().ask(ACME, make_call(), choice)
    assert asked.keep(choice.targets[0]) is not None
    assert asked.keep(choice.targets[1]) is None


@pytest.mark.parametrize(
    "body",
    [
        make_answer(finish_reason="length"),
        make_answer(finish_reason="content_filter"),
        make_answer(None, refusal="I cannot help with that."),
        make_answer(None, "tool_calls", tool_calls=[{"id": "1", "type": "function"}]),
        make_answer("text", tool_calls=[{"id": "1", "type": "function"}]),
        make_answer(""),
        b'{"error":{"message":"no"}}',
        b"[]",
        b"not json",
    ],
)
async def test_what_must_not_be_replayed_is_not_kept(caches: Caches, body: bytes) -> None:
    """Truncated, filtered, refused, tool-calling, empty, failed and unreadable answers."""
    cache = caches.make()
    await kept(cache, body=body)
    assert await found(cache) is None
    assert await caches.store.command("DBSIZE") == 0


async def test_a_too_long_answer_is_not_kept(caches: Caches) -> None:
    """One byte over the bound is one too many."""
    assert await kept_within(caches, len(ANSWER)) is CacheStatus.EXACT
    assert await kept_within(caches, len(ANSWER) - 1) is None


async def kept_within(caches: Caches, max_answer_bytes: int) -> CacheStatus | None:
    """How the answer is found on an empty Redis when answers may be so long."""
    await caches.store.command("FLUSHALL")
    cache = caches.make(exact_only=True, max_answer_bytes=max_answer_bytes)
    await kept(cache)
    return status(await found(cache))


async def test_streamed_answers_are_kept_whole(caches: Caches) -> None:
    """A stream becomes the answer a whole call would have got; a broken one is not kept."""
    cache = caches.make()
    streaming = make_call(stream=True)
    await kept(cache, streaming, body=make_stream("Press ", "the button.")[:-20])
    assert await found(cache) is None
    await kept(cache, streaming, body=make_stream("Press ", "the button."), usage=Usage(9, 4))
    answer = await found(cache, make_call())
    assert answer is not None
    assert text_of(answer.body) == "Press the button."
    assert usage_of(answer.body) == Usage(9, 4)


async def test_a_stream_without_usage_is_estimated(caches: Caches) -> None:
    """So that a hit can still say what it saved."""
    cache = caches.make()
    await kept(cache, make_call(stream=True), body=make_stream("Press the button."))
    answer = await found(cache)
    assert answer is not None
    assert usage_of(answer.body) == Usage(9, 4)


async def test_clearing_is_felt_at_once_and_by_answers_on_their_way(caches: Caches) -> None:
    """After a new epoch neither old answers nor those asked for before it are found, by any replica."""
    one, other = caches.make(), caches.make()
    await kept(one)
    on_its_way = one.ask(ACME, make_call("Where is my parcel?"), make_choice())
    assert await on_its_way.answer() is None
    await States(caches.store).clear("acme", f"e:r:{label('support')}")
    assert await found(other) is None
    assert await found(other, make_call(PARAPHRASE)) is None
    keep = on_its_way.keep(make_target())
    assert keep is not None
    await keep(ANSWER, None)
    assert await found(other, make_call("Where is my parcel?")) is None
    await kept(one)
    assert status(await found(other)) is CacheStatus.EXACT


async def test_other_routes_do_not_feel_it(caches: Caches) -> None:
    """Clearing another tenant, route, variant or adapter leaves an answer where it is."""
    cache, states = caches.make(), States(caches.store)
    await kept(cache)
    await states.clear("bloom", "e")
    for field in (f"e:r:{label('other')}", f"e:v:{label('support')}.{label('x')}", f"e:a:{label('x')}"):
        await states.clear("acme", field)
    assert status(await found(cache)) is CacheStatus.EXACT


async def test_a_drawn_hit_goes_upstream_and_is_compared(caches: Caches) -> None:
    """The caller gets the upstream's answer; agreement leaves the threshold, and the evidence is shared."""
    cache = caches.make()
    await kept(cache)
    caches.draws[:] = [0.0]
    await kept(cache, make_call(PARAPHRASE), body=make_answer("Press the  Button."))
    await caches.drain()
    assert caches.compared == [("support", True)]
    assert status(await found(caches.make(), make_call(PARAPHRASE))) is CacheStatus.EXACT
    assert (await promise_of(caches.store)).all_trials == 1


async def test_exact_hits_are_never_drawn(caches: Caches) -> None:
    """They are right by definition."""
    cache = caches.make()
    await kept(cache)
    caches.draws[:] = [0.0]
    assert status(await found(cache)) is CacheStatus.EXACT
    assert caches.draws == [0.0]


async def test_a_route_that_errs_is_held_back_on_every_replica(caches: Caches) -> None:
    """A hit that would have been wrong raises the threshold above it, for all; at the ceiling the tier is off."""
    one, other = caches.make(), caches.make()
    await kept(one)
    await caches.drain()
    assert status(await found(other, make_call(PARAPHRASE))) is CacheStatus.SEMANTIC
    caches.draws[:] = [0.0]
    await kept(one, make_call(PARAPHRASE), body=make_answer("We are closed on Sundays."))
    await caches.drain()
    assert caches.compared == [("support", False)]
    assert (await promise_of(caches.store)).threshold > CachePolicy().threshold
    await caches.store.command("DEL", *(await caches.store.command("KEYS", "tg:{acme}:answer:*")))
    await kept(one)
    await caches.drain()
    assert await found(other, make_call(PARAPHRASE)) is None


async def test_a_route_that_is_off_answers_by_words_only(caches: Caches) -> None:
    """Until an operator clears the promise."""
    cache, states = caches.make(), States(caches.store)
    await kept(cache)
    labels = cache_labels(cache)
    await states.amend("acme", labels, lambda _: promise.Promise(off=True))
    assert await found(cache, make_call(PARAPHRASE)) is None
    assert status(await found(cache)) is CacheStatus.EXACT
    await states.forget_promises("acme", None)
    assert status(await found(cache, make_call(PARAPHRASE))) is CacheStatus.SEMANTIC


async def test_racing_judgements_all_count(caches: Caches) -> None:
    """Sixteen replicas amend one promise at once and none of them is lost."""
    states = States(caches.store)
    labels = cache_labels(caches.make())

    def one_more(before: promise.Promise) -> promise.Promise:
        return promise.judged(before, agreed=True, similarity=0.95, own=0.9, budget=0.001, now=0.0)

    for _ in range(4):
        await asyncio.gather(*(states.amend("acme", labels, one_more) for _ in range(8)))
    assert (await promise_of(caches.store)).all_trials == 32


async def test_text_that_the_guard_cannot_vouch_for_is_exact_only(caches: Caches) -> None:
    """A turn in another language is found by its words, and never by its vector."""
    cache = caches.make()
    german = "Wie kann ich mein Passwort zurücksetzen?"
    await kept(cache, make_call(german))
    assert status(await found(cache, make_call(german))) is CacheStatus.EXACT
    assert await found(cache, make_call("Wie kann ich das Passwort zurücksetzen?")) is None


class _Broken:
    dimensions = 384
    model = "broken"

    async def embed(self, texts: Any) -> Any:
        """Fail, as a closed or missing model does."""
        raise EmbedderFailed("broken")


async def test_an_embedder_that_fails_costs_the_semantic_tier_only(caches: Caches) -> None:
    """Exact answers are kept and found; nothing is raised."""
    broken = caches.make(_Broken())
    await kept(broken)
    assert status(await found(broken)) is CacheStatus.EXACT
    assert await found(broken, make_call(PARAPHRASE)) is None


async def test_vectors_of_another_model_are_not_compared(caches: Caches, store: RedisStore) -> None:
    """A gateway with another embedder starts with an empty index of its own."""
    await kept(caches.make())
    await caches.drain()
    assert await found(caches.make(_Broken()), make_call(PARAPHRASE)) is None
    streams = await store.command("KEYS", "tg:{acme}:turns:*")
    assert len(streams) == 1


async def test_a_redis_that_is_away_costs_a_hit_and_nothing_else(caches: Caches) -> None:
    """Without Redis everything misses, nothing is raised, and an answer is not kept half."""
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as nowhere:
        cache = AnswerCache(nowhere, None, CacheConfig())
        assert await found(cache) is None
        await kept(cache)
        await cache.drain()


async def test_a_redis_that_hangs_costs_one_time_out(caches: Caches, redis_url: str) -> None:
    """A Redis that stops answering is a miss after the operation timeout, and everything works when it is back."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=0.1) as hanging:
        cache = AnswerCache(hanging, None, CacheConfig())
        await kept(cache)
        await caches.store.command("CLIENT", "PAUSE", 1500, "ALL")
        async with asyncio.timeout(1):
            assert await found(cache) is None
            await kept(cache)
        async with asyncio.timeout(10):
            while await found(cache) is None:
                await asyncio.sleep(0.05)


async def test_a_question_that_is_never_answered_leaves_no_trace(caches: Caches) -> None:
    """A call refused by its limits never awaits what it asked; a failure of Redis is then nobody's."""
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as nowhere:
        asked = AnswerCache(nowhere, None, CacheConfig()).ask(ACME, make_call(), make_choice())
        assert isinstance(asked, Question)
        del asked
        await asyncio.sleep(0)


async def test_concurrent_callers_keep_one_copy(caches: Caches) -> None:
    """Callers that shared an answer and all keep it write it once."""
    cache = caches.make()
    asked = [cache.ask(ACME, make_call(), make_choice()) for _ in range(20)]
    await asyncio.gather(*(one.answer() for one in asked))
    await asyncio.gather(*(keep(ANSWER, None) for one in asked if (keep := one.keep(make_target())) is not None))
    await caches.drain()
    (stream,) = await caches.store.command("KEYS", "tg:{acme}:turns:*")
    assert await caches.store.command("XLEN", stream) == 1


async def test_no_prompt_text_is_in_the_names_of_keys(caches: Caches) -> None:
    """Keys hold digests; words of a prompt are in values under the tenant's prefix only."""
    await kept(caches.make())
    await caches.drain()
    names = await caches.store.command("KEYS", "*")
    assert len(names) == 2
    assert all(name.startswith(b"tg:{acme}:") and b"password" not in name for name in names)


async def test_completions_are_cached_like_chats(caches: Caches) -> None:
    """A text completion is kept and found."""
    cache = caches.make()
    completion = call_of({"model": "support", "prompt": "Once upon a time"}, Operation.COMPLETIONS)
    answer = {"object": "text_completion", "choices": [{"index": 0, "text": "there", "finish_reason": "stop"}]}
    await kept(cache, completion, body=msgspec.json.encode(answer))
    assert status(await found(cache, completion)) is CacheStatus.EXACT


async def promise_of(store: RedisStore) -> promise.Promise:
    """The promise of the only route, as every replica reads it."""
    return promise.decode(await store.command("HGET", "tg:{acme}:cache", f"p:{label('support')}"))


def cache_labels(cache: AnswerCache) -> Any:
    """The labels of the usual call."""
    asked = cache.ask(ACME, make_call(), make_choice())
    assert isinstance(asked, Question)
    return asked._keys.labels
