"""From an `Authorization` header to the principal, by API keys that are stored as SHA-256 only.

A key is `tg-` and 43 characters of base64url: 256 random bits, so a plain SHA-256 is enough to keep it and one dict
lookup finds it. The whole digest is the only name a key has here, never a prefix of it. Fails closed: 401 is said only
on proof (nothing sent, no key's form, unknown to a snapshot that is not behind, revoked, expired); what cannot be
decided is 503.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.errors import Unauthenticated
from app.types import KeyRecord, Principal

PREFIX_CHARACTERS = 12  # of a key, kept so that people can recognise it; 202 of its bits are kept nowhere
REMEMBERED_UNKNOWN = 10_000
_KEY = re.compile(rb"tg-[A-Za-z0-9_-]{43}")
CHALLENGE = ((b"www-authenticate", b"Bearer"),)
_BEARER = re.compile(rb"bearer +([^\s]+) *", re.IGNORECASE)


class Keys(Protocol):
    """The part of a policy snapshot that is asked here."""

    def key(self, digest: bytes) -> KeyRecord | None:
        """The key whose secret has this SHA-256 digest (32 bytes)."""
        ...


class PolicySource(Protocol):
    """Where the last known keys are; `app.storage.policy.PolicyReader` in the gateway."""

    def current(self) -> Keys:
        """The snapshot; raises Unavailable when it is too old to decide by."""
        ...


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment its secret is known."""

    secret: str
    prefix: str
    digest: bytes


def new_key() -> NewKey:
    """256 random bits as a key."""
    secret = f"tg-{secrets.token_urlsafe(32)}"
    return NewKey(secret, secret[:PREFIX_CHARACTERS], digest(secret.encode()))


def digest(secret: bytes) -> bytes:
    """What a key is stored and found by."""
    return hashlib.sha256(secret).digest()


class Authenticator:
    """Proves who calls.

    `newer` makes sure that the policy is not behind: it reads what it has missed, returns whether there was something,
    and raises Unavailable when it cannot tell. Keys that were proved unknown are remembered (the last ten thousand), so
    repeating one costs a dict lookup; a random key cannot become valid later.
    """

    def __init__(
        self,
        policy: PolicySource,
        *,
        newer: Callable[[], Awaitable[bool]],
        clock: Callable[[], float] = time.time,
        remembered_unknown: int = REMEMBERED_UNKNOWN,
    ) -> None:
        self._policy = policy
        self._newer = newer
        self._clock = clock
        self._remembered = remembered_unknown
        self._unknown: dict[bytes, None] = {}

    async def principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The caller that these headers (names in lower case) prove; raises Unauthenticated or Unavailable."""
        record = await self._record(digest(bearer_key(headers)))
        if record.revoked:
            raise _refused("This API key has been revoked. Ask your administrator for a new one.")
        if record.expires_at is not None and record.expires_at <= self._clock():
            raise _refused("This API key has expired. Ask your administrator for a new one.")
        return record.principal

    async def _record(self, key: bytes) -> KeyRecord:
        record = self._policy.current().key(key)
        if record is not None:
            return record
        if key not in self._unknown:
            await self._newer()
            record = self._policy.current().key(key)  # whoever read it, this task or another meanwhile
            if record is not None:
                return record
            self._remember(key)
        raise _refused("The API key is not known here. Check that it is complete and of this gateway.")

    def _remember(self, key: bytes) -> None:
        while len(self._unknown) >= self._remembered:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[key] = None


def bearer(headers: Mapping[bytes, bytes]) -> bytes | None:
    """What an `Authorization: Bearer …` header holds (header names in lower case), or None."""
    sent = _BEARER.fullmatch(headers.get(b"authorization", b""))
    return None if sent is None else sent.group(1)


def bearer_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The API key that these headers hold, by its form; raises Unauthenticated."""
    if b"authorization" not in headers:
        raise _refused("No API key was sent. Send it as the header `Authorization: Bearer tg-…`.")
    sent = bearer(headers)
    if sent is None:
        raise _refused("The Authorization header is not understood. Send `Authorization: Bearer tg-…`.")
    if _KEY.fullmatch(sent) is None:
        raise _refused("This is not an API key of this gateway: they are `tg-` and 43 characters.")
    return sent


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(message, headers=CHALLENGE)
