"""Secrets of tenants, sealed with the installation's master key before they are written down (AES-256-GCM).

What is sealed is bound to its place: a sealed key that is copied to another tenant, team or provider does not open.
The master key is stretched by HKDF under a name of this purpose, so one secret never serves two.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12
PURPOSE = b"tunegate provider keys v1"


class SealBroken(Exception):
    """The sealed bytes do not open here: another master key, another place, or changed."""


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens under one master key."""

    cipher: AESGCM = field(repr=False)

    @classmethod
    def of(cls, master_key: str) -> Sealer:
        """A sealer under a key derived from this one."""
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(master_key.encode())
        return cls(AESGCM(derived))

    def seal(self, secret: str, place: tuple[str, ...]) -> bytes:
        """The secret, for this place only."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self.cipher.encrypt(nonce, secret.encode(), _bound(place))

    def open(self, sealed: bytes, place: tuple[str, ...]) -> str:
        """The secret again; raises SealBroken."""
        try:
            return self.cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(place)).decode()
        except (InvalidTag, ValueError) as exc:
            raise SealBroken("the sealed key does not open with this master key") from exc


def _bound(place: tuple[str, ...]) -> bytes:
    return "".join(f"{len(part)}:{part}" for part in place).encode()
