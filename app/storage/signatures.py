"""Who vouches for an adapter: an ed25519 signature over its content hash, by one of the operator's trusted keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.errors import InvalidRequest

PREFIX = b"tunegate-adapter-signature\x00"  # so that no signature made for another purpose passes here
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Signers:
    """The trusted keys by the names of their holders; `required` refuses adapters that nobody vouches for."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    required: bool = False

    def signer(self, sha256: str, signature: str | None) -> str | None:
        """The holder of the key that signed this content hash, None without signature; raises InvalidRequest."""
        if signature is None:
            if self.required:
                raise InvalidRequest("signature: this gateway takes signed adapters only", param="signature")
            return None
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            raw = b""
        if len(raw) != SIGNATURE_BYTES:
            raise InvalidRequest("signature: expected 128 hexadecimal digits (ed25519)", param="signature")
        for name, key in self.keys.items():
            if _verifies(key, raw, PREFIX + bytes.fromhex(sha256)):
                return name
        raise InvalidRequest("signature: no trusted key made it for these files", param="signature")


def _verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
