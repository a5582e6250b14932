from __future__ import annotations

import json

from tests.cli.conftest import Shell
from tests.cli.test_admin import failed, run


def test_limits_by_user_and_route(shell: Shell) -> None:
    """Put, shown with the user as a hash, taken away."""
    run(shell, "tenants", "create", "ruled")
    rule = run(shell, "limits", "put", "ruled", "vip", "--kind", "user", "--subject", "ann", "--rpm", "5")
    assert rule["limits"]["requests_per_minute"] == 5
    assert rule["subject"] != "ann"
    run(shell, "limits", "put", "ruled", "each", "--kind", "tenant", "--route", "support", "--budget-week", "2.5")
    assert "each" in shell("limits", "list", "ruled").out
    assert "route" in failed(shell, "limits", "put", "ruled", "bad", "--kind", "team", "--rpm", "1")
    assert shell("limits", "delete", "ruled", "each").code == 0
    assert "each" not in shell("limits", "list", "ruled").out


def test_breakers_and_budgets_of_every_window(shell: Shell) -> None:
    """All limits that the API knows can be set by hand."""
    options = ["--budget-total", "100", "--spend-cap", "0.5", "--spend-surge", "500", "--breaker", "degrade"]
    made = run(shell, "tenants", "create", "broken", *options, "--burst", "3")
    assert made["limits"]["budget_total_microusd"] == 100_000_000
    assert made["limits"]["spend_per_minute_microusd"] == 500_000
    assert (made["limits"]["breaker"], made["limits"]["requests_burst"]) == ("degrade", 3)
    assert "alert" in shell("tenants", "update", "broken", "--breaker", "explode").err


def test_a_provider_key_is_read_from_standard_input(shell: Shell) -> None:
    """It is listed by its place, and never printed."""
    run(shell, "tenants", "create", "bringing")
    kept = shell("provider-keys", "put", "bringing", "main", stdin="sk-very-own-key\n")
    assert kept.code == 0, kept.err
    listed = shell("provider-keys", "list", "bringing").out
    assert "main" in listed
    assert "sk-very" not in listed + kept.out
    assert "standard input" in failed(shell, "provider-keys", "put", "bringing", "main")
    assert shell("provider-keys", "delete", "bringing", "main").code == 0
    assert "nothing yet" in shell("provider-keys", "list", "bringing").out


def test_a_rotation_shows_the_new_secret_once(shell: Shell) -> None:
    """And the audit log has it, without any secret."""
    run(shell, "tenants", "create", "turning")
    made = run(shell, "keys", "create", "turning")
    rotated = run(shell, "keys", "rotate", "turning", made["id"], "--overlap-hours", "1")
    assert rotated["secret"] != made["secret"]
    log = shell("audit", f"keys/{made['id']}", "--json").out
    assert len(json.loads(log)["data"]) == 2
    assert rotated["secret"] not in log
    assert f"keys/{made['id']}" in shell("audit").out
