"""Names of objects: `<kind>/<owner>/<sha256>`, as `files/file-1a/9f86…`, made by the gateway.

An object's name ends in the hash of its bytes, so what stands under a name never changes, may be written twice, and can
be checked by whoever reads it. It begins with the one file or job that owns it: deleting needs no count of references,
and no tenant can find out that another one has the same bytes.
"""

from __future__ import annotations

import re

_OWNER = re.compile(r"[a-z]+/[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_KIND = re.compile(r"[a-z]+")
_KEY = re.compile(_OWNER.pattern + r"/[0-9a-f]{64}")


def checked_key(key: str) -> str:
    """The key, if it has the form of one; anything else is a defect."""
    return _checked(_KEY, key)


def checked_owner(owner: str) -> str:
    """The part of a key before its hash, if it has that form."""
    return _checked(_OWNER, owner)


def checked_kind(kind: str) -> str:
    """The first part of a key, if it has that form."""
    return _checked(_KIND, kind)


def _checked(form: re.Pattern[str], text: str) -> str:
    if form.fullmatch(text) is None:
        raise ValueError(f"not a key of the object store: {text!r}")
    return text
