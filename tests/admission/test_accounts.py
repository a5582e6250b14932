from __future__ import annotations

import json
from dataclasses import replace

from app.admission.accounts import IDLE_TTL_SECONDS, REMEMBERED, Accounts, account_key, accounts_of, rendered
from app.types import Account, AccountKind, BreakerPolicy, LimitRule, Limits
from tests.admission.cases import principal

ONE, TWO = Limits(requests_per_minute=1), Limits(requests_per_minute=2)


def rule(kind: AccountKind, limits: Limits, subject: str | None = None, route: str | None = None) -> LimitRule:
    """A rule."""
    return LimitRule(kind, subject, route, limits)


def more(rules: tuple[LimitRule, ...], *, route: str = "support", user: str | None = "ann") -> list[Account]:
    """The accounts that rules add to the usual three."""
    return list(accounts_of(replace(principal(), rules=rules), route, user)[3:])


def test_without_rules_the_accounts_are_the_principals_own() -> None:
    """The very same tuple, so that its rendering is remembered."""
    who = principal()
    assert accounts_of(who, "support", "ann") is who.accounts


def test_a_rule_makes_an_account_of_whom_it_concerns() -> None:
    """By user, by route, by both; other users' and other routes' rules do not count."""
    rules = (
        rule(AccountKind.USER, ONE),
        rule(AccountKind.USER, ONE, route="support"),
        rule(AccountKind.USER, ONE, route="other"),
        rule(AccountKind.TEAM, TWO, "t1", "support"),
        rule(AccountKind.KEY, TWO, "another", "support"),
        rule(AccountKind.TENANT, TWO, None, "support"),
    )
    assert more(rules) == [
        Account(AccountKind.USER, "ann", ONE),
        Account(AccountKind.USER, "ann", ONE, "support"),
        Account(AccountKind.TENANT, "acme", TWO, "support"),
        Account(AccountKind.TEAM, "t1", TWO, "support"),
    ]
    assert more(rules[:2], user=None) == []


def test_a_named_users_rule_goes_before_the_rule_for_each_user() -> None:
    """Whichever was made first."""
    each, named = rule(AccountKind.USER, ONE), rule(AccountKind.USER, TWO, "ann")
    for rules in ((each, named), (named, each)):
        assert more(rules) == [Account(AccountKind.USER, "ann", TWO)]
        assert more(rules, user="bob") == [Account(AccountKind.USER, "bob", ONE)]


def test_accounts_never_share_counters() -> None:
    """Kind, id, route and tenant are all in the key, and each key carries the tenant's hash tag."""
    accounts = [
        Account(kind, name, ONE, route) for kind in AccountKind for name in ("a", "b") for route in (None, "a", "b")
    ]
    keys = {account_key(tenant, account) for tenant in ("t1", "t2") for account in accounts}
    assert len(keys) == 2 * len(accounts)
    assert all(key.startswith(("tg:{t1}:", "tg:{t2}:")) for key in keys)


def test_only_what_is_set_is_sent() -> None:
    """The scripts read absent as no limit; users' and keys' counters end some day, unless a total is limited."""
    limits = Limits(budget_total_microusd=7, breaker=BreakerPolicy.DEGRADE)
    accounts = (
        Account(AccountKind.KEY, "k", Limits()),
        Account(AccountKind.USER, "u", ONE, "r"),
        Account(AccountKind.USER, "u", limits),
    )
    assert json.loads(rendered("acme", accounts).limits) == [
        {"kind": "key", "id": "k", "ttl": IDLE_TTL_SECONDS},
        {"kind": "user", "id": "u", "route": "r", "rpm": 1, "ttl": IDLE_TTL_SECONDS},
        {"kind": "user", "id": "u", "total": 7, "policy": "degrade"},
    ]


def test_what_was_rendered_is_remembered_and_bounded() -> None:
    """The same tuple is rendered once; an equal one of a changed policy is rendered anew; memory does not grow."""
    accounts, known = Accounts(), (Account(AccountKind.KEY, "k", ONE),)
    first = accounts.render("acme", known)
    assert accounts.render("acme", known) is first
    assert accounts.render("acme", (Account(AccountKind.KEY, "k", TWO),)).limits != first.limits
    for number in range(REMEMBERED + 10):
        accounts.render("acme", (Account(AccountKind.KEY, f"k{number}", ONE),))
    assert len(accounts._known) == REMEMBERED
