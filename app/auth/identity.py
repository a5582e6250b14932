"""Who calls: by API key or by token, with a provider's key of its own if it brings one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.auth.api_keys import Authenticator, bearer
from app.auth.provider_keys import HEADER, with_own_key
from app.auth.tokens import Tokens, looks_like_token
from app.errors import Forbidden
from app.types import Principal


@dataclass(frozen=True, slots=True)
class Identity:
    """The first stage of a request; without `tokens` only API keys are understood."""

    keys: Authenticator
    tokens: Tokens | None = None
    allow_own_provider_keys: bool = True

    async def principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The caller; raises Unauthenticated, Forbidden, InvalidRequest or Unavailable."""
        sent = None if self.tokens is None else bearer(headers)
        if self.tokens is not None and sent is not None and looks_like_token(sent):
            principal = await self.tokens.principal(sent)
        else:
            principal = await self.keys.principal(headers)
        if HEADER not in headers:
            return principal
        if not self.allow_own_provider_keys:
            raise Forbidden("Provider keys are not taken from requests here.", param="X-Provider-Key")
        return with_own_key(principal, headers)
