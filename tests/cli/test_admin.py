"""The admin verbs against a real gateway, as README shows them."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.cli.conftest import Shell
from tests.support.gateway import Gateway
from tests.support.pools import SEEN
from tests.support.s3_server import Bucket

ACME = Path(str(files("app.engine") / "assets" / "adapters" / "acme"))


def run(shell: Shell, *arguments: str, stdin: str = "") -> Any:
    """The JSON of a command that must succeed."""
    done = shell(*arguments, "--json", stdin=stdin)
    assert done.code == 0, done.err
    assert done.err == ""
    return json.loads(done.out)


def failed(shell: Shell, *arguments: str, **environment: str) -> str:
    """The one line that a failing command says."""
    done = shell(*arguments, **environment)
    assert done.code == 1, done.out
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.startswith("tunegate: ")
    assert done.err.count("\n") == 1
    return done.err


def test_what_readme_shows(shell: Shell, live: Gateway) -> None:
    """Tenant, key, adapter and usage in the very words of README; the key works at once."""
    shutil.copytree(ACME, shell.folder / "my-adapter")
    assert shell.apart("tenants", "create", "readme").code == 0
    made = shell.apart("keys", "create", "readme", "--name", "app", "--rpm", "60")
    assert made.code == 0
    secret = next(word for word in made.out.split() if word.startswith("tg-"))
    models = httpx2.get(f"{live.url}/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert models.status_code == 200
    added = shell.apart("adapters", "add", "readme", "support", "./my-adapter", "--alias", "champion")
    assert added.code == 0, added.err
    assert "champion" in added.out
    used = shell.apart("usage")
    assert used.code == 0, used.err
    assert secret not in shell("keys", "list", "readme").out


def test_tenants(shell: Shell) -> None:
    """Made, shown, changed, listed in JSON and as a table, deleted."""
    made = run(shell, "tenants", "create", "one", "--name", "One", "--budget-day", "2.50", "--tpm", "1000")
    assert made["limits"]["budget_day_microusd"] == 2_500_000
    assert run(shell, "tenants", "show", "one") == made
    changed = run(shell, "tenants", "update", "one", "--tpm", "none", "--rpm", "60")
    assert changed["limits"] == {**made["limits"], "tokens_per_minute": None, "requests_per_minute": 60}
    assert changed["name"] == "One"
    assert changed in run(shell, "tenants", "list")["data"]
    table = shell("tenants", "list").out
    assert "rpm=60 budget/day=$2.50" in table
    assert shell("tenants", "delete", "one").code == 0
    assert "no such tenant" in failed(shell, "tenants", "show", "one")


def test_teams_and_keys(shell: Shell) -> None:
    """A key of a team, with routes and an expiry; revoked, it lets the team go."""
    run(shell, "tenants", "create", "two")
    assert run(shell, "teams", "create", "two", "red", "--concurrent", "3")["limits"]["concurrent_requests"] == 3
    made = run(
        shell, "keys", "create", "two", "--team", "red", "--route", "a", "--route", "b", "--expires", "2100-01-01"
    )
    assert (made["team_id"], made["routes"], made["expires_at"]) == ("red", ["a", "b"], 4_102_444_800)
    assert "has keys that work" in failed(shell, "teams", "delete", "two", "red")
    changed = run(shell, "keys", "update", "two", made["id"], "--name", "renamed", "--tpd", "5")
    assert (changed["name"], changed["limits"]["tokens_per_day"]) == ("renamed", 5)
    assert run(shell, "keys", "revoke", "two", made["id"])["revoked_at"] is not None
    assert run(shell, "teams", "update", "two", "red", "--rpm", "1")["limits"]["requests_per_minute"] == 1
    assert [team["id"] for team in run(shell, "teams", "list", "two")["data"]] == ["red"]
    assert shell("teams", "delete", "two", "red").code == 0


@pytest.mark.parametrize("owner", [(), ("--tenant", "three")])
def test_routes(shell: Shell, owner: tuple[str, ...]) -> None:
    """From a YAML file or JSON on standard input, shared or of one tenant, with a slash in the name."""
    shell("tenants", "create", "three")
    spec = {"variants": [{"name": "champion", "weight": 1, "target": {"provider": "main", "model": "m"}}]}
    yaml = "variants:\n- name: champion\n  weight: 2\n  target: {provider: main, model: n}\n"
    (shell.folder / "route.yaml").write_text(yaml, encoding="utf-8")
    made = run(shell, "routes", "put", "org/model", "-", *owner, stdin=json.dumps(spec))
    assert made["spec"]["variants"][0]["target"]["model"] == "m"
    again = run(shell, "routes", "put", "org/model", "route.yaml", *owner)
    assert again["spec"]["variants"][0]["weight"] == 2
    assert run(shell, "routes", "show", "org/model", *owner) == again
    assert run(shell, "routes", "list", *owner)["data"] == [again]
    assert shell("routes", "delete", "org/model", *owner).code == 0
    assert run(shell, "routes", "list", *owner)["data"] == []


def test_adapters(shell: Shell) -> None:
    """Versions and aliases; a bad folder is refused with its reason."""
    run(shell, "tenants", "create", "four")
    first = run(shell, "adapters", "add", "four", "support", str(ACME), "--alias", "champion")
    second = run(shell, "adapters", "add", "four", "support", str(ACME.parent / "bloom"))
    moved = run(shell, "adapters", "alias", "four", "support", "champion", second["id"])
    assert moved["version"] == second["id"]
    aliases = {version["id"]: version["aliases"] for version in run(shell, "adapters", "list", "four")["data"]}
    assert aliases == {first["id"]: [], second["id"]: ["champion"]}
    assert shell("adapters", "unalias", "four", "support", "champion").code == 0
    assert "no such alias" in failed(shell, "adapters", "unalias", "four", "support", "champion")
    (shell.folder / "empty").mkdir()
    assert "path: adapter_config.json is not there" in failed(shell, "adapters", "add", "four", "x", "empty")


def test_pools(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing without a pool; with one a line for each server, and its names in JSON."""
    assert "nothing yet" in shell("pools").out
    assert run(shell, "pools") == {"object": "list", "data": []}
    monkeypatch.setattr("app.cli.admin.pools.call", lambda *_: {"data": [asdict(SEEN)]})
    header, line = shell("pools").out.splitlines()
    assert dict(zip(header.split(), line.split(), strict=True)) == {
        "pool": "main",
        "url": "http://a",
        "healthy": "True",
        "restarts": "5",
        "running": "1",
        "held": "3",
        "loading": "2",
        "in_flight": "9",
        "registered": "3",
        "host": "2",
        "gpu": "1",
        "refused": "1",
    }


def test_usage(shell: Shell) -> None:
    """JSON as the API gives it; groups and instants are passed on, wrong ones are said."""
    answer = run(shell, "usage", "--by", "tenant", "--by", "day", "--since", "2026-01-01", "--until", "2026-01-02")
    assert answer == {"object": "list", "complete": True, "data": []}
    assert "nothing yet" in shell("usage", "--tenant", "nobody").out
    assert "group_by: expected different names out of: tenant, team" in failed(shell, "usage", "--by", "colour")


def test_failures_are_one_line_with_advice(shell: Shell, live: Gateway) -> None:
    """No gateway, no secret, a wrong secret, a wrong address, a wrong file: exit code 1 and what to do."""
    listing = ("tenants", "list")
    assert "tunegate serve" in failed(shell, *listing, TUNEGATE_URL="http://127.0.0.1:9")
    assert "TUNEGATE_URL" in failed(shell, *listing, TUNEGATE_URL="no address")
    assert "TUNEGATE_ADMIN_KEY" in failed(shell, *listing, TUNEGATE_DATA=str(shell.folder))
    wrong = failed(shell, *listing, TUNEGATE_ADMIN_KEY="wrong")
    assert "admin secret is missing or wrong" in wrong
    assert live.admin_key not in wrong
    assert "cannot be read" in failed(shell, "routes", "put", "x", "absent.yaml")
    (shell.folder / "bad.yaml").write_text("a: [", encoding="utf-8")
    assert "neither JSON nor YAML" in failed(shell, "routes", "put", "x", "bad.yaml")
    assert "--expires" in failed(shell, "keys", "create", "acme", "--expires", "soon")
    given = shell("tenants", "list", TUNEGATE_ADMIN_KEY=live.admin_key, TUNEGATE_DATA="/nowhere")
    assert given.code == 0


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "nan", "inf", ""])
def test_a_wrong_limit_is_named(shell: Shell, text: str) -> None:
    """Before anything is sent the option and what was expected are said."""
    done = shell("tenants", "create", "never", "--rpm", text)
    assert done.code == 2
    assert "--rpm" in done.err
    assert "no such tenant" in failed(shell, "tenants", "show", "never")


def test_help_is_instant() -> None:
    """`--help` of any command imports nothing heavy."""
    for arguments in (["--help"], ["keys", "create", "--help"], ["cache", "promise", "--help"], ["usage", "--help"]):
        code = (
            "import sys\n"
            "from app.cli.main import app\n"
            f"app({arguments}, standalone_mode=False)\n"
            "heavy = {'httpx2', 'fastapi', 'sqlalchemy', 'numpy', 'redis', 'aiohttp', 'yaml'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "help" in done.stdout


def test_adapter_versions_roll_back_and_change_state(shell: Shell) -> None:
    """An alias moves only from what is expected, goes back, and a version that lost it can be retired."""
    run(shell, "tenants", "create", "seven")
    first = run(shell, "adapters", "add", "seven", "support", str(ACME), "--alias", "champion")
    second = run(shell, "adapters", "add", "seven", "support", str(ACME.parent / "bloom"))
    move = ("adapters", "alias", "seven", "support", "champion", second["id"], "--expected")
    assert "not what was expected" in failed(shell, *move, second["id"])
    assert run(shell, *move, first["id"])["version"] == second["id"]
    assert run(shell, "adapters", "rollback", "seven", "support", "champion")["version"] == first["id"]
    assert run(shell, "adapters", "state", "seven", "support", second["id"], "retired")["state"] == "retired"
    assert "move it first" in failed(shell, "adapters", "state", "seven", "support", first["id"], "failed")


def test_an_adapter_out_of_a_bucket(shell: Shell, s3_bucket: Bucket) -> None:
    """`s3://bucket/folder` reaches the gateway as it was typed; the same bytes in a folder are the same version."""
    s3, host = s3_bucket.s3, urlsplit(s3_bucket.s3.endpoint).netloc
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        content, path = (ACME / file).read_bytes(), f"/{s3_bucket.name}/from-cli/{file}"
        headers = s3.signed("PUT", host, path, {}, sha256=hashlib.sha256(content).hexdigest())
        httpx2.put(f"{s3.endpoint}{path}", content=content, headers=headers).raise_for_status()
    run(shell, "tenants", "create", "eight")
    made = run(shell, "adapters", "add", "eight", "support", f"s3://{s3_bucket.name}/from-cli")
    assert run(shell, "adapters", "add", "eight", "support", str(ACME))["id"] == made["id"]
    assert "adapter_config.json" in failed(shell, "adapters", "add", "eight", "x", f"s3://{s3_bucket.name}/absent")


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", ""])
def test_a_wrong_tolerance_is_named(shell: Shell, text: str) -> None:
    """The option and what was expected."""
    (shell.folder / "bill.csv").write_text("model,cost_usd\nm,1\n", encoding="utf-8")
    said = failed(shell, "usage", "reconcile", "bill.csv", "--upstream", "main", f"--tolerance={text}")
    assert said.startswith("tunegate: --tolerance: expected a share of the bill such as 0.001")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"variants:\n- name: 2026-01-01\n", "variants.0.name: expected what JSON has, not date"),
        (b"variants:\n- weight: .inf\n", "variants.0.weight: expected what JSON has, not float"),
        (b"1: x\n", "1: expected what JSON has, not int"),
        (b"a: &a [*a]\n", "a.0: expected what JSON has, not list"),
        (b"since: 2026-02-30\n", "neither JSON nor YAML"),
        (b"variants:\n- name: caf\xe9\n", ":2: expected UTF-8, found the byte 0xe9"),
        (b"a: b\x00\n", "neither JSON nor YAML"),
        (b'"\\ud800": x\n', "no valid text"),
    ],
)
def test_a_route_file_that_no_route_is(shell: Shell, content: bytes, says: str) -> None:
    """From a file and from standard input: one line with the place, nothing is sent."""
    (shell.folder / "route.yaml").write_bytes(content)
    assert says in failed(shell, "routes", "put", "x", "route.yaml")
    done = shell("routes", "put", "x", "-", stdin=content)
    assert (done.code, says in done.err) == (1, True)


def test_a_secret_that_no_header_carries(shell: Shell) -> None:
    """From the environment and from the file: one line that names the source and not the secret."""
    said = failed(shell, "tenants", "list", TUNEGATE_ADMIN_KEY="gehéim")
    assert said.startswith("tunegate: TUNEGATE_ADMIN_KEY: expected printable ASCII")
    (shell.folder / "admin.key").write_bytes(b"geh\xe9im\n")
    said = failed(shell, "tenants", "list", TUNEGATE_DATA=str(shell.folder))
    assert f"{shell.folder / 'admin.key'}: expected printable ASCII" in said


def test_an_address_without_its_scheme(shell: Shell) -> None:
    """What is missing is said, not that nobody answers."""
    said = failed(shell, "tenants", "list", TUNEGATE_URL="localhost:8911")
    assert said.startswith("tunegate: TUNEGATE_URL: expected http:// or https://")


def test_an_argument_that_is_no_text(shell: Shell) -> None:
    """Bytes of another encoding in a name are said in one line."""
    assert "use UTF-8" in failed(shell, "tenants", "show", "caf\udce9")


def test_a_server_that_is_no_gateway(shell: Shell) -> None:
    """A page instead of JSON is said, with TUNEGATE_URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_say_a_page, args=(server,))
        thread.start()
        said = failed(shell, "tenants", "list", TUNEGATE_URL=f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert "is no Tunegate gateway; check TUNEGATE_URL" in said


def _say_a_page(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\n<html")
