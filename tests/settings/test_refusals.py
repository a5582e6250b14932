"""Settings that cannot be meant: each is refused with its line or its variable, and no message holds a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import SettingsError, load
from app.settings.names import NOT_SETTINGS

SECRET = "hunter2-hunter2"
POOL = "- {name: vllm, replicas: ['http://a:1']}\n"
PRICE = "{input_usd_per_mtok: 1, output_usd_per_mtok: 1}"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("TUNEGATE_", "OPENAI_", "REDIS_URL", "DATABASE_URL", "VLLM_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(text: str | bytes = "", **environment: str) -> list[str]:
    """The lines that are said of this file in this environment."""
    Path("tunegate.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            load()
    assert "hunter2" not in str(caught.value)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TUNEGATE_ADMISION__WITHOUT_REDIS", "did you mean TUNEGATE_ADMISSION__WITHOUT_REDIS?"),
        ("TUNEGATE_ADMINKEY", "did you mean TUNEGATE_ADMIN_KEY?"),
        ("TUNEGATE_SERVER_PORT", "did you mean TUNEGATE_SERVER__PORT?"),
        ("TUNEGATE_PORT", "did you mean TUNEGATE_SERVER__PORT?"),
        ("TUNEGATE_SERVER__PORT__X", "did you mean TUNEGATE_SERVER__PORT?"),
        ("TUNEGATE_REDIS_URL", "did you mean REDIS_URL?"),
        ("TUNEGATE_DATA_FOLDER", "did you mean TUNEGATE_DATA?"),
        ("TUNEGATE_CONFG", "did you mean TUNEGATE_CONFIG?"),
        ("TUNEGATE_POOLS__0__NAME", "docs/configuration.md lists the names"),
        ("tunegate_zzz", "docs/configuration.md lists the names"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, meant: str) -> None:
    """A misspelled variable stops the start; its value is not shown."""
    assert refused(**{name: SECRET}) == [f"{name}: unknown setting; {meant}"]


def test_names_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line, the plugin and the tests read, and what Kubernetes makes of a Service's name."""
    for name in NOT_SETTINGS - {"TUNEGATE_CONFIG"}:
        monkeypatch.setenv(name, "x")
    for service in ("TUNEGATE", "TUNEGATE_METRICS", "TUNEGATE_ADMIN_2"):
        address = "tcp://10.0.0.1:80"
        for name, value in {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "80",
            "SERVICE_PORT_HTTP": "80",
            "PORT": address,
            "PORT_80_TCP": address,
            "PORT_80_TCP_PROTO": "tcp",
            "PORT_80_TCP_PORT": "80",
            "PORT_80_TCP_ADDR": "10.0.0.1",
        }.items():
            monkeypatch.setenv(f"{service}_{name}", value)
    monkeypatch.setenv("TUNEGATE_TRAINING__TENANTS__ACME__MAX_OPEN_JOBS", "7")
    settings = load()
    assert settings.server.port == 8000
    assert settings.training.tenants["acme"].max_open_jobs == 7


def test_the_variable_is_named_and_not_the_line_that_it_overrides() -> None:
    """The file has a good port in line 2; the environment's is the bad one."""
    (line,) = refused("server:\n  port: 1\n", TUNEGATE_SERVER__PORT="99999")
    assert line.startswith("TUNEGATE_SERVER__PORT: Input should be less than")


def test_what_json_in_the_environment_says_is_named_by_its_variable_and_field() -> None:
    """The part of a section that the file gives keeps its line; a missing neighbour is named as a variable."""
    assert refused(TUNEGATE_POOLS='[{"name": "a"}]') == ["TUNEGATE_POOLS: 0.replicas: Field required"]
    mixed = refused("server:\n  port: x\n", TUNEGATE_SERVER='{"metrics_port": -1}')
    assert sorted(line.partition(": Input")[0] for line in mixed) == [
        "TUNEGATE_SERVER: metrics_port",
        "tunegate.yaml:2: server.port",
    ]
    missing = refused(TUNEGATE_CACHE__EMBEDDER__MODEL="m", TUNEGATE_CACHE__EMBEDDER__DIMENSIONS="3")
    assert missing == ["TUNEGATE_CACHE__EMBEDDER__UPSTREAM: Field required"]


@pytest.mark.parametrize("name", ["TUNEGATE_POOLS", "TUNEGATE_SERVER", "TUNEGATE_PRICES__MODELS", "TUNEGATE_ADAPTERS"])
def test_bad_json_is_one_line(name: str) -> None:
    """The variable and what was expected, never the value."""
    (line,) = refused(**{name: f'{{"{SECRET}'})
    assert line.startswith(f"{name}: expected JSON: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1: x\n", "tunegate.yaml:1: 1: expected a name"),
        ("server:\n  port: 1\n  8: 2\n", "tunegate.yaml:3: server.8: expected a name"),
        ("? [a]\n: 1\n", "tunegate.yaml:1: …: expected a name"),
        ("server:\n  port: 1\n  host: a\n  port: 2\n", "tunegate.yaml:4: server.port: given twice, the first time in"),
        ("server: {port: 1}\nserver: {port: 2}\n", "tunegate.yaml:2: server: given twice, the first time in line 1"),
        (b"server:\n  host: \xe9\n", "tunegate.yaml:2: expected UTF-8, found the byte 0xe9"),
        (b"server:\n  host: a\x00b\n", "tunegate.yaml:2: not YAML: it holds the control character U+0000"),
        ("since: 2026-02-30\n", "tunegate.yaml:1: since: no such number or date"),
        (f"admin_key: *{SECRET}\n", "tunegate.yaml:1: not YAML: found undefined alias …"),
        (f"admin_key: !{SECRET} x\n", "tunegate.yaml:1: not YAML: could not determine a constructor for the tag …"),
        (f"admin_key: [{SECRET}]\n", "tunegate.yaml:1: admin_key: Input should be a valid string"),
        pytest.param("[" * 5000, "tunegate.yaml:1: not settings: nested too deeply", id="deep"),
        ("pools: &a [*a]\n", "tunegate.yaml:1: pools.0: Input should be"),
    ],
    ids=str,
)
def test_a_file_that_yaml_lets_pass(text: str | bytes, says: str) -> None:
    """Keys that are no names or come twice, bytes that are no text, values that are none: each with its line."""
    (line,) = refused(text)
    assert line.startswith(says)


def test_merged_and_repeated_parts_are_no_repetition() -> None:
    """YAML's anchors and merge keys go on working."""
    text = "pools:\n- &a {name: a, replicas: ['http://a:1'], max_loras: 3}\n- {<<: *a, name: b, max_loras: 4}\n"
    Path("tunegate.yaml").write_text(text, encoding="utf-8")
    assert [(pool.name, pool.max_loras) for pool in load().pools] == [("a", 3), ("b", 4)]


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        (f"pools:\n{POOL}{POOL}", {}, "tunegate.yaml:3: pools.1.name: 'vllm' is already the name of a pool"),
        (
            f"providers:\n- {{name: vllm, base_url: 'http://b'}}\npools:\n{POOL}",
            {},
            "tunegate.yaml:4: pools.0.name: 'vllm' is already the name of a provider",
        ),
        (
            "providers:\n- {name: a, base_url: 'http://b'}\n- name: a\n  base_url: http://c\n",
            {},
            "tunegate.yaml:3: providers.1.name: 'a' is already the name of a provider",
        ),
        (
            "pools:\n- {name: openai, replicas: ['http://a:1']}\n",
            {"OPENAI_API_KEY": SECRET},
            "tunegate.yaml:2: pools.0.name: 'openai' is already the name of the provider that OPENAI_API_KEY",
        ),
        (
            "providers:\n- {name: vllm, base_url: 'http://b'}\n",
            {"VLLM_URLS": "http://a"},
            "VLLM_URLS: adds a pool called 'vllm', and a provider has that name",
        ),
        (
            "",
            {"TUNEGATE_POOLS": '[{"name":"a","replicas":["http://a"]},{"name":"a","replicas":["http://b"]}]'},
            "TUNEGATE_POOLS: 1.name: 'a' is already the name of a pool",
        ),
        (
            f"pools:\n{POOL}prices:\n  models:\n    vlm/*: {PRICE}\n",
            {},
            "tunegate.yaml:5: prices.models.vlm/*: no provider or pool is called 'vlm'; did you mean 'vllm'?",
        ),
        (
            f"prices:\n  models:\n    gpt-4o: {PRICE}\n",
            {},
            "tunegate.yaml:3: prices.models.gpt-4o: expected upstream/model or upstream/*",
        ),
    ],
)
def test_names_that_contradict_each_other(text: str, environment: dict[str, str], says: str) -> None:
    """A name that is given twice, and a price for an upstream that is not there."""
    (line,) = refused(text, **environment)
    assert line.startswith(says)


def test_prices_of_what_another_process_has_from_its_environment() -> None:
    """`tunegate migrate` reads the same file without OPENAI_API_KEY and VLLM_URLS."""
    models = "".join(f"    {name}: {PRICE}\n" for name in ("openai/gpt-4o", "vllm/*", "embedded/minilm"))
    Path("tunegate.yaml").write_text(f"prices:\n  models:\n{models}", encoding="utf-8")
    assert len(load().prices.models) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "foo"),
        ("REDIS_URL", f"redis://:{SECRET}/x@host:6379"),
        ("REDIS_URL", f"rediss://:{SECRET}@host?ssl_ca_certs=/absent"),
        ("DATABASE_URL", "foo"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@host/name"),
        ("DATABASE_URL", f"postgresql://u:p@host:{SECRET}/name"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@host/name?sslmode=require"),
        ("VLLM_URLS", "http://a:x"),
        ("VLLM_URLS", "a:8000"),
        ("OPENAI_BASE_URL", "http://[::1"),
        ("OPENAI_API_KEY", f"{SECRET}é"),
        ("TUNEGATE_ADMIN_KEY", f"{SECRET}é"),
    ],
)
def test_addresses_and_secrets_that_cannot_be_used(name: str, value: str) -> None:
    """One line with the variable and the form that was expected, never the value."""
    (line,) = refused(**{name: value})
    assert line.startswith(f"{name}: ")


def test_the_key_of_the_environment_opens_the_provider_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the example of docs/configuration.md has it; a key of the file stands."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    text = "providers:\n- {name: openai, base_url: 'https://a'}\n- {name: b, base_url: 'https://b'}\n"
    Path("tunegate.yaml").write_text(text, encoding="utf-8")
    assert {name: one.api_key for name, one in load().all_providers().items()} == {"openai": "sk-env", "b": None}
    Path("tunegate.yaml").write_text(text.replace("'https://a'", "'https://a', api_key: own"), encoding="utf-8")
    assert load().all_providers()["openai"].api_key == "own"
