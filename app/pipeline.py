"""The request's way, in the order in which it is read: who calls, what, where to, may it, is it known, answer, record.

Open it inside the ASGI response (not in a dependency), so that refusals of streaming calls keep their status line and a
client that has gone is settled at once. Every stage that must close is an `async with`; leaving the block by any door
(an answer, a refusal, a broken upstream, a cancelled task) closes the upstream first and settles the account after it.
Stages know nothing of each other: what they share are the values of `app.types`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from app.admission.headers import ratelimit_headers
from app.backends.reply import Replier
from app.cache.replay import replay
from app.interfaces import Admission, Cache, Outgoing, Upstream
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
    admission: Admission
    recorder: Recorder
    cache: Cache
    reach: Reach
    replier: Replier


@asynccontextmanager
async def answer(stages: Stages, request: Request) -> AsyncIterator[Reply]:
    """Answer one inference request; raises a GatewayError for every refusal, before the first byte only."""
    principal = await stages.authenticate(request.headers)
    call = await parse(request, stages.bounds)
    choice = stages.router.choose(principal, call)
    asked = stages.cache.ask(principal, call, choice)  # leaves with the reservation: one round trip for both
    reservation = await stages.admission.reserve(principal, call, choice, request.id)
    if reservation.choice is not choice:  # a cost breaker sends the call to the cheaper variant
        choice, asked = reservation.choice, stages.cache.ask(principal, call, reservation.choice)
    async with stages.recorder.open(request, principal, call, choice, reservation) as record:
        headers = [*ratelimit_headers(reservation.state), (b"x-tunegate-variant", choice.variant.encode())]
        cached = await asked.answer()
        if cached is not None:
            yield _with(await replay(cached, call, record), headers, cached.status)
            return
        record.cache = asked.status
        affinity = subject(principal, call)
        reach = partial(stages.reach, choice, call, request_id=request.id, affinity=affinity)
        async with asked.share(reach, record) as (target, upstream):
            reply = await stages.replier.reply(target, upstream, call, record, asked.keep(target))
            yield _with(reply, headers, record.cache)


def _with(reply: Reply, headers: list[tuple[bytes, bytes]], cache: CacheStatus) -> Reply:
    reply.headers += [*headers, (b"x-cache", cache.value.encode())]
    return reply
