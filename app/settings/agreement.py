"""What single fields cannot know: whether names are given once, and whether names that are referred to exist."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from app.settings.names import Place
from app.settings.root import Settings

EMBEDDED = "embedded"  # the sentence model in this process has prices too
BY_ENVIRONMENT = ("openai", "vllm")  # the environment of another process that reads this file may add these


def disagreements(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Each place that contradicts another one, and what was expected there."""
    yield from _names(settings)
    yield from _prices(settings)


def _names(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Routes, prices and metrics know an upstream by its name alone."""
    taken: dict[str, str] = {}
    for index, provider in enumerate(settings.providers):
        if provider.name in taken:
            yield ("providers", index, "name"), _second(provider.name, taken[provider.name])
        taken[provider.name] = "a provider"
    if "openai" in settings.all_providers():
        taken.setdefault("openai", "the provider that OPENAI_API_KEY or OPENAI_BASE_URL adds")
    if settings.vllm_urls and "vllm" in taken:
        yield ("vllm_urls",), "adds a pool called 'vllm', and a provider has that name; give the provider another one"
    for index, pool in enumerate(settings.pools):
        if pool.name in taken:
            yield ("pools", index, "name"), _second(pool.name, taken[pool.name])
        taken[pool.name] = "a pool"


def _second(name: str, other: str) -> str:
    return f"'{name}' is already the name of {other}; every provider and pool needs a name of its own"


def _prices(settings: Settings) -> Iterator[tuple[Place, str]]:
    known = {*settings.all_providers(), *settings.all_pools(), EMBEDDED, *BY_ENVIRONMENT}
    for name in settings.prices.models:
        upstream, _, model = name.partition("/")
        if not model:
            yield ("prices", "models", name), "expected upstream/model or upstream/*"
        elif upstream not in known:
            near = get_close_matches(upstream, known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else "it must be the name of one"
            yield ("prices", "models", name), f"no provider or pool is called '{upstream}'; {advice}"
