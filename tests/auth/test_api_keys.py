"""API keys against a policy snapshot: 401 only on proof, 503 when unsure, never one key for another."""

from __future__ import annotations

import asyncio
import random
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.api_keys import Authenticator, bearer, digest, new_key
from app.errors import Unauthenticated, Unavailable
from app.types import KeyRecord, Operation, Principal

ALPHABET = string.ascii_letters + string.digits + "-_"
NOW = 1_000_000.0


class Snapshot:
    """Keys in memory, as a policy that has been read; `old` is one too old to decide by."""

    def __init__(self, *records: tuple[str, KeyRecord]) -> None:
        self.records = {digest(secret.encode()): record for secret, record in records}
        self.old = False

    def current(self) -> Snapshot:
        """Itself, unless it is too old."""
        if self.old:
            raise Unavailable("too old")
        return self

    def key(self, digest: bytes) -> KeyRecord | None:
        """The record under the whole digest."""
        return self.records.get(digest)


class Store:
    """What is newer than the snapshot: counts how often it is asked, brings what it has, or cannot tell."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.asked = 0
        self.arriving: dict[bytes, KeyRecord] = {}
        self.says_newer = True
        self.down = False

    async def newer(self) -> bool:
        """Bring what has arrived, after other tasks have had their turn."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("cannot tell")
        self.snapshot.records |= self.arriving
        return self.says_newer


def record(key_id: str = "k", **fields: Any) -> KeyRecord:
    """A key's record."""
    principal = Principal("acme", None, key_id, frozenset(Operation), None, ())
    return KeyRecord(principal, **fields)


def authenticator(snapshot: Snapshot, store: Store | None = None, **fields: int) -> Authenticator:
    """An authenticator at a fixed time."""
    return Authenticator(snapshot, newer=(store or Store(snapshot)).newer, clock=lambda: NOW, **fields)


def headers(secret: str) -> dict[bytes, bytes]:
    """The header that carries a key."""
    return {b"authorization": f"Bearer {secret}".encode()}


async def test_a_known_key_proves_its_principal_without_waiting() -> None:
    """The scheme's case and spaces do not matter, and nobody is asked."""
    secret = new_key().secret
    snapshot = Snapshot((secret, record()))
    store = Store(snapshot)
    for value in (f"Bearer {secret}", f"bearer   {secret}", f"BEARER {secret}  "):
        sent = {b"authorization": value.encode()}
        assert (await authenticator(snapshot, store).principal(sent)).tenant_id == "acme"
    assert store.asked == 0


def test_new_keys_are_256_random_bits_in_the_form_that_is_accepted() -> None:
    """The prefix is a part of the secret, the digest is of the whole, and no two are alike."""
    made = [new_key() for _ in range(100)]
    assert len({key.secret for key in made}) == len(made)
    for key in made:
        assert len(key.secret) == len("tg-") + 43
        assert key.secret.startswith(key.prefix)
        assert key.digest == digest(key.secret.encode())
        assert bearer(headers(key.secret)) == key.secret.encode()


def malformed(number: int) -> bytes:
    """A value that is no key: random bytes, broken schemes, keys with one thing wrong."""
    chance = random.Random(number)
    key = "".join(chance.choices(ALPHABET, k=43)).encode()
    noise = chance.randbytes(chance.randrange(0, 80))
    return chance.choice(
        (
            noise,
            b"Bearer " + noise,
            b"Bearer tg-" + key[: chance.randrange(0, 43)],
            b"Bearer tg-" + key + chance.choice((b"x", b"=", b"\xff", b"/")),
            b"Bearer sk-" + key,
            b"Basic tg-" + key,
            b"Bearertg-" + key,
            b"Bearer tg-" + key + b", Bearer tg-" + key,
            b"Bearer\ttg-" + key,
            b"tg-" + key,
        )
    )


async def test_ten_thousand_malformed_values_are_401_and_cost_nothing() -> None:
    """No value of any form but a key's is anything but 401, and none reaches a store or the memory of unknown keys."""
    snapshot = Snapshot()
    store = Store(snapshot)
    auth = authenticator(snapshot, store)
    for number in range(10_000):
        with pytest.raises(Unauthenticated) as caught:
            await auth.principal({b"authorization": malformed(number)})
        assert caught.value.status == 401
        assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)
    with pytest.raises(Unauthenticated):
        await auth.principal({})
    assert store.asked == 0
    assert auth._unknown == {}


@given(
    prefix=st.text(ALPHABET, min_size=17, max_size=17),
    tails=st.lists(st.text(ALPHABET, min_size=26, max_size=26), min_size=2, max_size=8, unique=True),
    stranger=st.text(ALPHABET, min_size=26, max_size=26),
)
def test_keys_that_share_twenty_characters_are_never_confused(prefix: str, tails: list[str], stranger: str) -> None:
    """Each key is itself, before and after a stranger of the same prefix has been refused and remembered."""
    secrets = [f"tg-{prefix}{tail}" for tail in tails]
    snapshot = Snapshot(*((secret, record(str(index))) for index, secret in enumerate(secrets)))
    auth = authenticator(snapshot)

    async def check() -> None:
        if stranger not in tails:
            for _ in range(2):
                with pytest.raises(Unauthenticated):
                    await auth.principal(headers(f"tg-{prefix}{stranger}"))
        for index, secret in enumerate(secrets):
            assert (await auth.principal(headers(secret))).key_id == str(index)

    asyncio.run(check())


async def test_an_unknown_key_is_asked_for_once_and_then_remembered() -> None:
    """Repeating an unknown key a thousand times asks the stores once."""
    snapshot = Snapshot()
    store = Store(snapshot)
    auth = authenticator(snapshot, store)
    secret = new_key().secret
    for _ in range(1000):
        with pytest.raises(Unauthenticated):
            await auth.principal(headers(secret))
    assert store.asked == 1


async def test_the_memory_of_unknown_keys_is_bounded() -> None:
    """A flood of different keys holds a fixed number of digests, the newest ones."""
    snapshot = Snapshot()
    store = Store(snapshot)
    auth = authenticator(snapshot, store, remembered_unknown=10)
    flood = [new_key().secret for _ in range(50)]
    for secret in flood:
        with pytest.raises(Unauthenticated):
            await auth.principal(headers(secret))
    assert list(auth._unknown) == [digest(secret.encode()) for secret in flood[-10:]]


@pytest.mark.parametrize("says_newer", [True, False])
async def test_a_key_that_the_snapshot_has_not_seen_yet_is_found(says_newer: bool) -> None:
    """It is found whoever read it: the question of this request, or another task while this one waited."""
    snapshot = Snapshot()
    store = Store(snapshot)
    store.says_newer = says_newer
    secret = new_key().secret
    store.arriving = {digest(secret.encode()): record("new")}
    assert (await authenticator(snapshot, store).principal(headers(secret))).key_id == "new"


async def test_a_key_remembered_as_unknown_works_once_it_is_known() -> None:
    """The snapshot is asked before the memory."""
    snapshot = Snapshot()
    auth = authenticator(snapshot)
    secret = new_key().secret
    with pytest.raises(Unauthenticated):
        await auth.principal(headers(secret))
    snapshot.records[digest(secret.encode())] = record("late")
    assert (await auth.principal(headers(secret))).key_id == "late"


async def test_unsure_is_503_and_not_remembered() -> None:
    """While nobody can tell whether the snapshot is behind, an unknown key is neither refused nor forgotten later."""
    snapshot = Snapshot()
    store = Store(snapshot)
    auth = authenticator(snapshot, store)
    secret = new_key().secret
    store.down = True
    with pytest.raises(Unavailable):
        await auth.principal(headers(secret))
    store.down = False
    store.arriving = {digest(secret.encode()): record("new")}
    assert (await auth.principal(headers(secret))).key_id == "new"


async def test_a_snapshot_too_old_to_decide_by_is_503_for_every_key() -> None:
    """Neither a known key nor an unknown one is decided."""
    secret = new_key().secret
    snapshot = Snapshot((secret, record()))
    snapshot.old = True
    for sent in (secret, new_key().secret):
        with pytest.raises(Unavailable):
            await authenticator(snapshot).principal(headers(sent))


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({}, True),
        ({"expires_at": NOW + 0.001}, True),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW - 1}, False),
        ({"revoked": True}, False),
        ({"revoked": True, "expires_at": NOW + 1}, False),
    ],
)
async def test_expiry_and_revocation(fields: dict[str, Any], accepted: bool) -> None:
    """A key works until the instant of its expiry, a revoked one never."""
    secret = new_key().secret
    auth = authenticator(Snapshot((secret, record(**fields))))
    if accepted:
        assert (await auth.principal(headers(secret))).key_id == "k"
        return
    with pytest.raises(Unauthenticated) as caught:
        await auth.principal(headers(secret))
    assert secret not in caught.value.message
