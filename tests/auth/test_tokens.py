from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from app.auth.fetch import key_set
from app.auth.provider_keys import with_own_key
from app.auth.tokens import MAX_TOKEN_BYTES, REFRESH_SECONDS, UNKNOWN_SECONDS, Issuer, Tokens, looks_like_token
from app.errors import InvalidRequest, Unauthenticated, Unavailable
from app.types import Account, AccountKind, Limits, Operation, Principal
from tests.support.processes import free_port

ISSUER, AUDIENCE = "https://id.example/realm", "tunegate"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, name: str, **more: Any) -> dict[str, Any]:
    """A public key as a key set holds it."""
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    made: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return {**made, "kid": name, "use": "sig", **more}


@dataclass
class World:
    """An issuer's key set that can be away, tenants that are known, and the time."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [public(RSA, "k1"), public(EC, "e1")])
    away: bool = False
    read: int = 0
    now: float = field(default_factory=time.time)

    def tokens(self, **fields: Any) -> Tokens:
        """What is tested."""
        given = {"algorithms": ("RS256", "ES256"), "scopes_claim": "scope", "routes_claim": "models", **fields}
        issuer = Issuer(ISSUER, AUDIENCE, "https://id.example/keys", **given)
        return Tokens([issuer], lambda: self, self.fetch, clock=lambda: self.now)

    async def fetch(self, url: str) -> Mapping[str, Any]:
        """The key set."""
        self.read += 1
        if self.away:
            raise OSError("away")
        return {"keys": self.keys}

    def principal(
        self,
        tenant_id: str,
        team_id: str | None,
        key_id: str,
        operations: frozenset[Operation],
        routes: frozenset[str] | None,
    ) -> Principal | None:
        """Only acme and its team t1 are known."""
        if tenant_id != "acme" or team_id not in (None, "t1"):
            return None
        account = Account(AccountKind.KEY, key_id, Limits())
        return Principal(tenant_id, team_id, key_id, operations, routes, (account,))


def token(key: Any = RSA, name: str | None = "k1", algorithm: str = "RS256", **claims: Any) -> bytes:
    """A token that is good unless told otherwise; a claim of None is left out."""
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": time.time() + 600,
        "tenant": "acme",
        "team": "t1",
        "scope": "chat models",
        "models": ["support"],
        **claims,
    }
    sent = {claim: value for claim, value in whole.items() if value is not None}
    return jwt.encode(sent, key, algorithm=algorithm, headers={} if name is None else {"kid": name}).encode()


async def test_a_good_token_is_a_principal_of_its_claims() -> None:
    """Tenant, team, operations and models as claimed; the bearer has an account, named by no plain subject."""
    found = await World().tokens().principal(token())
    assert (found.tenant_id, found.team_id, found.routes) == ("acme", "t1", frozenset({"support"}))
    assert found.operations == {Operation.CHAT, Operation.MODELS}
    assert found.key_id.startswith("jwt_")
    assert "ann" not in found.key_id
    assert (await World().tokens().principal(token(EC, "e1", "ES256"))).key_id == found.key_id
    assert (await World().tokens().principal(token(sub="bob"))).key_id != found.key_id


async def test_scopes_may_have_a_prefix_or_be_no_matter() -> None:
    """As the operator says."""
    prefixed = World().tokens(scope_prefix="llm:")
    assert (await prefixed.principal(token(scope="llm:chat chat embeddings"))).operations == {Operation.CHAT}
    free = World().tokens(scopes_claim=None, routes_claim=None)
    assert (await free.principal(token())).operations == frozenset(Operation)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "somebody-else"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": None},
        {"exp": time.time() - 3600},
        {"nbf": time.time() + 3600},
        {"sub": None},
        {"tenant": None},
        {"tenant": "bloom"},
        {"tenant": ["acme"]},
        {"team": "of-somebody-else"},
        {"team": 7},
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_is_refused(claims: dict[str, Any]) -> None:
    """Whatever is signed, it must be of our issuer, for us, of now, and of somebody we know."""
    with pytest.raises(Unauthenticated):
        await World().tokens().principal(token(**claims))


async def test_only_the_operators_algorithms_are_believed() -> None:
    """Neither none, nor an HMAC keyed with the public key, nor a good algorithm that was not named."""
    tokens = World().tokens(algorithms=("ES256",))
    with pytest.raises(Unauthenticated, match="in a way that is not accepted"):
        await tokens.principal(token())
    unsigned = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "exp": 9e9, "tenant": "acme"}, "", "none")
    with pytest.raises(Unauthenticated):
        await World().tokens().principal(unsigned.encode())
    header = {"alg": "HS256", "kid": "k1", "typ": "JWT"}
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "exp": 9e9, "tenant": "acme"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    with pytest.raises(Unauthenticated):
        await World().tokens().principal(b".".join([*parts, b"c2ln"]))


async def test_a_key_serves_its_own_algorithm_only() -> None:
    """A key that says RS256 does not verify PS256, and a shared secret in the set is no key at all."""
    world = World(keys=[public(RSA, "k1", alg="RS256"), {"kty": "oct", "k": "c2VjcmV0", "kid": "o1"}])
    tokens = world.tokens(algorithms=("RS256", "PS256"))
    assert await tokens.principal(token())
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(algorithm="PS256"))


async def test_a_new_key_of_the_issuer_is_found_and_unknown_ones_are_not_asked_for_all_the_time() -> None:
    """A rotation is noticed at once after the quiet time; a flood of unknown key names reads the set once."""
    world = World(keys=[public(RSA, "k1")])
    tokens = world.tokens()
    await tokens.principal(token())
    world.keys = [public(OTHER, "k2")]
    world.now += UNKNOWN_SECONDS
    assert await tokens.principal(token(OTHER, "k2"))
    before = world.read
    results = await asyncio.gather(
        *(tokens.principal(token(OTHER, f"x{i}")) for i in range(50)), return_exceptions=True
    )
    assert all(isinstance(result, Unauthenticated) for result in results)
    assert world.read == before


async def test_an_issuer_that_is_away_is_503_unless_its_keys_are_known() -> None:
    """Infrastructure is no proof: known keys go on, unknown ones are not called invalid."""
    world = World(away=True)
    tokens = world.tokens()
    with pytest.raises(Unavailable):
        await tokens.principal(token())
    world.away = False
    world.now += UNKNOWN_SECONDS
    assert await tokens.principal(token())
    world.away = True
    world.now += REFRESH_SECONDS + 1
    assert await tokens.principal(token(sub="bob", exp=world.now + 600))


async def test_a_verified_token_is_remembered_whole_and_only_until_it_expires() -> None:
    """The same bytes are not verified again; bytes that differ anywhere are; time ends it."""
    world = World()
    tokens = world.tokens()
    good = token(exp=world.now + 60)
    await tokens.principal(good)
    world.keys.clear()
    assert await tokens.principal(good)
    changed = good[:-6] + (b"AAAAAA" if good[-6:] != b"AAAAAA" else b"BBBBBB")
    with pytest.raises(Unauthenticated):
        await tokens.principal(changed)
    world.now += 3600
    with pytest.raises(Unauthenticated, match="expired"):
        await tokens.principal(good)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(b"e" * (MAX_TOKEN_BYTES + 1)))
def test_nothing_malformed_is_anything_but_refused(junk: bytes) -> None:
    """Any bytes: Unauthenticated, never another error; and prefixes of good tokens are junk too."""
    good = token()
    for sent in (junk, good[: min(len(junk), len(good) - 1)], good[:100] + junk, b"ey." + junk + b"."):
        with pytest.raises(Unauthenticated):
            asyncio.run(World().tokens().principal(sent))
    assert looks_like_token(good)


async def test_a_key_set_is_read_over_http() -> None:
    """From a real server; what is not one is an error of the kind that counts as away."""

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [public(RSA, "k1")]})

    async def wrong(_: web.Request) -> web.Response:
        return web.json_response([1])

    site = web.Application()
    site.router.add_get("/keys", keys)
    site.router.add_get("/wrong", wrong)
    runner = web.AppRunner(site)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        assert (await key_set(f"http://127.0.0.1:{port}/keys"))["keys"][0]["kid"] == "k1"
        for path, error in (("wrong", ValueError), ("absent", OSError)):
            with pytest.raises(error):
                await key_set(f"http://127.0.0.1:{port}/{path}")
    finally:
        await runner.cleanup()
    with pytest.raises(OSError, match="ConnectError"):
        await key_set(f"http://127.0.0.1:{port}/keys")


def test_a_provider_key_comes_with_one_request() -> None:
    """It is named for its provider, goes before a kept one, and is in no representation; a bad one is 400."""
    account = Account(AccountKind.KEY, "k1", Limits())
    who = Principal("acme", None, "k1", frozenset(), None, (account,), credentials={"openai": "kept-key-1"})
    own = with_own_key(who, {b"x-provider-key": b"openai=sk-of-mine-123"})
    assert own.credentials["openai"] == "sk-of-mine-123"
    assert "sk-of-mine" not in repr(own)
    for bad in (b"sk-of-mine-123", b"openai=", b"Open AI=sk-of-mine-123", b"openai=short", b"openai=sk with space"):
        with pytest.raises(InvalidRequest, match="X-Provider-Key") as refused:
            with_own_key(who, {b"x-provider-key": bad})
        assert b"sk-" not in refused.value.body() or b"sk-\xe2\x80\xa6" in refused.value.body()
