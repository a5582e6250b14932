"""Who callers are: issuers of tokens, and provider keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from app.auth.tokens import Issuer
from app.settings.fields import Section, Url


class IssuerSettings(Section):
    """An issuer of tokens that is believed (OIDC)."""

    issuer: Url = Field(description="The `iss` claim of its tokens, exactly.")
    audience: str = Field(min_length=1, description="What the `aud` claim must hold.")
    jwks_url: Url = Field(description="Address of its key set.")
    algorithms: list[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    ] = Field(default=["RS256"], min_length=1, description="Signatures that are accepted; no others, whatever is said.")
    tenant_claim: str = Field(default="tenant", description="The claim that names the tenant.")
    team_claim: str | None = Field(default="team", description="The claim that names the team, if it is there.")
    scopes_claim: str | None = Field(
        default=None, description="The claim that lists operations (chat, completions, …); none allows all."
    )
    scope_prefix: str = Field(default="", description="What stands before an operation's name in that claim.")
    routes_claim: str | None = Field(default=None, description="The claim that lists models; none allows all.")

    def value(self) -> Issuer:
        """The same as a plain value."""
        return Issuer(**self.model_dump())


class IdentitySettings(Section):
    """Who callers are, beside API keys."""

    issuers: list[IssuerSettings] = Field(default_factory=list, description="Issuers of tokens.")
    own_provider_keys: bool = Field(
        default=True, description="Callers may send a provider's key of their own as X-Provider-Key."
    )
    master_key: SecretStr | None = Field(
        default=None,
        description="Seals tenants' provider keys; the same for all gateways. None makes one in `master.key`.",
    )
