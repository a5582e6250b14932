"""The content guard: what may share an answer, what may not, and the reason it gives."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.features import MAX_CHARACTERS, UNREADABLE, Features, features
from app.cache.guard import GuardReason, refusal


def judged(one: str, other: str) -> GuardReason | None:
    """The guard's word on two texts, which must not depend on their order."""
    a, b = features(one), features(other)
    assert refusal(a, b) == refusal(b, a)
    return refusal(a, b)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "Could you please tell me how to reset my password?"),
        ("How do I reset my password?", "What is the way to reset my password?"),
        ("How do I reset my password?", "I want to reset my password. How do I do that?"),
        ("How do I turn off roaming?", "How can I disable roaming?"),
        ("How do I turn roaming off?", "What do I have to do to switch off roaming?"),
        ("What does a room cost?", "How much is a room?"),
        ("Why is the app slow?", "What is the reason the app is so slow?"),
        ("Can I pay 30 dollars?", "Am I allowed to pay $30?"),
        ("How tall is the tower?", "What is the height of the tower?"),
        ("Is Anna in on Monday?", "Do you know whether Anna is in on Monday?"),
        ("Who wrote Dune?", "Who is the author of Dune?"),
        ("I don't have a card. How do I pay?", "I do not have a card. How can I pay?"),
        ("I'd like a table for two", "I'd like a table for 2"),
        ("Show me the manual of the lamp", "Show me the lamp manual"),
        ("I get an error. How do I fix it?", "How do I fix an error?"),
        ("Who is the composer of Aida?", "Who composed Aida?"),
        ("By whom was the zipper invented?", "Who invented the zipper?"),
        ("How much are 5 miles in feet?", "Convert 5 miles to feet"),
        ("Where do I find the puppies?", "Where are the puppies?"),
        ("Remind me on Monday to call", "Remind me to call on Monday"),
        ("Did Ann pay Bo?", "Was Bo paid by Ann?"),
        ("Who paid Ann?", "By whom was Ann paid?"),
        ("Lend Ann the drill", "Lend the drill to Ann"),
        ("If it rains, when do we leave?", "When do we leave if it rains?"),
        ("Is running `x` safe?", "Is it safe to run `x`?"),
        ("The app logs a fault. What should I do?", "What should I do when the app logs a fault?"),
        ("Why is my tap dripping?", "Why does my tap drip?"),
        ("Where is my tax file?", "Where can I find my tax file?"),
        ("Can you tell me when to call?", "When should I call?"),
        ("Give me the bill for May", "Give me the May bill"),
    ],
)
def test_the_same_in_other_words_may_share_an_answer(one: str, other: str) -> None:
    """Frames, small words, contractions, synonyms, spelled-out numbers and currencies make no difference."""
    assert judged(one, other) is None


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("Close account 1234", "Close account 1235", GuardReason.NUMBER),
        ("Wait 5 days", "Wait 5 weeks", GuardReason.NUMBER),
        ("Set it to 20°C", "Set it to 20°F", GuardReason.NUMBER),
        ("Set it to 20 degrees Celsius", "Set it to 20 degrees Fahrenheit", GuardReason.NUMBER),
        ("Pay $30", "Pay €30", GuardReason.NUMBER),
        ("Meet at 7 am", "Meet at 7 pm", GuardReason.NUMBER),
        ("A file of 5MB", "A file of 5 GB", GuardReason.NUMBER),
        ("Two tickets", "Three tickets", GuardReason.NUMBER),
        ("Divide 3 by 5", "Divide 5 by 3", GuardReason.ORDER),
        ("How many feet make a mile?", "How many inches make a mile?", GuardReason.NUMBER),
        ("How do I reset it?", "How do I not reset it?", GuardReason.NEGATION),
        ("Can guests log in?", "Can't guests log in?", GuardReason.NEGATION),
        ("Pay with a card", "Pay without a card", GuardReason.NEGATION),
        ("Turn on the light", "Turn off the light", GuardReason.POLARITY),
        ("How do I enable it?", "How do I disable it?", GuardReason.POLARITY),
        ("Eat before a swim", "Eat after a swim", GuardReason.POLARITY),
        ("How do I log in?", "How do I log out?", GuardReason.POLARITY),
        ("Buy shares of Shell", "Sell shares of Shell", GuardReason.POLARITY),
        ("Is it the best plan?", "Is it the worst plan?", GuardReason.POLARITY),
        ("Give me the book", "Take the book", GuardReason.POLARITY),
        ("Open on Monday", "Open on Tuesday", GuardReason.DATE),
        ("The bill of May", "The bill of June", GuardReason.DATE),
        ("Come in the morning", "Come in the evening", GuardReason.DATE),
        ("What is the capital of Peru?", "What is the capital of Kenya?", GuardReason.NAME),
        ("Does Anna report to Peter?", "Does Peter report to Anna?", GuardReason.ORDER),
        ("Call the PR line", "Call the IT line", GuardReason.NAME),
        ("Is the X2 any good?", "Is the X3 any good?", GuardReason.NAME),
        ("Open notes.txt", "Open notes.csv", GuardReason.NAME),
        ("Run `rm -rf a`", "Run `rm -rf b`", GuardReason.QUOTE),
        ('What is "disk full"?', 'What is "disk failing"?', GuardReason.QUOTE),
        ("Go to https://a.example/x", "Go to https://a.example/y", GuardReason.QUOTE),
        ("Mail a@x.example", "Mail b@x.example", GuardReason.QUOTE),
        ("Is x < y?", "Is x > y?", GuardReason.CODE),
        ("When is the shop open?", "Where is the shop?", GuardReason.QUESTION),
        ("When is the party?", "Where is the party?", GuardReason.QUESTION),
        ("How long is the bridge?", "How old is the bridge?", GuardReason.QUESTION),
        ("How many days have I taken?", "How many days may I take?", GuardReason.MODALITY),
        ("Upload photos", "Upload videos", GuardReason.SUBSTITUTION),
        ("How do I use a voucher?", "How do I get a voucher?", GuardReason.SUBSTITUTION),
        ("How do I close my account?", "How do I close my app?", GuardReason.SUBSTITUTION),
        ("What date does it start?", "What time does it start?", GuardReason.QUESTION),
        ("Change the date of the party", "Change the place of the party", GuardReason.SUBSTITUTION),
        ("When does it start?", "When did it start?", GuardReason.TENSE),
        ("Who runs the shop?", "Who ran the shop?", GuardReason.TENSE),
        ("Can I delete my data?", "Can I delete your data?", GuardReason.PERSON),
        ("Do you pay tax?", "Do I pay tax?", GuardReason.PERSON),
        ("Has the order shipped?", "Does the order ship?", GuardReason.TENSE),
        ("What is charged?", "What charges?", GuardReason.TENSE),
        ("Do I have a visa?", "Do I need a visa?", GuardReason.SUBSTITUTION),
        ("When can I leave?", "When do I leave?", GuardReason.MODALITY),
        ("How do I get a card?", "How do I get a new card?", GuardReason.ADDITION),
        ("Is the fan too loud?", "Is the fan loud?", GuardReason.ADDITION),
        ("Is a wug blick?", "Is a wug?", GuardReason.ADDITION),
        ("Can I call?", "Do I call?", GuardReason.MODALITY),
        ("Is the key of the box lost?", "Is the box of the key lost?", GuardReason.ORDER),
        ("How much is 5 km from work to home?", "What is 5 km from home to work?", GuardReason.ORDER),
        ("Is the house boat big?", "Is the boat house big?", GuardReason.ORDER),
        ("Set a timer for 5 minutes", "Set a timer in 5 minutes", GuardReason.SUBSTITUTION),
        ("Can I cancel for $5?", "Can I cancel by $5?", GuardReason.SUBSTITUTION),
        ("Who is it for?", "Who is it from?", GuardReason.SUBSTITUTION),
        ("Which team beats Italy?", "Which team does Italy beat?", GuardReason.ORDER),
        ("Who invites the admin?", "Whom does the admin invite?", GuardReason.ORDER),
        ("How do I share a photo with a guest?", "How does a guest share a photo with me?", GuardReason.QUESTION),
        ("How is a driver rated?", "How does a driver rate?", GuardReason.TENSE),
        ("How do I email a link?", "How do I link an email?", GuardReason.ORDER),
        ("Can I pay at the app?", "Can I pay from the app?", GuardReason.SUBSTITUTION),
        ("Can I call my boss?", "Is it possible for my boss to call me?", GuardReason.ORDER),
        ("Who is the boss?", "Who was the boss?", GuardReason.TENSE),
        ("Can I see my manager's desk?", "Can my manager see my desk?", GuardReason.PERSON),
        ("Are guests able to invite admins?", "Can an admin invite guests?", GuardReason.ORDER),
        ("How many users does a plan have?", "How many plans does a user have?", GuardReason.ORDER),
        ("When do I pay?", "When do I get paid?", GuardReason.SUBSTITUTION),
        ("A shirt in size S", "A shirt in size M", GuardReason.NUMBER),
        ("Is plan A good?", "Is plan B good?", GuardReason.NUMBER),
        ("How do I pay with a gift card?", "How do I pay for a gift card?", GuardReason.SUBSTITUTION),
        ("Book a room", "Book a green room", GuardReason.ADDITION),
        ("Convert euros to dollars", "Convert dollars to euros", GuardReason.ORDER),
        ("Can a dog eat a cat?", "Can a cat eat a dog?", GuardReason.ORDER),
        ("How do I pay?", "Wie kann ich das bezahlen?", GuardReason.LANGUAGE),
        ("How do I pay?", "Как мне заплатить?", GuardReason.LANGUAGE),
        ("Which forms do I have to sign?", "Which forms do I need to sign?", GuardReason.SUBSTITUTION),
        ("Who has to stop?", "Who had to stop?", GuardReason.TENSE),
        ("Which documents do I need?", "Which documents do you have?", GuardReason.PERSON),
        ("How do I share it with my team?", "How does my team share it with me?", GuardReason.QUESTION),
        ("Who is my boss's mentor?", "Who does my boss mentor?", GuardReason.TENSE),
        ("Which law was replaced by the act?", "Which law was the act replaced by?", GuardReason.ORDER),
        ("Which forms must be signed by a clerk?", "Which clerk must sign forms?", GuardReason.TENSE),
        ("Is parking free?", "Is the park free?", GuardReason.SUBSTITUTION),
        ("When does the training start?", "When does the train start?", GuardReason.SUBSTITUTION),
        ("What would you do?", "What do you do?", GuardReason.MODALITY),
        ("Must I not pay?", "Do I not have to pay?", GuardReason.MODALITY),
        ("Does `a` call `b`?", "Is `a` called by `b`?", GuardReason.ORDER),
        ("I want to pay Ann.", "Pay Ann.", GuardReason.QUESTION),
        ("How long is the lamp?", "How long does the lamp last?", GuardReason.ADDITION),
        ("Which boss trusts the team?", "Which boss does the team trust?", GuardReason.ORDER),
        ("How is the lamp cleaned?", "How do I clean the lamp?", GuardReason.QUESTION),
        ("Who turned it off?", "Who turns it off?", GuardReason.TENSE),
    ],
)
def test_what_differs_is_refused_with_its_reason(one: str, other: str, reason: GuardReason) -> None:
    """One difference, one reason, whatever the vectors say."""
    assert judged(one, other) is reason


@pytest.mark.parametrize("text", ["y" * (MAX_CHARACTERS + 1), "Γεια", "¿Cómo está mi pedido y dónde?"])
def test_what_cannot_be_read_is_not_even_its_own_equal(text: str) -> None:
    """A long text, another script, another language: nobody could vouch for it."""
    assert judged(text, text) is GuardReason.LANGUAGE


def test_a_long_text_costs_nothing() -> None:
    """A megabyte of frames is not even looked at: nobody can keep the event loop busy with a prompt."""
    assert features("how much is it, when do I " * 40_000) is UNREADABLE


@given(st.text(max_size=200))
def test_a_text_may_answer_itself_if_it_can_be_read(text: str) -> None:
    """Any text at all is taken apart, the same way each time, and survives the way through Redis."""
    told = features(text)
    assert refusal(told, features(text)) is (None if told.readable else GuardReason.LANGUAGE)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Features) == told


WORDS = st.lists(
    st.sampled_from(
        ("how do I", "not", "turn", "on", "off", "the light", "5 days", "Anna", "before", "to", "`x`", "is")
    ),
    max_size=12,
).map(" ".join)


@given(WORDS, WORDS)
def test_the_guard_is_symmetric(one: str, other: str) -> None:
    """It does not matter which of two texts was stored."""
    judged(one, other)
