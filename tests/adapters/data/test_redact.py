from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.data.recognizers import Found, _e164, _public, cards, ibans, luhn, mod97
from adapters.data.redact import Redact, Redactor, _redactor, apart
from adapters.errors import ConfigurationError
from adapters.settings import Redaction
from adapters.types import Example, FunctionCall, Message, Role, ToolCall

KEY = b"key"


@cache
def redactor() -> Redactor:
    """The real recognizers, loaded once."""
    return _redactor(Redaction(), KEY)


def redact(text: str) -> str:
    """Redact a text with the real recognizers."""
    return redactor().text(text, Counter())


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    """A valid card, with the dividers people use."""
    prefix, length = draw(st.sampled_from((("4", 16), ("55", 16), ("2221", 16), ("34", 15), ("6011", 16), ("4", 13))))
    body = prefix + draw(st.text("0123456789", min_size=length - len(prefix) - 1, max_size=length - len(prefix) - 1))
    digits = next(body + check for check in "0123456789" if luhn(body + check))
    return draw(st.sampled_from(("", " ", "-", "."))).join(re.findall(".{1,4}", digits))


@st.composite
def iban_numbers(draw: st.DrawFn) -> str:
    """A valid IBAN of some country."""
    country, length = draw(st.sampled_from((("DE", 22), ("GB", 22), ("FR", 27), ("NL", 18), ("NO", 15), ("MT", 31))))
    account = draw(st.text("0123456789ABCDEF", min_size=length - 4, max_size=length - 4))
    iban = next(f"{country}{check:02}{account}" for check in range(2, 99) if mod97(f"{country}{check:02}{account}"))
    return draw(st.sampled_from(("", " "))).join(re.findall(".{1,4}", iban))


emails = st.builds(
    "{}@{}.{}".format,
    st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._%+-]{0,15}[a-zA-Z0-9]", fullmatch=True).filter(
        lambda name: ".." not in name
    ),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True),
    st.sampled_from(("com", "de", "co.uk", "example")),
)
surroundings = st.text(st.characters(codec="utf-8"), max_size=40)
borders = st.sampled_from((" ", "\n", ", ", "(", ")", "; ", '"', " - "))


def _squeezed(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z@]", "", text)


@settings(max_examples=150, deadline=None)
@given(surroundings, borders, st.one_of(card_numbers(), iban_numbers(), emails), borders, surroundings)
def test_a_planted_value_never_stays(before: str, left: str, value: str, right: str, after: str) -> None:
    """Whatever stands around a valid card, IBAN or e-mail address, it is gone, with or without its dividers."""
    if left == " - " or before[-1:].isascii():
        before = before.rstrip("0123456789.-+/ ")  # digits that touch would be another number
    if after[:1].isalnum() or right in {" - ", ", "}:
        after = after.lstrip("0123456789.-+/ ")
    redacted = redact(f"{before}{left}{value}{right}{after}")
    assert value not in redacted
    if "@" not in value and _squeezed(value) not in _squeezed(before + after):
        assert _squeezed(value) not in _squeezed(redacted)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(surroundings, card_numbers(), iban_numbers(), emails, st.just("+1 415 555 2671")), max_size=5)
)
def test_redacting_twice_changes_nothing(pieces: list[str]) -> None:
    """A stand-in is never taken for personal data."""
    once = redact(" ".join(pieces))
    assert redact(once) == once


@settings(max_examples=50, deadline=None)
@given(emails)
def test_the_same_value_has_the_same_stand_in(email: str) -> None:
    """Case does not count; another key gives another stand-in."""
    first, second = redact(f"I am {email}."), redact(f"Write to {email.upper()} now")
    (stand_in,) = re.findall(r"\[EMAIL-[a-z]{6}\]", first)
    assert stand_in in second
    assert stand_in not in _redactor(Redaction(), b"other").text(email, Counter())


@pytest.mark.parametrize(
    "text",
    [
        "My order number is 2024118833.",
        "Open http page 192.168.1.1 in a browser.",
        "Card 4111 1111 1111 1112 was refused.",
        "Firmware 3.12.204 of 12.05.2026 at 12:30",
        "IBAN DE89 9704 0044 0532 0130 01 is wrong.",
        "It costs 1,299.00 and takes 3-5 days.",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    """Order numbers, private addresses, wrong checksums, versions, dates and prices."""
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", r"\[IP-\w+\]"),
        ("ssn 536-90-4399", r"ssn \[SSN-\w+\]"),
        ("call (415) 555-2671", r"call \[PHONE-\w+\]"),
        ("ruf +49 30 901820 an", r"ruf \[PHONE-\w+\] an"),
        ("4111 1111 1111 1111 123", r"\[CARD-\w+\] 123"),
        ("order 12 4111111111111111", r"order 12 \[CARD-\w+\]"),
        ("de89 3704 0044 0532 0130 00 please", r"\[IBAN-\w+\] please"),
        ("4111111111111111 5500005555555559", r"\[CARD-\w+\] \[CARD-\w+\]"),
    ],
)
def test_kinds(text: str, expected: str) -> None:
    """One of each kind, with neighbours that must not hide it."""
    assert re.fullmatch(expected, redact(text)), redact(text)


def test_phone_formats_share_a_stand_in() -> None:
    """A national and an international writing of one number are one person."""
    assert redact("(415) 555-2671") == redact("+1 415 555 2671")


@given(st.text("0123456789+()-. /", min_size=1, max_size=30))
@settings(deadline=None)
def test_any_number_has_a_normal_form(text: str) -> None:
    """A number that no country knows is its digits; one that is known is written as E.164."""
    normal = _e164(text, ("US", "GB", "DE"))
    assert re.fullmatch(r"\+?\d*", normal)


def test_checksums() -> None:
    """The published test numbers of card schemes and of the IBAN standard."""
    assert all(luhn(number) for number in ("4111111111111111", "378282246310005", "6011111111111117"))
    assert not luhn("4111111111111112")
    assert mod97("GB82WEST12345698765432")
    assert [_public(text) for text in ("8.8.8.8", "10.0.0.1", "::1", "no address")] == [True, False, False, False]
    assert list(cards("x4111111111111111y")) == [(1, 17)]
    assert list(ibans("GB82 WEST 1234 5698 7654 32.")) == [(0, 27)]


def test_overlapping_findings_leave_no_end_standing() -> None:
    """Two findings that overlap become one over both, named by the surer."""
    found = [Found(0, 10, "PHONE", "a", 0.6), Found(5, 20, "CARD", "b", 0.9), Found(30, 31, "IP", "c", 0.5)]
    assert [(one.start, one.end, one.kind) for one in apart(found)] == [(0, 20, "CARD"), (30, 31, "IP")]


def test_tool_arguments_and_names_are_redacted() -> None:
    """JSON stays JSON: a card given as a number becomes a text, flags and amounts stay."""
    arguments = '{"card": 4111111111111111, "ok": true, "amount": 12.5, "to": ["a@b.com"]}'
    call = ToolCall("1", FunctionCall("pay", arguments))
    messages = (Message(Role.USER, "Pay it please", name="jane"), Message(Role.ASSISTANT, tool_calls=(call,)))
    (example,) = Redact(Redaction(), KEY)([Example(id="1", messages=messages)]).kept
    redacted = msgspec.json.decode(example.messages[1].tool_calls[0].function.arguments)
    assert redacted["ok"] is True
    assert redacted["amount"] == 12.5
    assert redacted["card"].startswith("[CARD-")
    assert redacted["to"][0].startswith("[EMAIL-")
    assert (example.messages[0].name or "").startswith("PERSON-")


def test_names_by_a_model_that_is_given(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A spaCy pipeline from a folder finds people; one that is not there is refused in words."""
    import spacy

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Jane Doe"}])  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("model")
    pipeline.to_disk(folder)
    redacted = _redactor(Redaction(name_model=str(folder)), KEY).text("I am Jane Doe from the shop", Counter())
    assert re.fullmatch(r"I am \[PERSON-\w+\] from the shop", redacted)
    with pytest.raises(ConfigurationError, match="name_model"):
        _redactor(Redaction(name_model="no_such_model"), KEY)


def test_a_model_that_takes_stand_ins_for_names_ends() -> None:
    """Whatever a finder makes of a stand-in, redaction ends and leaves it whole."""

    def every_word(text: str) -> list[Found]:
        return [Found(match.start(), match.end(), "PERSON", match.group(), 0.8) for match in re.finditer(r"\w+", text)]

    once = Redactor(every_word, KEY).text("Jane Doe", Counter())
    assert re.fullmatch(r"\[PERSON-\w{6}\] \[PERSON-\w{6}\]", once)


def test_a_data_worker_loads_no_model_library() -> None:
    """Presidio would load torch and transformers: seconds and hundreds of megabytes in every worker, for nothing."""
    code = (
        "import sys; from adapters.settings import Redaction; from adapters.data.recognizers import build_finder\n"
        "found = build_finder(Redaction())('Write to ann@example.org')\n"
        "print([one.kind for one in found], [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['EMAIL'] []"
