"""What is left of a question when its wording is taken away: the normal form of one clause."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Clause:
    """The normal form: flags, the words up to the first preposition, and the parts that prepositions begin."""

    kind: str
    modal: str = ""
    past: bool = False
    perfect: bool = False
    be: bool = False
    core: list[str] = field(default_factory=list)
    parts: list[list[str]] = field(default_factory=list)

    def form(self) -> tuple[str, ...]:
        """All words in normal order."""
        return (*self.core, *(word for part in sorted(self.parts) for word in part))
