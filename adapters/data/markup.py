"""HTML to plain text, and the links of markdown to their words. Only known tags count: `if a < b` stays as it is."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

_BLOCKS = frozenset(
    {"p", "div", "br", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "section", "article"}
)
_HIDDEN = frozenset({"script", "style", "head", "title", "blockquote"})
_INLINE = frozenset(
    {"a", "b", "i", "u", "em", "strong", "span", "font", "small", "code", "pre", "img", "td", "th", "tbody"}
)
_PAGE = frozenset({"html", "body", "meta", "link", "center", "sup", "sub", "thead"})
_VOID = frozenset({"br", "hr", "img", "meta", "link"})
_NAMES = "|".join(sorted(_BLOCKS | _HIDDEN | _INLINE | _PAGE, key=len, reverse=True))
_TAG = re.compile(rf"</?(?:{_NAMES})(?:\s[^<>]*)?/?>|<!--|<!doctype", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,500})\]\((?:https?|mailto):[^\s()]{1,2000}\)")


def strip_markup(text: str) -> str:
    """Give the words without their tags; a block ends its line, quoted blocks and scripts go."""
    if _TAG.search(text):
        parser = _Text()
        parser.feed(text)
        parser.close()
        text = "".join(parser.pieces)
    elif _ENTITY.search(text):
        text = unescape(text)
    return _MARKDOWN_LINK.sub(r"\1", text)


class _Text(HTMLParser):
    """Collects text outside hidden elements; what is no known tag is text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not _known(tag):
            self.handle_data(self.get_starttag_text() or "")
            return
        if self._hides(tag, attrs) and tag not in _VOID:
            self._hidden.append(tag)
        elif self._hidden and tag == self._hidden[-1]:
            self._hidden.append(tag)  # the same element inside: its end is not the outer one's
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()
        elif not _known(tag):
            self.handle_data(f"</{tag}>")
        elif tag in _BLOCKS and tag not in _VOID:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)

    @staticmethod
    def _hides(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
        classes = dict(attrs).get("class") or ""
        return tag in _HIDDEN or "gmail_quote" in classes or "moz-cite" in classes


def _known(tag: str) -> bool:
    return tag in _BLOCKS or tag in _HIDDEN or tag in _INLINE or tag in _PAGE
