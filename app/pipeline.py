"""The request's way, in the order in which it is read: who calls, what, where to, may it, is it known, answer, record.

Open it inside the ASGI response (not in a dependency), so that refusals of streaming calls keep their status line and a
client that has gone is settled at once. Every stage that must close is an `async with`; leaving the block by any door
(an answer, a refusal, a broken upstream, a cancelled task) closes the upstream first and settles the account after it.
What was changed and confirmed before a call came is what the call is decided by, in every gateway (`_decide`). Stages
know nothing of each other: what they share are the values of `app.types`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from app.admission.headers import ratelimit_headers
from app.backends.reply import Replier
from app.cache.replay import replay
from app.errors import GatewayError
from app.interfaces import Admission, Asked, Cache, News, Outgoing, Reservation, Upstream
from app.recording.recorder import Recorder
from app.routing.call import Bounds, parse
from app.routing.routes import Router, subject
from app.types import CacheStatus, Call, Choice, Principal, Reply, Request, Target

Authenticate = Callable[[Mapping[bytes, bytes]], Awaitable[Principal]]


class Reach(Protocol):
    """Opens a call at the first of its targets that answers."""

    def __call__(
        self, choice: Choice, call: Call, record: Outgoing, request_id: str, affinity: str
    ) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The target and its answer, open until the context ends."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything a request meets, built once in `lifespan.py`."""

    authenticate: Authenticate
    bounds: Bounds
    router: Router
    ask_for_news: Callable[[], News]
    admission: Admission
    recorder: Recorder
    cache: Cache
    reach: Reach
    replier: Replier


@dataclass(frozen=True, slots=True)
class Decision:
    """Who calls, where the call may go, what it holds for that, and what the cache was asked."""

    principal: Principal
    choice: Choice
    reservation: Reservation
    asked: Asked


@asynccontextmanager
async def answer(stages: Stages, request: Request) -> AsyncIterator[Reply]:
    """Answer one inference request; raises a GatewayError for every refusal, before the first byte only."""
    principal = await stages.authenticate(request.headers)
    call = await parse(request, stages.bounds)
    decision = await _decide(stages, request, principal, call)
    principal, choice, reservation = decision.principal, decision.choice, decision.reservation
    async with stages.recorder.open(request, principal, call, choice, reservation) as record:
        headers = [*ratelimit_headers(reservation.state), (b"x-tunegate-variant", choice.variant.encode())]
        cached = await decision.asked.answer()
        if cached is not None:
            yield _with(await replay(cached, call, record), headers, choice.targets[0], cached.status)
            return
        call, asked = _within_budget(stages, call, decision)
        record.cache = asked.status
        affinity = subject(principal, call)
        reach = partial(stages.reach, choice, call, request_id=request.id, affinity=affinity)
        async with asked.share(reach, record) as (target, upstream):
            reply = await stages.replier.reply(target, upstream, call, record, asked.keep(target))
            yield _with(reply, headers, target, record.cache)


async def _decide(stages: Stages, request: Request, principal: Principal, call: Call) -> Decision:
    """Decide by the policy in memory; where it was behind, which the same round trip tells, decide again."""
    news = stages.ask_for_news()
    try:
        decision = await _decide_once(stages, request, principal, call)
    except GatewayError:
        if not await news.missed():
            raise
    else:
        if not news.is_behind():
            return decision
        await decision.reservation.give_back()
        await news.missed()
    return await _decide_once(stages, request, await stages.authenticate(request.headers), call)


async def _decide_once(stages: Stages, request: Request, principal: Principal, call: Call) -> Decision:
    choice = stages.router.choose(principal, call)
    asked = stages.cache.ask(principal, call, choice)  # leaves with the reservation: one round trip for both
    reservation = await stages.admission.reserve(principal, call, choice, request.id)
    if reservation.choice is not choice:  # a cost breaker sends the call to the cheaper variant
        choice, asked = reservation.choice, stages.cache.ask(principal, call, reservation.choice)
    return Decision(principal, choice, reservation, asked)


def _within_budget(stages: Stages, call: Call, decision: Decision) -> tuple[Call, Asked]:
    """The call as it goes upstream: where a budget ends near, shortened, and then it shares its answer with nobody."""
    most = decision.reservation.state.max_output_tokens
    if most is None:
        return call, decision.asked
    call = replace(call, shortened_to=most, cache_control="no-store")
    return call, stages.cache.ask(decision.principal, call, decision.choice)


def _with(reply: Reply, headers: list[tuple[bytes, bytes]], target: Target, cache: CacheStatus) -> Reply:
    reply.headers += [*headers, (b"x-cache", cache.value.encode())]
    if target.adapter is not None:  # the exact version that answers
        reply.headers.append((b"x-tunegate-adapter", target.adapter.id.encode()))
    return reply
