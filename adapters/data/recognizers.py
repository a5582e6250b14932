"""What counts as personal: presidio's analyzer with its recognizers, and our own where a checksum has to be exact.

Nothing is downloaded: the analyzer runs without a language model unless a recipe names one that finds people.
Cards and IBANs are looked for inside longer runs of digits and words, so a neighbour (an order number, a security code)
does not hide one. Addresses of private networks stay: `192.168.1.1` is an answer, not a person.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from adapters.errors import ConfigurationError, MissingLibraryError
from adapters.settings import Redaction

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerResult
    from presidio_analyzer.nlp_engine import NlpEngine

_THRESHOLD = 0.4  # presidio's own scores: a dashed SSN 0.5, a bare nine-digit number 0.05
_HINT = re.compile(r"[\d@]|::")  # without one of these there is nothing that a pattern could find
_EMAIL = r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]+@\w(?:[\w-]*\w)?(?:\.\w(?:[\w-]*\w)?)+"
_GAP = r"[\s.\-\u2013/]{0,3}"
_DIGITS = re.compile(rf"\d+(?:{_GAP}\d+)*")
_GROUP = re.compile(r"\d+")
_CARD_LENGTHS = range(13, 20)
_CARD_FIRST = frozenset("23456")  # Mastercard 2 and 5, Amex, Diners and JCB 3, Visa 4, Discover and Maestro 5 and 6
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[\s.\-]{0,2}[A-Za-z0-9])")
_REFERENCE = re.compile(
    r"(?:\b(?:order|ticket|case|invoice|serial|reference|ref|tracking|article)|#)(?:\W{1,3}\w{1,8}){0,2}\W{0,3}$",
    re.IGNORECASE,
)
_PHONE_HINT = re.compile(r"[+(]?(?:\d[\s().\-/+]{0,3}){7,}")
_BEFORE = 40
_MARGIN = 12  # what stands around a number decides whether it is one
# Lengths of the SWIFT IBAN registry, by country.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI FK", 20: "AT BA EE KZ LT LU XK MN",
        21: "CR HR LV LI CH", 22: "BH BG GE DE IE ME RS GB VA", 23: "GI IL IQ OM SO TL AE",
        24: "AD CZ DZ MD PK RO SA SK ES SE TN VG", 25: "AO CV LY MZ PT ST", 26: "IS TR",
        27: "BF BI DJ FR GR IT MC MR SM CF CG CM EG GA GQ", 28: "AL AZ BY BJ CY CI DO GT HU LB MG ML PL SN SV NI TG",
        29: "BR PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """One finding: its place, its kind, its normalized value, and how sure it is (0 to 1)."""

    start: int
    end: int
    kind: str
    value: str
    certainty: float


def build_finder(rules: Redaction) -> Callable[[str], Sequence[Found]]:
    """Build presidio's analyzer for these rules; loading it takes seconds, calling it does no I/O."""
    return _Finder(_analyzer(rules), rules)


@dataclass(frozen=True, slots=True)
class _Finder:
    analyzer: AnalyzerEngine
    rules: Redaction

    def __call__(self, text: str) -> list[Found]:
        if self.rules.name_model is None and _HINT.search(text) is None:
            return []
        results = self.analyzer.analyze(text, language="en", score_threshold=_THRESHOLD)
        return [
            Found(r.start, r.end, r.entity_type, self._value(r.entity_type, text[r.start : r.end]), r.score)
            for r in results
        ]

    def _value(self, kind: str, text: str) -> str:
        if kind in {"CARD", "IBAN", "SSN"}:
            return re.sub(r"[^A-Za-z0-9]", "", text).upper()
        if kind == "PHONE":
            return _e164(text, self.rules.regions)
        return " ".join(text.casefold().split())


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Find card numbers: 13 to 19 digits between borders of groups, with an issuer's first digit and Luhn's sum."""
    for run in _DIGITS.finditer(text):
        groups = [(match.start(), match.end()) for match in _GROUP.finditer(text, run.start(), run.end())]
        for first, (start, _) in enumerate(groups):
            for _, end in groups[first:]:
                digits = re.sub(r"\D", "", text[start:end])
                if len(digits) > _CARD_LENGTHS[-1]:
                    break
                if len(digits) in _CARD_LENGTHS and digits[0] in _CARD_FIRST and luhn(digits):
                    yield start, end


def luhn(digits: str) -> bool:
    """Check the sum of ISO/IEC 7812-1, annex B."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Find IBANs: a country of the registry, as many characters as it has, and ISO 7064's sum; spaces may divide it."""
    for start in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(start.group()[:2].upper())
        end = None if length is None else _end_of(text, start.start(), length)
        if end is not None and mod97(re.sub(r"[^A-Za-z0-9]", "", text[start.start() : end])):
            yield start.start(), end


def mod97(iban: str) -> bool:
    """Check the sum of ISO 7064 (mod 97-10) over the rearranged account number."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _end_of(text: str, start: int, length: int) -> int | None:
    """Give the end of so many letters and digits with at most two dividers between them, if a word ends there."""
    places = []
    for match in re.compile(r"[A-Za-z0-9]").finditer(text, start):
        places.append(match.start())
        if len(places) == length:
            break
    if len(places) < length or any(
        right - left > 3 or text[left + 1 : right].strip(" \t\n.-") for left, right in pairwise(places)
    ):
        return None
    end = places[-1] + 1
    return None if text[end : end + 1].isalnum() and text[end].isascii() else end


def phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Find numbers that are valid in their country; bare digits after "order" or "ticket" are a reference.

    Google's matcher (`phonenumbers`) is exact, and slow: it is asked only about the surroundings of seven digits and
    more that are no card or IBAN, and about one country where the number names its own.
    """
    proved = [*cards(text), *ibans(text)]
    for run in _PHONE_HINT.finditer(text):
        if any(start <= run.start() and run.end() <= end + 1 for start, end in proved):
            continue
        window = text[max(0, run.start() - _MARGIN) : run.end() + _MARGIN]
        offset = max(0, run.start() - _MARGIN)
        for start, end in _phones_in(window, regions[:1] if run.group().startswith("+") else regions):
            before = text[max(0, offset + start - _BEFORE) : offset + start]
            if not (window[start:end].isdigit() and _REFERENCE.search(before)):
                yield offset + start, offset + end


def _phones_in(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    import phonenumbers

    for region in regions:
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            yield match.start, match.end


def _e164(text: str, regions: Sequence[str]) -> str:
    import phonenumbers

    parsed = (match.number for region in regions for match in phonenumbers.PhoneNumberMatcher(text, region))
    number = next(parsed, None)
    if number is None:  # it was only valid among the words around it
        return re.sub(r"\D", "", text)
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def _public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _analyzer(rules: Redaction) -> AnalyzerEngine:
    try:
        with nullcontext() if rules.name_model else _not_installed("torch", "transformers"):
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    except ImportError as exc:
        raise MissingLibraryError.of("presidio-analyzer", "data") from exc
    registry = RecognizerRegistry(recognizers=_recognizers(rules), supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=_pipeline(rules.name_model), supported_languages=["en"])


@contextmanager
def _not_installed(*names: str) -> Iterator[None]:
    """What is imported in this block finds these libraries not there, unless they are loaded already.

    Presidio loads every model library it can find: three seconds and 300 MB in each worker, for pipelines that nobody
    has asked for. Import presidio this way once, and its process has no pipeline that needs them.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own mark of an absent module
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _recognizers(rules: Redaction) -> list[EntityRecognizer]:
    from presidio_analyzer import LocalRecognizer, Pattern, PatternRecognizer, RecognizerResult
    from presidio_analyzer.predefined_recognizers import IpRecognizer, SpacyRecognizer, UsSsnRecognizer

    class Exact(LocalRecognizer):
        """Spans that a function has already proved."""

        def __init__(self, kind: str, find: Callable[[str], Iterator[tuple[int, int]]], score: float) -> None:
            super().__init__(supported_entities=[kind], supported_language="en", name=f"{kind} by checksum")
            self._find, self._score = find, score

        def load(self) -> None:
            """Nothing to load."""

        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
            """Give every span, with the same score; it was asked for all of its entities, which is one."""
            del entities, nlp_artifacts
            return [RecognizerResult(self.supported_entities[0], *span, self._score) for span in self._find(text)]

    class PublicIp(IpRecognizer):
        """Presidio's patterns; only addresses of the internet are personal."""

        def validate_result(self, pattern_text: str) -> bool:
            """Keep what is a routed address."""
            return _public(pattern_text)

        def invalidate_result(self, pattern_text: str) -> bool:
            """Drop the rest."""
            return not _public(pattern_text)

    known: dict[str, EntityRecognizer] = {
        "EMAIL": PatternRecognizer(
            "EMAIL", patterns=[Pattern("address", _EMAIL, 0.95)], global_regex_flags=re.MULTILINE
        ),
        "PHONE": Exact("PHONE", lambda text: phones(text, rules.regions), 0.6),
        "CARD": Exact("CARD", cards, 0.9),
        "IBAN": Exact("IBAN", ibans, 0.92),
        "IP": PublicIp(supported_entity="IP"),
        "SSN": UsSsnRecognizer(supported_entity="SSN"),
    }
    chosen = [known[kind] for kind in rules.entities]
    return [*chosen, SpacyRecognizer(supported_entities=["PERSON"])] if rules.name_model else chosen


def _pipeline(name_model: str | None) -> NlpEngine:
    """Give the pipeline that a recipe names, else one that does nothing; none is ever downloaded."""
    from presidio_analyzer.nlp_engine import NoOpNlpEngine, SpacyNlpEngine

    if name_model is None:
        return NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}])
    import spacy

    try:
        pipeline = spacy.load(name_model)
    except OSError as exc:
        raise ConfigurationError(
            f"redaction.name_model: there is no spaCy pipeline `{name_model}`; install it, or give its folder's path"
        ) from exc
    engine = SpacyNlpEngine()
    engine.nlp = {"en": pipeline}  # type: ignore[assignment]  # declared by presidio without its type
    return engine
