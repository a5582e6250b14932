"""A Hypothesis state machine: the scripts on a real Redis against the model, step by step."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from redis.crc import key_slot

from app.admission.estimate import OutputEstimator
from app.admission.leases import Leases
from app.admission.redis import AdmissionConfig, HeldReservation, RedisAdmission
from app.errors import GatewayError, QuotaExhausted, RateLimited, Unavailable
from app.storage.redis import RedisStore
from app.types import Account, AccountKind, Limits, Operation, Principal
from tests.admission.cases import Clock, call, choice, counters, entry, ledger, taken_back
from tests.admission.model import Model

LEASE_SECONDS = 10
ACCOUNTS = (("key", "k1"), ("user", "u1"), ("team", "t1"), ("tenant", "acme"))
RANGES = {
    "requests_per_minute": (1, 30),
    "requests_burst": (1, 6),
    "tokens_per_minute": (100, 4000),
    "tokens_burst": (60, 300),
    "tokens_per_day": (100, 3000),
    "concurrent_requests": (1, 12),
    "budget_day_microusd": (100, 2000),
    "budget_week_microusd": (100, 3000),
    "budget_month_microusd": (100, 4000),
    "budget_total_microusd": (100, 9000),
}


def _limits(chosen: list[tuple[str, Any]]) -> Limits:
    return Limits(**dict(chosen))


LIMIT = st.sampled_from(sorted(RANGES)).flatmap(lambda name: st.tuples(st.just(name), st.integers(*RANGES[name])))
LIMITS = st.lists(LIMIT, max_size=2).map(_limits)  # few enough that calls get through
NAMES = {"rl": "requests", "tl": "tokens"}
CALL = st.tuples(st.integers(0, 40), st.integers(1, 40), st.booleans())  # prompt, longest output, streamed


class Half(OutputEstimator):
    """An estimator that has learned that answers are half as long as they might be."""

    def learn(self, route: str, tokens: int) -> None:
        """Learn nothing: what is held does not depend on what came before."""

    def estimate(self, _route: str, ceiling: int) -> int:
        """Half of what it might be."""
        return max(1, ceiling // 2)


class AdmissionMachine(RuleBasedStateMachine):
    """Subclass it with the address of an empty Redis."""

    url = ""
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.made = 0
        self.reserved: dict[str, HeldReservation] = {}

    def _run(self, work: Any) -> Any:
        type(self).steps += 1
        return self.runner.run(work)

    @initialize(limits=st.lists(LIMITS, min_size=len(ACCOUNTS), max_size=len(ACCOUNTS)))
    def open(self, limits: list[Limits]) -> None:
        """An empty Redis, and accounts of every kind."""

        async def start() -> None:
            self.context = RedisStore.connect(self.url, operation_timeout_seconds=30)
            self.store = await self.context.__aenter__()
            await self.store.connected()
            await self.store.command("FLUSHALL")
            self.admission = RedisAdmission(self.store, AdmissionConfig(lease_seconds=LEASE_SECONDS))
            self.admission.questions.estimator = Half()
            self.leases = Leases(self.store, lease_seconds=LEASE_SECONDS)
            self.clock = await Clock.over(self.admission, self.leases, self.store)

        self.runner.run(start())
        accounts = tuple(
            Account(AccountKind(kind), name, one) for (kind, name), one in zip(ACCOUNTS, limits, strict=True)
        )
        self.who = Principal("acme", "t1", "k1", frozenset(Operation), None, accounts)
        self.model = Model(limits, LEASE_SECONDS * 1000)

    @rule(calls=st.lists(CALL, min_size=1, max_size=6))
    def reserve(self, calls: list[tuple[int, int, bool]]) -> None:
        """More calls are admitted, perhaps shortened, or refused, by the same account for the same limit."""
        for prompt, output, stream in calls:
            self.made += 1
            self._reserve(f"r{self.made}", prompt, output, stream=stream)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        """The same request id takes nothing more."""
        self._reserve(data.draw(st.sampled_from(sorted(self.reserved))), 1, 1)

    def _reserve(self, name: str, prompt: int, output: int, *, stream: bool = False) -> None:
        half, fresh = max(1, output // 2), name not in self.model.held
        most = 0 if stream else output - half
        expected = self.model.reserve(name, prompt + half, prompt + half, self.clock.now, most)
        asked = call(prompt=prompt, output=output, stream=stream)
        try:
            held = self._run(self.admission.reserve(self.who, asked, choice(), name))
            got: tuple[int, str] | None = None
            self.reserved.setdefault(name, held)
        except Unavailable as exc:
            assert "given up" in exc.message, exc.message
            got = (0, "released")
        except (RateLimited, QuotaExhausted) as exc:
            got = _parsed(exc)
        assert got == expected
        self.same()
        if got is None and fresh:
            grown = self.model.held[name].grown
            assert held.state.max_output_tokens == (None if grown is None else half + grown)
            self._within_budget()

    def _within_budget(self) -> None:
        """Right after an admission, what is spent and held and may be grown by is within every budget."""
        for model in self.model.accounts:
            for window, spent in model.spent.items():
                budget = model.budget(window)
                assert budget is None or spent + model.spare <= budget

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), prompt=st.integers(0, 40), completion=st.integers(0, 80))
    def settle(self, data: st.DataObject, prompt: int, completion: int) -> None:
        """The truth replaces the estimate, once."""
        name = data.draw(st.sampled_from(sorted(self.reserved)))
        if self.model.held[name].state == "released":
            return
        self.model.settle(name, prompt + completion, prompt + completion, self.clock.now)
        held = self.reserved[name]
        self._run(held.settle(entry(held, prompt=prompt, completion=completion)))
        self.same()

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), tokens=st.integers(1, 40))
    def extend(self, data: st.DataObject, tokens: int) -> None:
        """A running call holds more, or may not."""
        name = data.draw(st.sampled_from(sorted(self.reserved)))
        expected = self.model.extend(name, tokens, tokens, self.clock.now)
        assert self._run(self.reserved[name].extend(tokens, tokens)) == expected
        self.same()

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A caller is gone before it learned of its reservation, or before it was made."""
        name = data.draw(st.sampled_from([*sorted(self.reserved), f"r{self.made + 1}"]))
        self.model.release(name, self.clock.now)
        self._run(taken_back(self.admission, self.who, name))
        self.same()

    @rule()
    def sweep(self) -> None:
        """Leases that have run out are charged."""
        self.model.expire(self.clock.now)
        self._run(self.leases.charge(["acme"]))
        self.same()

    @rule(seconds=st.sampled_from([0.001, 0.5, 1, 7, 11, 61, 3600, 86_400, 8 * 86_400, 31 * 86_400]))
    def later(self, seconds: float) -> None:
        """Time passes."""
        self._run(self.clock.add(seconds))

    @rule(seconds=st.sampled_from([0.001, 1, 30, 3600, 86_400, 40 * 86_400]))
    def clock_set_back(self, seconds: float) -> None:
        """Redis' clock jumps back."""
        self._run(self.clock.add(-seconds))

    def same(self) -> None:
        """Every counter of every account, every charge, and the slot of every key."""
        for (kind, name), model in zip(ACCOUNTS, self.model.accounts, strict=True):
            real = self.runner.run(counters(self.store, f"{kind}:{name}"))
            if not real:
                assert model.running == 0
                continue
            got = {field: real.get(field, 0) for field in ("n", "hc", "xc", "sc")}
            expected = {"n": model.running, "hc": model.held, "xc": model.spare, "sc": model.spent["total"]}
            assert got == expected, (kind, real)
            if model.at is not None and (real["d"], real["m"]) == (model.at.day, model.at.month):
                assert (real["dt"], real["dc"]) == (model.day_tokens, model.spent["day"]), (kind, real)
                assert real["mc"] == model.spent["month"], (kind, real)
            levels = {field: real[field] for field in NAMES}
            assert levels == {field: getattr(model, bucket).level for field, bucket in NAMES.items()}, (kind, real)

    def teardown(self) -> None:
        """The ledger adds up to what was charged, and all keys lie in one slot."""
        try:
            if hasattr(self, "store"):
                self.runner.run(self._finish())
        finally:
            self.runner.close()

    async def _finish(self) -> None:
        try:
            await self._adds_up()
        finally:
            await self.context.__aexit__(None, None, None)

    async def _adds_up(self) -> None:
        charged: dict[str, int] = {}
        for line in await ledger(self.store):
            charged[line.request_id] = charged.get(line.request_id, 0) + line.cost_microusd
        assert charged == self.model.charged
        keys = [key for key in await self.store.command("KEYS", "tg:{*") if key != b"tg:test:clock"]
        assert {key_slot(key) for key in keys} <= {key_slot(b"{acme}")}


def _parsed(refused: GatewayError) -> tuple[int, str]:
    """Which account refused, and what for, from the words a caller reads."""
    names = {
        "day budget": "budget_day",
        "week budget": "budget_week",
        "month budget": "budget_month",
        "total budget": "budget_total",
        "concurrent requests": "concurrent_requests",
        "requests per minute": "requests_per_minute",
        "tokens per minute": "tokens_per_minute",
        "tokens per day": "tokens_per_day",
    }
    limit = next(code for words, code in names.items() if words in refused.message)
    kind = refused.message.partition(" of this ")[2].split(":")[0].split(" ")[0]
    return [kind for kind, _ in ACCOUNTS].index(kind), limit
