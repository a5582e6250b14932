"""One running generation: its prompt, its cache, its sampler and its text, and what each new token gives the caller."""

import time
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from app.engine.errors import EngineError
from app.engine.llama import KVCache
from app.engine.lora import LoraRequest
from app.engine.sampling import Sampler, SamplingParams, TokenLogprobs
from app.engine.text import TextStream
from app.engine.weights import Array


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of one sequence; `text` may be empty (a held-back or unfinished character), `stop` is what ended it."""

    index: int
    token: int
    text: str
    logprobs: TokenLogprobs | None = None
    finish: str | None = None
    stop: str | int | None = None


Event = Delta | EngineError


@dataclass(eq=False, slots=True)
class Sequence:
    """The engine thread's view of one generation; `due` is the monotonic time (s) before which it takes no step."""

    request: str
    index: int
    prompt: Tokens[int]
    params: SamplingParams
    lora: LoraRequest | None
    emit: Callable[[Event], None]
    sampler: Sampler
    stream: TextStream
    end_ids: frozenset[int]
    main_end_id: int | None
    cache: KVCache | None = None
    due: float = 0.0
    generated: int = 0
    last_token: int = -1
    arrived: float = field(default_factory=time.monotonic)
    stepped: float = 0.0

    @property
    def next_tokens(self) -> Tokens[int]:
        """The whole prompt at first, then the token just made."""
        return self.prompt if self.generated == 0 else (self.last_token,)

    def advance(self, logits: Array, *, room: int) -> Delta:
        """Take one token from (vocab,) logits; `room` is how many positions the context still has after it."""
        token, logprobs = self.sampler.choose(logits)
        self.generated += 1
        self.last_token = token
        finish: str | None
        stop: str | int | None
        finish, stop = self._ending(token)
        if finish is None:
            word = self.stream.push(token, may_stop=self.generated > self.params.min_tokens)
            if word is not None:
                finish, stop = "stop", word
            elif self.generated >= self.params.max_tokens or room <= 0:
                finish = "length"
        text = self.stream.take(final=finish is not None)
        return Delta(self.index, token, text, logprobs, finish, stop)

    def _ending(self, token: int) -> tuple[str | None, int | None]:
        """An end token ends without a reason; any other stop token is named."""
        if self.generated <= self.params.min_tokens:
            return None, None
        if token in self.params.stop_token_ids:
            return "stop", token
        if self.params.ignore_eos or token not in self.end_ids:
            return None, None
        return "stop", None if token == self.main_end_id else token
