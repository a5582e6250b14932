"""Limits and budgets in plain Python, written from the promise and not from the scripts: what they must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from app.types import Limits

MICRO = 1_000_000
MINUTE = 60 * MICRO
AT_ONCE = 20  # leases that one reservation charges on its way
SHARE = 16  # a whole answer may grow into so small a part of what is left of a budget
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Windows:
    """Which UTC day, ISO week and month an instant lies in."""

    day: int
    week: int
    month: int

    @classmethod
    def at(cls, now: int) -> Windows:
        """By the calendar of the standard library."""
        moment = EPOCH + timedelta(microseconds=now)
        monday = moment.date() - timedelta(days=moment.weekday())
        return cls((moment - EPOCH).days, monday.toordinal() // 7, moment.year * 12 + moment.month)


@dataclass
class Bucket:
    """A leaky bucket in micro-units that leaks `limit` a minute."""

    level: int = 0
    since: int | None = None

    def pour(self, amount: int, limit: int | None, now: int) -> None:
        """Leak, then add; an account without a limit has no level."""
        if limit is None:
            self.level, self.since = 0, now
            return
        elapsed = max(0, min(MINUTE, now - (self.since if self.since is not None else now)))
        leaked = max(0, self.level - elapsed * limit // 60) if limit > 0 else 0
        self.level, self.since = max(0, leaked + amount * MICRO), now


@dataclass
class Counters:
    """One account."""

    limits: Limits
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    at: Windows | None = None
    day_tokens: int = 0
    spent: dict[str, int] = field(default_factory=lambda: {"day": 0, "week": 0, "month": 0, "total": 0})
    running: int = 0
    held: int = 0
    spare: int = 0
    told: tuple[str, int] | None = None

    def tell(self, limit: str, now: int) -> bool:
        """Whether this refusal is the first by that budget in its window: it is announced, and writes the account."""
        assert self.at is not None
        mark = (limit, getattr(self.at, limit.removeprefix("budget_"), 0))
        if mark == self.told:
            return False
        self.told = mark
        self.pour(0, 0, now)
        return True

    def roll(self, now: int) -> None:
        """Begin the windows that have begun; one step back of the clock opens none."""
        to, known = Windows.at(now), self.at
        if known is None:
            self.at = to
            return
        for name in ("day", "week", "month"):
            new, old = getattr(to, name), getattr(known, name)
            if new > old or new < old - 1:
                self.spent[name] = 0
                if name == "day":
                    self.day_tokens = 0
                setattr(known, name, new)

    def charge(self, tokens: int, cost: int, at: Windows) -> None:
        """Add to every window that is still the one of `at`."""
        assert self.at is not None
        for name in ("day", "week", "month"):
            if getattr(self.at, name) == getattr(at, name):
                self.spent[name] = max(0, self.spent[name] + cost)
        if self.at.day == at.day:
            self.day_tokens = max(0, self.day_tokens + tokens)
        self.spent["total"] = max(0, self.spent["total"] + cost)

    def budget(self, name: str) -> int | None:
        """The budget of a window."""
        value: int | None = getattr(self.limits, f"budget_{name}_microusd")
        return value

    def exhausted(self, cost: int) -> str | None:
        """The first budget that this cost would pass."""
        for name in ("day", "week", "month", "total"):
            budget = self.budget(name)
            if budget is not None and self.spent[name] + self.spare + cost > budget:
                return f"budget_{name}"
        return None

    def left(self) -> int | None:
        """What the nearest budget still has; None without any."""
        budgets = {name: self.budget(name) for name in self.spent}
        rest = [budget - self.spent[name] - self.spare for name, budget in budgets.items() if budget is not None]
        return min(rest, default=None)

    def limited(self, tokens: int) -> str | None:
        """The first limit that one more call would pass."""
        limits = self.limits
        if limits.concurrent_requests is not None and self.running + 1 > limits.concurrent_requests:
            return "concurrent_requests"
        if limits.requests_per_minute is not None:
            burst = limits.requests_per_minute if limits.requests_burst is None else limits.requests_burst
            if self.requests.level + MICRO > burst * MICRO:
                return "requests_per_minute"
        if limits.tokens_per_minute is not None:
            burst = limits.tokens_per_minute if limits.tokens_burst is None else limits.tokens_burst
            if self.tokens.level + tokens * MICRO > burst * MICRO:
                return "tokens_per_minute"
        if limits.tokens_per_day is not None and self.day_tokens + tokens > limits.tokens_per_day:
            return "tokens_per_day"
        return None

    def pour(self, requests: int, tokens: int, now: int) -> None:
        """Both buckets."""
        self.requests.pour(requests, self.limits.requests_per_minute, now)
        self.tokens.pour(tokens, self.limits.tokens_per_minute, now)


@dataclass
class Held:
    """One reservation."""

    tokens: int
    cost: int
    due: int
    at: list[Windows]
    state: str = "held"
    spare: int = 0
    grown: int | None = None  # what a shortened answer may cost beyond its estimate


class Model:
    """Some accounts and their reservations."""

    def __init__(self, limits: Sequence[Limits], lease: int) -> None:
        self.accounts = [Counters(one) for one in limits]
        self.held: dict[str, Held] = {}
        self.charged: dict[str, int] = {}
        self._lease = lease

    def reserve(self, name: str, tokens: int, cost: int, now: int, most: int = 0) -> tuple[int, str] | None:
        """None when it is admitted, else the number of the account that refuses and its limit.

        `most` is what a whole answer may cost beyond `cost`.
        """
        if name in self.held:
            return (0, "released") if self.held[name].state == "released" else None
        self.expire(now, AT_ONCE)
        before = deepcopy(self.accounts)  # a refusal writes nothing: windows do not begin by it either
        refused = self._refused(tokens, cost, now)
        if refused is not None:
            number, limit = refused
            told = self.accounts[number]
            self.accounts = before
            if limit.startswith("budget") and told.tell(limit, now):
                self.accounts[number] = told
            return refused
        at = []
        spare, grown = self._spare(cost, most)
        for account in self.accounts:
            assert account.at is not None
            at.append(Windows(account.at.day, account.at.week, account.at.month))
            account.pour(1, tokens, now)
            account.charge(tokens, cost, at[-1])
            account.running += 1
            account.held += cost
            account.spare += spare
        self.held[name] = Held(tokens, cost, now // 1000 + self._lease, at, spare=spare, grown=grown)
        return None

    def _spare(self, cost: int, most: int) -> tuple[int, int | None]:
        """What is kept for a whole answer beside its estimate; and again, if that is less than it may want."""
        rest = [left - cost for account in self.accounts if (left := account.left()) is not None]
        if not rest or most <= 0:
            return 0, None
        part = max(0, min(rest) // SHARE)
        return (most, None) if most <= part else (part, part)

    def _refused(self, tokens: int, cost: int, now: int) -> tuple[int, str] | None:
        for account in self.accounts:
            account.roll(now)
        for number, account in enumerate(self.accounts):
            if (limit := account.exhausted(cost)) is not None:
                return number, limit
        for account in self.accounts:
            account.pour(0, 0, now)
        for number, account in enumerate(self.accounts):
            if (limit := account.limited(tokens)) is not None:
                return number, limit
        return None

    def settle(self, name: str, tokens: int, cost: int, now: int) -> None:
        """Charge the truth once, whether the reservation is held or was charged as lost."""
        held = self.held[name]
        if held.state in ("held", "lost"):
            self._correct(held, tokens, cost, now, ending="settled" if held.state == "held" else "corrected")
            held.state = "settled"
            self.charged[name] = cost

    def release(self, name: str, now: int) -> None:
        """Take back one whose caller never learned of it; one that was lost is corrected to nothing."""
        held = self.held.get(name)
        if held is None:
            self.held[name] = Held(0, 0, 0, [], "released")
        elif held.state == "held":
            self._correct(held, 0, 0, now, ending="released")
            held.state = "released"
        elif held.state == "lost":
            self.settle(name, 0, 0, now)

    def extend(self, name: str, tokens: int, cost: int, now: int) -> bool:
        """Hold more, of money and of the day's tokens."""
        held = self.held[name]
        if held.state != "held":
            return True
        before = deepcopy(self.accounts)
        for account in self.accounts:
            account.roll(now)
            daily = account.limits.tokens_per_day
            if account.exhausted(cost) or (daily is not None and account.day_tokens + tokens > daily):
                self.accounts = before
                return False
        for account, at in zip(self.accounts, held.at, strict=True):
            account.pour(0, tokens, now)
            account.charge(tokens, cost, at)
            account.held += cost
        held.tokens, held.cost, held.due = held.tokens + tokens, held.cost + cost, now // 1000 + self._lease
        return True

    def expire(self, now: int, most: int | None = None) -> None:
        """Charge the estimate of those whose lease has run out; of `most` of them, the first to end first."""
        due = [(one.due, name) for name, one in self.held.items() if one.state == "held" and one.due <= now // 1000]
        for _, name in sorted(due)[:most]:
            held = self.held[name]
            self._correct(held, held.tokens, held.cost, now, ending="lost")
            held.state = "lost"
            self.charged[name] = held.cost

    def _correct(self, held: Held, tokens: int, cost: int, now: int, *, ending: str) -> None:
        for account, at in zip(self.accounts, held.at, strict=True):
            account.roll(now)
            account.pour(-1 if ending == "released" else 0, tokens - held.tokens, now)
            account.charge(tokens - held.tokens, cost - held.cost, at)
            if ending != "corrected":
                account.running = max(0, account.running - 1)
                account.held = max(0, account.held - held.cost)
                account.spare = max(0, account.spare - held.spare)
