"""What an answer must be: the words of the version that it names, and that version current while the call ran.

Two questions that must not be mixed. Whether the words are those of the version in the answer's header has no
tolerance: other words mean wrong weights. Whether that version was what the alias meant at some moment between the
call's beginning and its end tells how late a process decides; what is promised is not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

PROMISED_SECONDS = 0.0  # so long after the end of a meaning a call may still begin by it
Place = tuple[str, str]


@dataclass(slots=True)
class Meaning:
    """A version that an alias meant, from the moment a flip to it was asked for until the one away from it was seen.

    Seen is confirmed to whoever asked for it, or answered by, whichever was first.
    """

    index: int
    since: float
    until: float = float("inf")


@dataclass(slots=True)
class Adapter:
    """One tenant's adapter: its versions (id and what it says), and what the alias has meant."""

    versions: list[tuple[str, str]] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=lambda: [Meaning(0, 0.0)])

    def says(self, version: str) -> str | None:
        """What this version of the adapter says; None for one of another adapter."""
        return dict(self.versions).get(version)

    def version_of(self, said: str) -> str | None:
        """The version that says this."""
        return {words: version for version, words in self.versions}.get(said)

    def flipping(self, now: float) -> str:
        """A flip to the other version is asked for now; returns it."""
        self.meanings.append(Meaning(1 - self.meanings[-1].index, now))
        return self.versions[self.meanings[-1].index][0]

    def flipped(self, now: float) -> None:
        """It is confirmed."""
        self.meanings[-2].until = min(self.meanings[-2].until, now)

    def seconds_late(self, version: str, asked_at: float, answered_at: float) -> float:
        """How long before the call the last meaning of this version had ended; 0 when one held while the call ran."""
        ours = [one for one in self.meanings if self.versions[one.index][0] == version]
        begun = [one for one in ours if one.since <= answered_at]
        return max(0.0, asked_at - max((one.until for one in begun), default=float("-inf")))

    def seen(self, version: str, asked_at: float, answered_at: float) -> None:
        """An answer of this version was complete: if it can only be by the latest flip, the old meaning has ended."""
        latest, before = self.meanings[-1], self.meanings[:-1]
        if not before or self.versions[latest.index][0] != version:
            return
        if all(one.until < asked_at for one in before if one.index == latest.index):
            before[-1].until = min(before[-1].until, answered_at)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status 0 is a connection that failed or a stream that broke, and `said` tells which."""

    status: int
    said: str
    version: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Tally:
    """What was seen."""

    ok: int = 0
    retried: int = 0
    wrong_version: int = 0
    wrong_tenant: int = 0
    wrong_other: int = 0
    late: int = 0
    failed: int = 0
    not_in_ledger: int = 0
    swaps: int = 0
    gateways_restarted: int = 0
    late_seconds: float = 0.0
    felt_seconds: float | None = None
    recovered_seconds: float | None = None
    gateway_seconds: float | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    failures: list[float] = field(default_factory=list)  # of single tries, and when

    @property
    def wrong(self) -> int:
        """Answers that are not what they should be."""
        return self.wrong_version + self.wrong_tenant + self.wrong_other + self.late

    @property
    def judged(self) -> int:
        """Calls with an end."""
        return self.ok + self.wrong + self.failed

    def promises_held(self) -> bool:
        """Nothing wrong, nothing failed, and the ledger names the version of every answer."""
        return not (self.wrong or self.failed or self.not_in_ledger)

    def is_in_time(self, seconds: float) -> bool:
        """Whether a killed server was not felt any more, a returned one and a new gateway were right, within it."""
        found = (self.felt_seconds, self.recovered_seconds, self.gateway_seconds)
        return all(one is None or one <= seconds for one in found)

    def judge(
        self, adapters: Mapping[Place, Adapter], place: Place, answer: Answer, asked_at: float, at: float
    ) -> None:
        """Count one complete answer to a call of that time."""
        adapter = adapters[place]
        self.answered[answer.request_id] = answer.version
        if adapter.says(answer.version) == answer.said:
            self._judge_time(adapter, place, answer.version, asked_at, at)
            return
        speaker = next((one for one, other in adapters.items() if other.version_of(answer.said)), None)
        if speaker == place:
            self.wrong_version += 1
        elif speaker is not None:
            self.wrong_tenant += 1
        else:
            self.wrong_other += 1
        said_by = "nobody" if speaker is None else adapters[speaker].version_of(answer.said)
        self.reasons[f"{place} was named {answer.version or 'no version'} and got the words of {said_by}"] += 1

    def _judge_time(self, adapter: Adapter, place: Place, version: str, asked_at: float, at: float) -> None:
        late = adapter.seconds_late(version, asked_at, at)
        self.late_seconds = max(self.late_seconds, late)
        if late > PROMISED_SECONDS:
            self.late += 1
            self.reasons[f"{place} got {version} {late:.3f} s after its end could be seen"] += 1
            return
        self.ok += 1
        adapter.seen(version, asked_at, at)
