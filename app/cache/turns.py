"""Turns of phrase that have a word of their own: "switch it off" is "disable it", "have to" is "must". Pure.

Each turn names the words without one of which it cannot be there, so that a text pays for those it has. No turn may
lose a tense, an obligation or a direction: where a phrase has two readings it stays as it is.
"""

from __future__ import annotations

import re

_APART = r"(?: ((?:[a-z]+ ){0,5}?))?"
_OBJECT = (
    r"(?:which|what|how many|how much) (?!is |are |was |were |do |does |did |can |must |should |will |would )[a-z]+ "
)
_IF = ("able", "allowed", "permitted")
_PERIODS = ("hour", "day", "week", "month", "year")
_TURNS = (
    # words of which one is there, pattern, what is put in its place
    (("on",), rf"\b(?:turn|switch|power){_APART} ?(?:back )?on\b(?! #)", r" enable \1 "),
    (("off",), rf"\b(?:turn|switch|power|shut){_APART} ?off\b", r" disable \1 "),
    (("on",), rf"\b(?:turned|switched){_APART} ?on\b(?! #)", r" enabled \1 "),
    (("off",), rf"\b(?:turned|switched|shut){_APART} ?off\b", r" disabled \1 "),
    (("log", "sign", "signin", "logon"), r"\b(?:log|sign) (?:in|on)(?:to)?\b|\bsignin\b|\blogon\b", " login "),
    (("log", "sign", "signout"), r"\b(?:log|sign) (?:out|off)(?: of)?\b|\bsignout\b", " logout "),
    (("sign", "register", "enroll"), r"\b(?:sign up|register|enroll) (?:for|to)\b", " register in "),
    (("sign",), r"\bsign up\b", " register "),
    (("touch",), r"\bget in touch with\b", " contact "),
    (("pick",), r"\bpick ((?:[a-z]+ ){0,3})up\b", r" collect \1 "),
    (("back",), r"\b(pay|send|give|bring|take|put) ((?:[a-z]+ ){1,3})back\b", r" \1 back \2 "),
    (("back",), r"\bgive back\b", " return "),
    # "which papers do I have to show": that I have, or that I must show?
    (("have", "need"), rf"\b({_OBJECT}.*?)\b(have|need)(?= to\b)", r"\1 \2 ,"),
    (("have", "has", "need", "needs"), r"\b(?:have|has|need|needs) to\b", " must "),
    (("it",), r"\bis it (?:necessary|required|mandatory|compulsory)(?: for (?:me|us))? to\b", " must i "),
    (("it",), r"\bis it (?:necessary|required) for (.+?) to\b", r" must \1 "),
    (
        ("required", "obliged"),
        r"\b(?:am|are|is) (i|we|(?:the |an? |my )?[a-z]+) (?:required|obliged) to\b",
        r" must \1 ",
    ),
    (("required", "obliged"), r"\b(?:am|are|is|be) (?:required|obliged) to\b", " must "),
    (("supposed",), r"\b(?:am|are|is) (i|we) supposed to\b", r" should \1 "),
    (("ought",), r"\bought to\b", " should "),
    (_IF, r"\bbe able to\b", " can "),
    (_IF, r"\b(?:is|are|am) (?!it )((?:[^ ]+ ){1,6}?)(?:able|allowed|permitted) to\b", r" can \1 "),
    (_IF, r"\b(?:is|are|am) (?:able|allowed|permitted) to\b", " can "),
    (("going",), r"\bis it going to\b", " will it "),
    (("order",), r"\bin order to\b", " to "),
    (("stock",), r"\bin stock\b", " available "),
    (("stock", "sold"), r"\b(?:out of stock|sold out)\b", " unavailable "),
    (_PERIODS, r"\b(?:a|per|each|every) (hour|day|week|month|year)\b", r" per \1 "),
    (("daily", "everyday"), r"\b(?:daily|everyday)\b", " per day "),
    (("weekly",), r"\bweekly\b", " per week "),
    (("monthly",), r"\bmonthly\b", " per month "),
    (("yearly", "annually"), r"\b(?:yearly|annually)\b", " per year "),
    (("there",), r"\bthere any\b", " there "),
    (("of",), r"\b(all|both|each|some|none|most|which|what) of (the|my|our|your)\b", r" \1 \2 "),
    (("if",), r"^\W*what (?=if\b)", "what happens "),
    (("no",), r"\bno one\b", " nobody "),
    (("place",), r"\btakes? place\b", " happen "),
    (("money",), r"\b(?:send|wire|move) (?=money\b)", " transfer "),
    (("know",), r"\blet ((?:[^ ]+ ){1,3}?)know\b", r" tell \1 "),
    (("book",), r"(?<!\bthe )(?<!\ban )(?<!\ba )(?<!\bmy )\bbook (?=(?:an?|the|my|me|us|#\S+) )", " reserve "),
    (("so",), r"\bso (?!that\b)", " "),
)
_COMPILED = tuple((frozenset(words), re.compile(pattern), put) for words, pattern, put in _TURNS)
_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
_BLANKS = re.compile(r"  +")


def turned(text: str) -> str:
    """A text, in lower case and one space between tokens, with each turn of phrase as its word."""
    if "-" in text:
        text = _HYPHEN.sub(" ", text.replace("e-mail", "email"))
    words = frozenset(text.split(" "))
    for one_of, pattern, put in _COMPILED:
        if not one_of.isdisjoint(words):
            text = pattern.sub(put, text)
    return _BLANKS.sub(" ", text)
