"""A provider's key that a caller brings with one request: `X-Provider-Key: NAME=KEY`.

It is sent to that provider and nowhere else, never written down, and what it is used for is recorded and not charged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from app.errors import InvalidRequest
from app.types import Principal

HEADER = b"x-provider-key"
_FORM = re.compile(r"([a-z0-9][a-z0-9-]{0,62})=([\x21-\x7e]{8,1024})")


def with_own_key(principal: Principal, headers: Mapping[bytes, bytes]) -> Principal:
    """The caller together with the key it brings, which goes before those kept for it; raises InvalidRequest."""
    sent = headers.get(HEADER)
    if sent is None:
        return principal
    match = _FORM.fullmatch(sent.decode("latin-1"))
    if match is None:
        raise InvalidRequest("X-Provider-Key: expected PROVIDER=KEY, such as openai=sk-…", param="X-Provider-Key")
    name, key = match.groups()
    return replace(principal, credentials={**principal.credentials, name: key})
