"""What one call asks of admission: the keys and arguments of `reserve.lua`, and what is written down if it is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.admission.accounts import Accounts, Rendered, accounts_of, leases_key, reservation_key
from app.admission.estimate import OutputEstimator
from app.admission.length import spare_microusd
from app.admission.lost import lost_entry
from app.admission.pricing import dearest_microusd
from app.storage.ledger import encode, stream_key
from app.types import Call, Choice, LedgerEntry, Outcome, Principal, Usage

UNSET_TIMES = 16  # an answer without a maximum of its own is taken to be no longer than so many default ones
Arguments = list[str | bytes | int | float]


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """How long and how much is held.

    `max_output_tokens` is what a call that sets no maximum may be answered with; `max_pending` is how many charges may
    wait for Redis in memory, for then no more is admitted without it: a call is refused rather than not written down.
    """

    lease_seconds: int = 900
    default_output_tokens: int = 256
    max_output_tokens: int = 131_072
    max_pending: int = 10_000


USUAL = AdmissionConfig()


@dataclass(frozen=True, slots=True)
class Question:
    """One question to `reserve.lua`; `cheaper` is the entry of the variant that an open breaker sends the call to."""

    keys: list[str]
    args: Arguments
    accounts: Rendered
    tokens: int
    lost: LedgerEntry
    cheaper: LedgerEntry | None
    may_be_shortened: bool


class Questions:
    """Makes them; learns from what has been answered how much to hold."""

    def __init__(self, config: AdmissionConfig, hash_user: Callable[[str, str], str]) -> None:
        self.estimator = OutputEstimator()
        self._config = config
        self._hash_user = hash_user
        self._accounts = Accounts()

    def ask(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> Question:
        """The question of one call."""
        tenant = principal.tenant_id
        held = self._estimate(tenant, call, choice)
        user = self._hash_user(tenant, call.user) if call.user else None
        accounts = self._accounts.render(tenant, accounts_of(principal, choice.route.name, user))
        lost = _lost(principal, call, choice, request_id, held, user)
        cheaper = None
        if choice.cheaper is not None:
            cheaper = _lost(principal, call, choice.cheaper, request_id, held, user)
        most = self._most_tokens(call) if accounts.has_budget else 0
        spare = spare_microusd(call, choice, lost, most)
        keys = [reservation_key(tenant, request_id), leases_key(tenant), stream_key(tenant), *accounts.keys]
        args: Arguments = [
            request_id, held.total_tokens, lost.cost_microusd, self._config.lease_seconds * 1000, encode(lost),
            reservation_key(tenant, ""), accounts.limits,
            "" if cheaper is None else cheaper.cost_microusd, "" if cheaper is None else encode(cheaper), spare,
            spare_microusd(call, choice.cheaper, cheaper, most) if choice.cheaper and cheaper else 0,
        ]  # fmt: skip
        return Question(keys, args, accounts, held.total_tokens, lost, cheaper, spare > 0)

    def learn(self, entry: LedgerEntry) -> None:
        """So long was the answer that this entry is about."""
        if entry.outcome is Outcome.OK and entry.completion_tokens:
            self.estimator.learn(_route(entry.tenant_id, entry.route), entry.completion_tokens)

    def _estimate(self, tenant: str, call: Call, choice: Choice) -> Usage:
        ceiling = self._config.default_output_tokens if call.max_tokens is None else call.max_tokens
        if ceiling == 0:
            return Usage(call.prompt_tokens_estimate, 0, estimated=True)
        one = self.estimator.estimate(_route(tenant, choice.route.name), ceiling)
        return Usage(call.prompt_tokens_estimate, one * call.choices, estimated=True)

    def _most_tokens(self, call: Call) -> int:
        usual = min(self._config.max_output_tokens, UNSET_TIMES * self._config.default_output_tokens)
        return (usual if call.max_tokens is None else call.max_tokens) * call.choices


def _lost(
    principal: Principal, call: Call, choice: Choice, request_id: str, held: Usage, user: str | None
) -> LedgerEntry:
    cost = dearest_microusd((target.charged for target in choice.targets), held)
    return lost_entry(principal, call, choice, request_id, held, cost=cost, user_hash=user)


def _route(tenant: str, route: str) -> str:
    return f"{tenant}/{route}"
