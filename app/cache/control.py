"""What a caller's `Cache-Control` asks of us: RFC 9111's request directives, those that mean something here. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Control:
    """`reads`: a stored answer will do, if it is not older than `max_age_seconds`; `keeps`: ours may be stored."""

    reads: bool = True
    keeps: bool = True
    max_age_seconds: int | None = None

    def accepts(self, age_seconds: float) -> bool:
        """Whether an answer of that age will do."""
        return self.max_age_seconds is None or age_seconds <= self.max_age_seconds


DEFAULT = Control()


def control(header: str) -> Control:
    """The directives of a lower-case header: `no-store` is neither read nor kept, `no-cache` and `max-age=0` renew.

    An age that is no whole number counts as 0: RFC 9111 tells a cache to treat what it cannot read as stale.
    """
    if not header:
        return DEFAULT
    directives = dict(_directive(part) for part in header.split(","))
    if "no-store" in directives:
        return Control(reads=False, keeps=False)
    if "no-cache" in directives:
        return Control(reads=False)
    if "max-age" not in directives:
        return DEFAULT
    age = directives["max-age"]
    seconds = int(age) if age.isascii() and age.isdigit() else 0
    return Control(reads=seconds > 0, max_age_seconds=seconds)


def _directive(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), value.strip().strip('"')
