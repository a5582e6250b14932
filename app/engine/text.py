"""Turn a stream of token ids into a stream of text: whole characters only, cut at stop strings.

With stop strings the newest `longest - 1` characters are held back until they can no longer start one, so a stop string
is never shown in part; the rest is released when the sequence ends. Bytes that never complete a character are dropped.
"""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from app.engine.tokenizer import Tokenizer


class TextStream:
    """The text of one sequence as it grows."""

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), keep_stop: bool = False) -> None:
        """Start empty; `keep_stop` leaves the stop string in the text."""
        self.text = ""
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._keep_stop = keep_stop
        self._held = 0 if keep_stop else max((len(word) - 1 for word in self._stop), default=0)
        self._shown = 0

    def push(self, token: int, *, may_stop: bool = True) -> str | None:
        """Add one token; returns the stop string it completed, if any, having cut the text there."""
        piece = self._stream.step(self._tokenizer.raw, token)
        if not piece:
            return None
        searched = len(self.text)
        self.text += piece
        return self._cut(searched) if may_stop else None

    def take(self, *, final: bool) -> str:
        """Text not yet shown; everything that is left when `final`."""
        end = len(self.text) if final else max(self._shown, len(self.text) - self._held)
        fresh, self._shown = self.text[self._shown : end], end
        return fresh

    def _cut(self, searched: int) -> str | None:
        for word in self._stop:
            at = self.text.find(word, max(0, searched - len(word) + 1))
            if at >= 0:
                self.text = self.text[: at + len(word)] if self._keep_stop else self.text[:at]
                return word
        return None
