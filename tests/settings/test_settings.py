"""The settings file and its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, load


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REDIS_URL", "DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "VLLM_URLS", "TUNEGATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def refused(text: str) -> str:
    """What is said of this file."""
    Path("tunegate.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load()
    return str(caught.value)


def test_no_file_means_embedded_defaults() -> None:
    """Without file and environment nothing is needed."""
    settings = load()
    assert settings.redis_url is None
    assert settings.database_url is None
    assert settings.all_pools() == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("server:\n  port: 99999\n", "tunegate.yaml:2: server.port: "),
        ("server:\n  prot: 1\n", "tunegate.yaml:2: server.prot: unknown setting"),
        ("data_folder: x\nproviders:\n  - name: a\n", "tunegate.yaml:3: providers.0.base_url: "),
        ("pools:\n  - name: a\n    replicas:\n      - not-a-url\n", "tunegate.yaml:4: pools.0.replicas.0: "),
        ("a: [\n", "tunegate.yaml:2: not YAML"),
        ("- 1\n", "tunegate.yaml:1: expected a mapping"),
        ("bogus: 1\n", "tunegate.yaml:1: bogus: unknown setting"),
    ],
)
def test_a_bad_file_names_line_and_field(text: str, says: str) -> None:
    """Each mistake is said with its line, its field and what was expected."""
    assert says in refused(text)


def test_every_mistake_is_said_at_once() -> None:
    """Two wrong fields are two lines."""
    assert len(refused("server:\n  port: -1\n  metrics_port: x\n").splitlines()) == 2


def test_the_environment_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested fields have double underscores; the platform's own names work."""
    Path("tunegate.yaml").write_text("server:\n  port: 1234\n", encoding="utf-8")
    monkeypatch.setenv("TUNEGATE_SERVER__PORT", "4321")
    monkeypatch.setenv("REDIS_URL", "redis://r:1/0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("VLLM_URLS", "http://a:8000/, http://b:8000")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    settings = load()
    assert settings.server.port == 4321
    assert settings.redis_url == "redis://r:1/0"
    assert settings.all_pools()["vllm"].replicas == ("http://a:8000", "http://b:8000")
    assert settings.all_providers()["openai"].api_key == "sk-secret"


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor the values made from them show a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hush-hush")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hush-hush@h/d")
    settings = load()
    shown = repr(settings) + repr(settings.all_providers())
    assert "hush-hush" not in shown


def test_every_setting_has_a_description() -> None:
    """No field without a sentence."""
    assert all(field.description for field in Settings.model_fields.values())
