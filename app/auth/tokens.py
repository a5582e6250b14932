"""From a JWT of a trusted issuer to the principal: fixed algorithms, cached key sets, claims mapped to tenant and team.

A token is believed when one of its issuer's public keys signed it with one of the algorithms that the operator named
(never the one that only the token names), and it is for our audience and of now. The tenant and team it names must be
known here. 401 is said on proof only; a key set that cannot be read, while its keys are not known, is 503.

What was verified is remembered by the SHA-256 of the whole token until it expires, so a token costs its signature once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from app.auth.api_keys import CHALLENGE
from app.errors import Unauthenticated, Unavailable
from app.types import Operation, Principal

LEEWAY_SECONDS = 30
MAX_TOKEN_BYTES = 16 * 1024
REMEMBERED = 10_000
REFRESH_SECONDS = 3600.0  # a key set of this age is read again
UNKNOWN_SECONDS = 30.0  # for keys that it does not know, no more often than this
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
Fetch = Callable[[str], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whom to believe, and which claims say what. `scopes_claim` and `routes_claim` None: everything is allowed."""

    issuer: str
    audience: str
    jwks_url: str
    algorithms: Sequence[str]
    tenant_claim: str = "tenant"
    team_claim: str | None = "team"
    scopes_claim: str | None = None
    scope_prefix: str = ""
    routes_claim: str | None = None


class KnownTenants(Protocol):
    """The part of a policy snapshot that is asked here."""

    def principal(
        self,
        tenant_id: str,
        team_id: str | None,
        key_id: str,
        operations: frozenset[Operation],
        routes: frozenset[str] | None,
    ) -> Principal | None:
        """The caller of a known tenant and team, or None."""
        ...


@dataclass(frozen=True, slots=True)
class _Claims:
    tenant_id: str
    team_id: str | None
    key_id: str
    operations: frozenset[Operation]
    routes: frozenset[str] | None
    expires_at: float


class KeySet:
    """One issuer's public keys: read when first needed, when old, and when a token names a key that is not there.

    Race removed: a crowd of tokens with unknown keys reads the set once. A set that cannot be read again stays in use.
    """

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()

    async def key(self, name: str, algorithm: str) -> jwt.PyJWK:
        """The issuer's key of that name for that algorithm; raises Unauthenticated or Unavailable."""
        key = self._keys.get(name)
        if key is None or self._clock() - self._read_at > REFRESH_SECONDS:
            await self._refresh()
            key = self._keys.get(name)
        if key is None and self._tried_at > self._read_at:
            raise Unavailable("The keys of the token's issuer cannot be read right now; try again shortly.")
        if key is None or key.algorithm_name != algorithm:
            raise refused("The token is signed with a key that its issuer does not have.")
        return key

    async def _refresh(self) -> None:
        async with self._reading:
            if self._clock() - self._tried_at < UNKNOWN_SECONDS:
                return
            self._tried_at = self._clock()
            try:
                found = await self._fetch(self._issuer.jwks_url)
                self._keys = dict(_usable(found, self._issuer.algorithms))
            except (OSError, ValueError, jwt.PyJWTError):
                return
            self._read_at = self._tried_at


class Tokens:
    """Proves who calls by tokens of these issuers."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        tenants: Callable[[], KnownTenants],
        fetch: Fetch,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._key_sets = {issuer.issuer: KeySet(issuer, fetch, clock) for issuer in issuers}
        self._tenants = tenants
        self._clock = clock
        self._verified: dict[bytes, _Claims] = {}

    async def principal(self, token: bytes) -> Principal:
        """The caller that this token proves; raises Unauthenticated or Unavailable."""
        digest = hashlib.sha256(token).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = await self._verify(token)
            while len(self._verified) >= REMEMBERED:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = claims
        if claims.expires_at + LEEWAY_SECONDS <= self._clock():
            del self._verified[digest]
            raise refused("The token has expired. Get a new one.")
        found = self._tenants().principal(
            claims.tenant_id, claims.team_id, claims.key_id, claims.operations, claims.routes
        )
        if found is None:
            raise refused("The token names a tenant or a team that is not known here.")
        return found

    async def _verify(self, token: bytes) -> _Claims:
        if len(token) > MAX_TOKEN_BYTES:
            raise refused("The token is too long.")
        try:
            text = token.decode("ascii")
            header = jwt.get_unverified_header(text)
            issuer = self._issuer(jwt.decode(text, options={"verify_signature": False}).get("iss"))
            algorithm = header["alg"]
            if algorithm not in issuer.algorithms:
                raise refused("The token is signed in a way that is not accepted here.")
            key = await self._key_sets[issuer.issuer].key(str(header.get("kid", "")), algorithm)
            payload = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False},
            )
        except (jwt.PyJWTError, UnicodeDecodeError, KeyError) as exc:
            raise refused("The token is not valid here: wrong form, signature, audience or time.") from exc
        return _claims(issuer, payload)

    def _issuer(self, name: Any) -> Issuer:
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise refused("The token's issuer is not trusted here.")
        return issuer


def looks_like_token(sent: bytes) -> bool:
    """Whether a bearer value has the form of a JWT; API keys never have."""
    return sent.count(b".") == 2 and sent.startswith(b"ey")


def refused(message: str) -> Unauthenticated:
    """The refusal of a token."""
    return Unauthenticated(message, headers=CHALLENGE)


def _usable(found: Mapping[str, Any], algorithms: Sequence[str]) -> Sequence[tuple[str, jwt.PyJWK]]:
    """Signing keys by name; one that does not say its algorithm has the first accepted one of its kind."""
    usable = []
    for data in found["keys"] if isinstance(found.get("keys"), list) else []:
        if not isinstance(data, dict) or data.get("use", "sig") != "sig" or data.get("kty") == "oct":
            continue
        named = data.get("alg")
        for algorithm in (named,) if named else algorithms:
            if algorithm in algorithms and _fits(data, algorithm):
                usable.append((str(data.get("kid", "")), jwt.PyJWK(data, algorithm=algorithm)))
                break
    return usable


def _fits(data: Mapping[str, Any], algorithm: str) -> bool:
    kinds = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    return data.get("kty") == kinds[algorithm[:2]] and curves.get(algorithm, data.get("crv")) == data.get("crv")


def _claims(issuer: Issuer, payload: Mapping[str, Any]) -> _Claims:
    tenant, team = payload.get(issuer.tenant_claim), payload.get(issuer.team_claim) if issuer.team_claim else None
    expires_at, subject = payload["exp"], payload["sub"]
    if not isinstance(tenant, str) or not isinstance(team, str | None) or not isinstance(expires_at, int | float):
        raise refused("The token does not say of which tenant its bearer is.")
    routes = None if issuer.routes_claim is None else frozenset(_names(payload.get(issuer.routes_claim)))
    name = hashlib.sha256(f"{len(issuer.issuer)}:{issuer.issuer}{subject}".encode()).hexdigest()
    return _Claims(tenant, team, f"jwt_{name[:24]}", _operations(issuer, payload), routes, float(expires_at))


def _operations(issuer: Issuer, payload: Mapping[str, Any]) -> frozenset[Operation]:
    if issuer.scopes_claim is None:
        return frozenset(Operation)
    names = set(_names(payload.get(issuer.scopes_claim)))
    return frozenset(one for one in Operation if f"{issuer.scope_prefix}{one.value}" in names)


def _names(value: Any) -> list[str]:
    """A claim that lists names: OAuth's one string with spaces, or a JSON list."""
    if isinstance(value, str):
        return value.split()
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
