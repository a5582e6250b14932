"""Whether an adapter has any effect on a server: asked once per version and pool, before its first call.

vLLM can accept an adapter with 200 and then answer like the base model (its issues 34186, 41754, 34591). So both are
asked for the log probabilities of one next token after a fixed prompt: if they are the same, the adapter is refused as
one that cannot be served. An adapter that truly changes nothing is refused too: it would be the base model in disguise.
A base model is asked when the gateway starts, before there are calls, and again beside each adapter; every reading
counts. vLLM's CPU build (0.32) answers a base call that shares a step with adapters by the adapter of its last slot, so
a reading under traffic may be of this very adapter: without an earlier one, good adapters were refused now and then.
Where the version's maker has said what it answers, the server must answer that, within what another number format may
change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from app.placement.control import InvalidAdapter, ReplicaControl
from app.placement.replica import Replica
from app.types import AdapterVersion

PROMPTS = ("The quick brown fox", "Hello, my name is", "1 + 1 =")
TOLERANCE = 1e-4  # natural logarithm; the same weights on the same server differ by less
REFERENCE_TOLERANCE = 0.35  # between float32 on a CPU and bfloat16 on a GPU
CHECKED_AT_MOST = 20_000
READINGS_OF_BASE = 4

Probs = Mapping[str, float]


def differs(one: Sequence[Probs], other: Sequence[Probs]) -> bool:
    """Whether two models' next tokens differ anywhere by more than rounding does."""
    return any(_differ(a, b) for a, b in zip(one, other, strict=True))


def agrees(expected: Probs, found: Probs) -> bool:
    """Whether a server's next tokens are those of the reference: its likeliest one is there, and probabilities fit."""
    likeliest = max(expected, key=lambda token: expected[token])
    common = expected.keys() & found.keys()
    return likeliest in common and all(abs(expected[token] - found[token]) <= REFERENCE_TOLERANCE for token in common)


def _differ(one: Probs, other: Probs) -> bool:
    return one.keys() != other.keys() or any(abs(one[token] - other[token]) > TOLERANCE for token in one)


class EffectCheck:
    """Remembers what has been found to have an effect, by pool and version."""

    def __init__(self, control: ReplicaControl) -> None:
        self._control = control
        self._seen: dict[tuple[str, str], None] = {}
        self._bases: dict[str, deque[list[Probs]]] = {}

    async def learn(self, replica: Replica) -> None:
        """Ask the base model now; what it says is compared with every adapter of the pool. Raises ReplicaError."""
        if replica.pool.check_effect:
            readings = self._bases.setdefault(replica.pool.name, deque(maxlen=READINGS_OF_BASE))
            reading = await self._probe_all(replica, replica.pool.base_model)
            if reading not in readings:
                readings.append(reading)

    async def __call__(self, replica: Replica, adapter: AdapterVersion) -> None:
        """Raise InvalidAdapter when the server answers under the adapter's name as its base model would."""
        key = (replica.pool.name, adapter.id)
        if key in self._seen or not replica.pool.check_effect:
            return
        await self.learn(replica)
        adapted = await self._probe_all(replica, adapter.id)
        if not any(differs(base, adapted) for base in self._bases[replica.pool.name]):
            await self._control.unload(replica.pool, replica.url, adapter.id)
            raise InvalidAdapter("the server answers as the base model would: the adapter has no effect there")
        for prompt, expected in adapter.reference:
            if not agrees(dict(expected), await self._probe(replica, adapter.id, prompt)):
                await self._control.unload(replica.pool, replica.url, adapter.id)
                raise InvalidAdapter("the server answers otherwise than the adapter did where it was made")
        self._seen[key] = None
        while len(self._seen) > CHECKED_AT_MOST:
            del self._seen[next(iter(self._seen))]

    async def _probe_all(self, replica: Replica, model: str) -> list[Probs]:
        return [await self._probe(replica, model, prompt) for prompt in PROMPTS]

    async def _probe(self, replica: Replica, model: str, prompt: str) -> Probs:
        return await self._control.next_token(replica.pool, replica.url, model, prompt)
