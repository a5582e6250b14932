from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.data.clean import Clean, clean, normalize
from adapters.settings import Cleaning
from adapters.types import Example, Message, Role

BODY = "My router stops every evening. What can I do?"


def cleaned(text: str, rules: Cleaning | None = None) -> str:
    """Clean one text."""
    return clean(text, rules or Cleaning(), Counter())


@pytest.mark.parametrize(
    "added",
    [
        "\n\nBest regards,\nJane Doe\nAcme Ltd.\n+1 415 555 2671",
        "\n\n-- \nJane Doe\nhttps://acme.example",
        "\nCheers\nJane",
        "\nThanks!",
        "\n\nSent from my iPhone",
        "\n\nMit freundlichen Grüßen\nJana Beispiel",
        "\n\nOn Mon, 2 Mar 2026 at 10:14, Support <help@x.example> wrote:\n> old words\n> more",
        "\n\nOn Mon, 2 Mar 2026 at 10:14, Support Team of the shop\n<help@x.example> wrote:\n> old words",
        "\n\n-----Original Message-----\nFrom: x\nold words",
        "\n\nFrom: Support\nSent: Monday\nTo: Jane\nold words",
        "\n\nAm 02.03.2026 um 10:14 schrieb Support:\n> alt",
        "\n> old words",
        "\n\nKind regards\nJane\n\nOn Mon, 2 Mar 2026, Support wrote:\n> old words\n",
        "\u200b \u00a0 \r\n\r\n\r\n",
    ],
)
def test_what_mail_programs_add_goes(added: str) -> None:
    """Signatures, quoted mails and odd spaces leave the words that were written."""
    assert cleaned(BODY + added) == BODY


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        "Thanks",
        "if a < b and c > d then <value> is wrong",
        "Please send it to the office.\nThanks, it worked after I tried that again.",
        "Line one\n\nLine two",
        "On Monday I wrote to you.",
        "AT&T and R&D",
        "Use the vector<int> type and List<String> here",
        "> quoted only",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    """Comparisons, odd tags, short thanks, and a text that is nothing but a quote."""
    assert cleaned(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Hello <b>there</b></p><p>Bye</p>", "Hello there\n\nBye"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<style>p {color: red}</style><script>alert(1)</script>Hi", "Hi"),
        ("Hi<blockquote>old <blockquote>older</blockquote> words</blockquote> there", "Hi there"),
        ('Hi<div class="gmail_quote">old<div>x</div></div>', "Hi"),
        ("Tom &amp; Jerry&nbsp;&lt;3", "Tom & Jerry <3"),
        ("see [the manual](https://x.example/m) and ![shot](https://x.example/s.png)", "see the manual and shot"),
        ("open https://x.example/a?token=1, then wait", "open [URL], then wait"),
        ("<p>use <vec>x</vec> here</p>", "use <vec>x</vec> here"),
        ("\uff28\uff49 \uff14\uff11", "Hi 41"),
        ("<div>Hi<br>\n<br>\n<br>\nthere</div>", "Hi\n\nthere"),
    ],
)
def test_markup_and_urls(text: str, expected: str) -> None:
    """HTML and markdown become words; a URL leaves a mark."""
    assert cleaned(text) == expected


def test_rules_can_be_switched_off() -> None:
    """Each rule is a setting."""
    rules = Cleaning(markup=False, quotes=False, signatures=False, urls="keep")
    text = "<b>Hi</b> https://x.example\nCheers,\nJane\n> old"
    assert cleaned(text, rules) == text
    assert cleaned("see https://x.example now", Cleaning(urls="drop")) == "see now"


def test_what_was_taken_out_is_counted() -> None:
    """Counts by name, for the manifest."""
    counts = Counter[str]()
    clean(f"<p>{BODY} https://a.example https://b.example</p>\nCheers,\nJane\n\n> old", Cleaning(), counts)
    assert counts == {"cleaned:markup": 1, "cleaned:quote": 1, "cleaned:signature": 1, "cleaned:url": 2}


def test_a_conversation_without_words_is_dropped() -> None:
    """What is empty after cleaning goes, with its reason; tool results are left alone."""
    step = Clean(Cleaning())
    tool = Message(Role.TOOL, "<p>raw</p>", tool_call_id="1")
    full = Example(id="1", messages=(Message(Role.USER, BODY), tool, Message(Role.ASSISTANT, "Yes.")), origin="f:1")
    empty = Example(id="2", messages=(Message(Role.USER, "<p></p>"), Message(Role.ASSISTANT, "Yes.")), origin="f:2")
    outcome = step([full, empty])
    assert [row.id for row in outcome.kept] == ["1"]
    assert outcome.kept[0].messages[1] is tool
    assert [(drop.origin, drop.reason) for drop in outcome.drops] == [("f:2", "clean:empty")]


@settings(deadline=None)
@given(st.text(max_size=300))
def test_cleaning_never_fails_and_never_empties_words(text: str) -> None:
    """Any text can be cleaned; without markup no text that has words loses them all."""
    cleaned(text)
    rules = Cleaning(markup=False, urls="mark")
    if any(char.isalnum() for char in normalize(text)):
        assert cleaned(text, rules)
