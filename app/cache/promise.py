"""The kept promise: a route's false-hit budget, the evidence about it, and the threshold that follows. Pure.

A share of the semantic hits is not served but sent upstream, and the two answers are compared. Each comparison is one
trial of "this hit would have been wrong". With a budget of one in a thousand, errors are rare events, so they are
judged as a Poisson count: too many to be luck (5 %) at the budgeted rate raise the threshold above the similarity that
misled; so many trials with so few errors that a rate over the budget is ruled out (5 %) lower it again, never below
the route's own. A route whose threshold would leave the range where paraphrases live has no safe one: the semantic
tier is then off for it until an operator begins the promise anew.

A single early error is always more than a small sample can excuse, so a route that errs learns at once and one that
does not is never touched. Old evidence fades: a long good past must not hide a bad week.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

STEP = 0.01
CEILING = 0.99  # above it only trivial variations pass, and the exact tier has those
DOUBT = 0.05
FADE_AT = 10.0  # times 1/budget trials: then both counts are halved


class Standing(StrEnum):
    """How a route stands with its promise."""

    KEPT = "kept"  # at the route's own threshold
    RAISED = "raised"  # at a higher one, for errors were found
    OFF = "off"  # no threshold is safe


class Promise(msgspec.Struct, frozen=True, array_like=True):
    """One route's evidence: trials and errors since the threshold last moved, and over all time.

    New fields are added at the end: gateways of the version before read the others, and leave the new ones out.
    """

    threshold: float = 0.0  # 0: the route's own
    trials: float = 0.0
    errors: float = 0.0
    all_trials: int = 0
    all_errors: int = 0
    off: bool = False
    misled: float = 0.0  # the similarity of the wrong hit that last raised the threshold
    moved_at: float = 0.0  # when the threshold last moved, seconds since the epoch; 0: never


NEW = Promise()
_DECODER = msgspec.msgpack.Decoder(Promise)


def threshold(promise: Promise, own: float) -> float:
    """The similarity a hit needs now, on a route whose own threshold is `own`."""
    return max(promise.threshold, own)


def standing(promise: Promise, own: float) -> Standing:
    """How a route whose own threshold is `own` stands."""
    if promise.off:
        return Standing.OFF
    return Standing.RAISED if promise.threshold > own else Standing.KEPT


def why(promise: Promise, own: float) -> str | None:
    """In a sentence, why a route is not at its own threshold; None where it is."""
    stands = standing(promise, own)
    if stands is Standing.KEPT:
        return None
    found = f"a hit at {promise.misled:.3f} was wrong" if promise.misled else "a hit was wrong"
    if stands is Standing.RAISED:
        return f"{found}: hits need {promise.threshold:.3f} now, and less again when enough of them were right"
    return f"{found}: no threshold below {CEILING} is safe, and above it are no paraphrases"


def judged(promise: Promise, *, agreed: bool, similarity: float, own: float, budget: float, now: float) -> Promise:
    """The promise after one more comparison of a hit of that similarity."""
    if promise.off:
        return promise
    trials, errors = promise.trials + 1, promise.errors + (not agreed)
    totals = (promise.all_trials + 1, promise.all_errors + (not agreed))
    if not agreed and _at_least(errors, trials * budget) < DOUBT:
        raised = max(threshold(promise, own), similarity) + STEP
        return Promise(min(raised, 1.0), 0.0, 0.0, *totals, raised > CEILING, similarity, now)
    if promise.threshold > own and _at_most(errors, trials * budget) < DOUBT:
        lowered = max(own, promise.threshold - STEP)
        return Promise(lowered, 0.0, 0.0, *totals, misled=promise.misled, moved_at=now)
    if trials * budget > FADE_AT:
        trials, errors = trials / 2, errors / 2
    return Promise(promise.threshold, trials, errors, *totals, misled=promise.misled, moved_at=promise.moved_at)


def encode(promise: Promise) -> bytes:
    """As it lies in Redis."""
    return msgspec.msgpack.encode(promise)


def decode(stored: bytes | None) -> Promise:
    """What lies in Redis; nothing, and what another version wrote, is a new promise."""
    if stored is None:
        return NEW
    try:
        return _DECODER.decode(stored)
    except msgspec.MsgspecError:
        return NEW


def _at_most(count: float, expected: float) -> float:
    """The chance of no more than `count` events where `expected` are."""
    return sum(math.exp(-expected) * expected**k / math.factorial(k) for k in range(int(count) + 1))


def _at_least(count: float, expected: float) -> float:
    return 1 - _at_most(count - 1, expected) if count >= 1 else 1.0
