from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission.pricing import cost_microusd
from app.errors import Unavailable
from app.routing.price_sources import PriceFile, PriceFileError, PublicPrices, is_listed, listed_provider
from app.routing.prices import REMEMBERED_SECONDS, PriceList
from app.settings import Pricing
from app.types import Price, PriceTier, Usage

OWN, WILD, FILED, LISTED, DEFAULT = (Price(n, n) for n in range(1, 6))
NOW = datetime(2026, 8, 1, tzinfo=UTC).timestamp()


class Now:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_the_operators_price_goes_before_all_others() -> None:
    """Exact own price, price file, own wildcard, public list, default: each where those before it are silent."""
    prices = PriceList(
        {"up/own": OWN, "wild/*": WILD},
        DEFAULT,
        files=lambda _upstream, model, _now: FILED if model in ("own", "filed") else None,
        public=lambda _upstream, model, _now: LISTED if model != "odd" else None,
    )
    found = [
        prices.price(*name.split("/")) for name in ("up/own", "up/filed", "wild/filed", "wild/x", "up/listed", "up/odd")
    ]
    assert found == [OWN, FILED, FILED, WILD, LISTED, DEFAULT]


def test_an_unknown_price_is_refused_under_block() -> None:
    """503 that tells the operator what to set; never zero."""
    with pytest.raises(Unavailable, match=r"prices\.models\['up/\*'\]"):
        PriceList({}).price("up", "model")


def test_an_explicit_zero_is_a_price() -> None:
    """Only what the operator has set to nothing costs nothing."""
    assert PriceList({"up/free": Price(0, 0)}, DEFAULT).price("up", "free") == Price(0, 0)


def test_a_dated_price_takes_effect_on_its_day() -> None:
    """Also while the old one is remembered: within a minute."""
    clock = Now()
    changes = {"up/m": [(NOW + 100, LISTED), (NOW + 200, DEFAULT)]}
    prices = PriceList({"up/m": OWN}, changes=changes, clock=clock)
    seen = []
    for later in (0, 99, 100 + REMEMBERED_SECONDS, 200 + REMEMBERED_SECONDS):
        clock.now = NOW + later
        seen.append(prices.price("up", "m"))
    assert seen == [OWN, OWN, LISTED, DEFAULT]


def test_settings_say_prices_by_token_by_gpu_hour_and_by_date() -> None:
    """USD become whole micro-dollars, rounded up; a mixture of both ways is refused."""
    pricing = Pricing.model_validate(
        {
            "models": {
                "vllm/*": {"usd_per_gpu_hour": 2.5, "tokens_per_gpu_hour": 3_000_000},
                "up/m": {
                    "input_usd_per_mtok": 0.15,
                    "output_usd_per_mtok": 0.6,
                    "cached_input_usd_per_mtok": 0.075,
                    "reasoning_usd_per_mtok": 1.2,
                    "changes": [{"since": "2026-09-01", "input_usd_per_mtok": 1, "output_usd_per_mtok": 2}],
                },
            }
        }
    )
    assert pricing.models["vllm/*"].value() == Price(833_334, 833_334)
    assert pricing.models["up/m"].value() == Price(150_000, 600_000, 75_000, 1_200_000)
    (change,) = pricing.models["up/m"].changes
    assert (change.value(), change.instant()) == (
        Price(1_000_000, 2_000_000),
        datetime(2026, 9, 1, tzinfo=UTC).timestamp(),
    )
    with pytest.raises(ValueError, match="usd_per_gpu_hour and tokens_per_gpu_hour"):
        Pricing.model_validate({"models": {"a/b": {"input_usd_per_mtok": 1, "usd_per_gpu_hour": 1}}})


def test_cached_and_reasoning_tokens_have_prices_of_their_own() -> None:
    """Each part at its own price; without one, as the rest."""
    price = Price(1_000_000, 4_000_000, cached_microusd_per_mtok=100_000, reasoning_microusd_per_mtok=8_000_000)
    used = Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=40, reasoning_tokens=5)
    assert cost_microusd(price, used) == 60 + 4 + 20 + 40
    assert cost_microusd(Price(1_000_000, 4_000_000), used) == 100 + 40


def test_a_tier_holds_for_the_whole_call() -> None:
    """From its number of prompt tokens on."""
    price = Price(1_000_000, 1_000_000, tiers=(PriceTier(1000, Price(2_000_000, 3_000_000)),))
    assert cost_microusd(price, Usage(999, 10)) == 1009
    assert cost_microusd(price, Usage(1000, 10)) == 2030


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6), st.integers(0, 2 * 10**6))
def test_parts_never_cost_more_or_less_than_the_whole(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    """With one price for everything, how the tokens are divided does not matter, however absurd the division."""
    flat = Price(7, 11, cached_microusd_per_mtok=7, reasoning_microusd_per_mtok=11)
    used = Usage(prompt, completion, cached, reasoning_tokens=reasoning)
    assert cost_microusd(flat, used) == cost_microusd(Price(7, 11), Usage(prompt, completion))


def write(path: Path, content: object) -> Path:
    """A file with this JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_price_map_of_litellms_format_is_read_exactly(tmp_path: Path) -> None:
    """Dollars per token to micro-dollars per million, without a float; upstream-specific names first."""
    file = PriceFile.read(
        write(
            tmp_path / "prices.json",
            """{
            "sample_spec": {"input_cost_per_token": "words"},
            "gpt-x": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
                      "cache_read_input_token_cost": 7.5e-08, "output_cost_per_reasoning_token": 1e-06},
            "azure/gpt-x": {"input_cost_per_token": 0.000001, "output_cost_per_token": 0},
            "ft:gpt-x": {"input_cost_per_token": 3e-07, "output_cost_per_token": 1.2e-06},
            "dall-e": {"output_cost_per_image": 0.04}
            }""",
        )
    )
    assert file("openai", "gpt-x", NOW) == Price(150_000, 600_000, 75_000, 1_000_000)
    assert file("azure", "gpt-x", NOW) == Price(1_000_000, 0)
    assert file("openai", "ft:gpt-x:acme:support:abc", NOW) == Price(300_000, 1_200_000)
    assert file("openai", "dall-e", NOW) is None
    assert file("openai", "unknown", NOW) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ([], "expected an object of model names"),
        ({"gpt-x": 3}, "'gpt-x': expected an object"),
        ({"gpt-x": {"input_cost_per_token": -1}}, "'gpt-x': input_cost_per_token: expected dollars per token"),
        ({"gpt-x": {"output_cost_per_token": "1"}}, "'gpt-x': output_cost_per_token: expected dollars per token"),
        ({"gpt-x": {"input_cost_per_token": True}}, "'gpt-x': input_cost_per_token"),
    ],
)
def test_a_bad_price_file_names_model_and_field(tmp_path: Path, content: object, says: str) -> None:
    """It is refused when the gateway starts, not when a model is first called."""
    with pytest.raises(PriceFileError, match=says):
        PriceFile.read(write(tmp_path / "prices.json", content))
    with pytest.raises(PriceFileError, match="cannot be read"):
        PriceFile.read(tmp_path / "absent.json")


def test_the_public_list_prices_known_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenAI address has OpenAI's prices, without any network; an address of one's own has none."""

    def no_network(*_: object) -> None:
        raise AssertionError("the price list must not use the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert listed_provider("https://api.openai.com/v1") == "openai"
    assert listed_provider("http://127.0.0.1:8000") is None
    assert is_listed("openai")
    public = PublicPrices({"main": "openai"})
    assert public("main", "gpt-4o-mini", NOW) == Price(150_000, 600_000, cached_microusd_per_mtok=75_000)
    assert public("other", "gpt-4o-mini", NOW) is None
    assert public("main", "no-such-model", NOW) is None


def test_a_fine_tuned_model_never_has_its_bases_price() -> None:
    """It has the price of the fine-tuned family, or none."""
    public = PublicPrices({"main": "openai"})
    tuned = public("main", "ft:gpt-4o-mini-2024-07-18:acme::abc", NOW)
    assert tuned is not None
    assert tuned.input_microusd_per_mtok == 300_000
    assert public("main", "ft:gpt-99:acme::abc", NOW) is None
    file = PriceFile({"gpt-x": OWN})
    assert file("main", "ft:gpt-x:acme::abc", NOW) is None


def test_long_prompts_have_the_public_lists_tiers() -> None:
    """A model whose price steps up with the prompt is charged by its step."""
    price = PublicPrices({"main": "openai"})("main", "gpt-5.4", NOW)
    assert price is not None
    assert price.tiers
    start = price.tiers[0].from_prompt_tokens
    assert cost_microusd(price, Usage(start, 0)) > 1.5 * cost_microusd(price, Usage(start - 1, 0))
