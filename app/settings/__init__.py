"""All configuration: one file (`tunegate.yaml`), and environment variables that override it, checked before the start.

Environment names are `TUNEGATE_` plus the path with double underscores (`TUNEGATE_SERVER__PORT=8080`); the names that
the platform world already uses work too: REDIS_URL, DATABASE_URL, OPENAI_API_KEY, OPENAI_BASE_URL, VLLM_URLS.
Every field says its unit in its name and its meaning in its description. Unknown fields are refused, with the line.
"""

from __future__ import annotations

from app.settings.cache import CacheSettings, EmbedderSettings
from app.settings.document import SettingsError
from app.settings.identity import IdentitySettings, IssuerSettings
from app.settings.money import Admission, ModelPrices, PriceChange, PriceSettings, Pricing, TokenPrices
from app.settings.process import Server, Telemetry, Webhooks
from app.settings.reading import load
from app.settings.root import Settings
from app.settings.tuning import (
    AdapterSettings,
    BaseModelSettings,
    ObjectStoreSettings,
    SignerSettings,
    Training,
    TrainingBudget,
)
from app.settings.upstreams import PoolSettings, ProviderSettings

__all__ = [
    "AdapterSettings",
    "Admission",
    "BaseModelSettings",
    "CacheSettings",
    "EmbedderSettings",
    "IdentitySettings",
    "IssuerSettings",
    "ModelPrices",
    "ObjectStoreSettings",
    "PoolSettings",
    "PriceChange",
    "PriceSettings",
    "Pricing",
    "ProviderSettings",
    "Server",
    "Settings",
    "SettingsError",
    "SignerSettings",
    "Telemetry",
    "TokenPrices",
    "Training",
    "TrainingBudget",
    "Webhooks",
    "load",
]
