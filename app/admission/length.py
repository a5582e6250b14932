"""How long a whole answer may be, for one that is not streamed cannot be stopped on its way.

It may outgrow its estimate, so `reserve.lua` is told what it may cost at most beyond it: its `spare`. Far from the end
of every budget that much is kept from other calls until it has settled, and the caller notices nothing. Near the end
the script grants a part of what is left, and the upstream is told to stop where the grant ends (`max_output_tokens`).
So what whole answers cost never passes a budget, however many run at once, and no call is refused for what another only
might use.

What is left open: a prompt that the upstream counts higher than we do, an upstream that does not heed its limit, and
an answer without any maximum that grows past `UNSET_TIMES` default lengths.
"""

from __future__ import annotations

from msgspec.structs import replace

from app.admission.pricing import affordable_tokens, worst_microusd
from app.types import Call, Choice, LedgerEntry, RateLimitState


def spare_microusd(call: Call, choice: Choice, held: LedgerEntry, most_tokens: int) -> int:
    """What an answer of `most_tokens` may cost beyond what is held for it; 0 for a stream, which can be stopped."""
    if call.stream or most_tokens <= 0:
        return 0
    worst = max(worst_microusd(target.charged, held.prompt_tokens, most_tokens) for target in choice.targets)
    return max(0, worst - held.cost_microusd)


def shortened(
    state: RateLimitState, call: Call, choice: Choice, held: LedgerEntry, more_microusd: int, *, default_tokens: int
) -> RateLimitState:
    """The state of a call whose answer may cost no more than what is held and so much more.

    A call without a maximum gets one of at most `default_tokens`: upstreams refuse one that their model cannot reach.
    """
    money = held.cost_microusd + more_microusd
    paid = (affordable_tokens(target.charged, held.prompt_tokens, money) for target in choice.targets)
    tokens = min((one for one in paid if one is not None), default=None)
    if tokens is None:
        return state
    each = max(1, tokens // call.choices)
    return replace(state, max_output_tokens=min(each, default_tokens) if call.max_tokens is None else each)
