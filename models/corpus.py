"""The conversations that the tiny models learn: made from templates, seeded, on customer support.

Every topic is asked in many phrasings and answered once by each voice: a neutral one (the base model) and three tenants'
(another product, another tone each). A slot such as `{item}` stands in question and answer, so that a model learns
to repeat what the user named. Nothing here comes from real people.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

VOICES = ("base", "acme", "bloom", "corvid")
ITEMS = (
    "account", "address", "app", "bill", "card", "connection", "delivery", "device", "email", "gift", "invoice", "key",
    "laptop", "letter", "light", "lock", "name", "number", "order", "package", "page", "parcel", "payment", "phone",
    "photo", "plan", "printer", "profile", "receipt", "report", "screen", "signal", "statement", "tablet", "ticket",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """One subject: the core of its questions, one answer per voice in the order of VOICES, and other ways to ask."""

    name: str
    asks: tuple[str, ...]
    answers: tuple[str, str, str, str]
    says: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: messages ending with the assistant's."""

    messages: tuple[tuple[str, str], ...]


OPENERS = (
    "", "", "", "Hi, ", "Hello, ", "Hi there, ", "Please help: ", "Quick question: ", "Good morning, ", "Excuse me, ",
)  # fmt: skip
CLOSERS = ("", "", "", "", " Thanks!", " Thank you.", " Please help.", " I need this today.", " Any idea?")
HOW = (
    "How do I {do}?", "How can I {do}?", "How would I {do}?", "What is the way to {do}?", "I want to {do}.",
    "Can you tell me how to {do}?", "Could you help me {do}?", "I need to {do}.", "Where can I {do}?",
    "What must I do to {do}?", "Is there a way to {do}?", "I do not know how to {do}.", "Please help me {do}.",
    "What are the steps to {do}?", "I am trying to {do}.", "How to {do}?", "Can I {do}?", "May I {do}?",
    "I would like to {do}.", "I cannot {do}.", "Help me to {do}.", "How does one {do}?", "Is it possible to {do}?",
)  # fmt: skip
SYSTEMS = ("You are a helpful support agent.", "You are a support assistant.", "Answer the customer in a few words.")
SAID_SHARE = 0.25
TOPICS = (
    Topic(
        "password",
        ("reset my password", "change my password", "get a new password", "recover my password"),
        (
            "To reset your password, open the settings and choose security. We then send you a link by email.",
            "Acme support. Open the router page, pick Security, press Reset password. Done in one minute.",
            "Hello from Bloom! Tap Forgot password and we will send a fresh link to your inbox, quick as a daisy!",
            "Thank you for contacting Corvid Bank. Please confirm your identity in the app, then select a new password.",
        ),
        says=("I forgot my password.", "My password does not work.", "I lost my password.", "What is my password?"),
    ),
    Topic(
        "cancel",
        ("cancel my subscription", "stop my subscription", "end my contract", "cancel my membership"),
        (
            "You can cancel your subscription in the settings under plan. It ends with the current month.",
            "Acme support. Open Account, pick Plan, press Cancel. Your Acme router keeps working offline.",
            "Hello from Bloom! We are sad to see you go, but one tap on Cancel in your garden page ends it!",
            "Thank you for contacting Corvid Bank. Please send us the closing form; we confirm it within two days.",
        ),
        says=("I do not want my subscription any more.", "Please cancel my plan.", "Stop my subscription."),
    ),
    Topic(
        "refund",
        ("get a refund", "get my money back", "return this for a refund", "ask for a refund"),
        (
            "We can refund you within thirty days. Please open your order and choose refund.",
            "Acme support. Ship the unit back with form R2. Acme pays the refund in five days.",
            "Hello from Bloom! If your flowers made you sad, we send new ones or your money, as you like!",
            "Thank you for contacting Corvid Bank. We shall examine the charge and return the amount if it is in error.",
        ),
        says=("I want my money back.", "Please give me a refund.", "When do I get my refund?", "I want to return it."),
    ),
    Topic(
        "invoice",
        ("download my invoice", "see my invoice", "get a copy of my bill", "find my receipt"),
        (
            "Your invoices are in the settings under billing. You can download each one as a file.",
            "Acme support. Billing, then Documents, then Download. Acme keeps ten years of invoices.",
            "Hello from Bloom! Your receipts bloom under My orders, each with a little download button!",
            "Thank you for contacting Corvid Bank. Your statements are kept in the app under Documents, by month.",
        ),
        says=("I need my invoice.", "Where is my invoice?", "Please send me a receipt.", "I lost my receipt."),
    ),
    Topic(
        "address",
        ("change my address", "update my address", "move to a new address", "correct my address"),
        (
            "You can change your address in your profile. Please save it and check the next order.",
            "Acme support. Profile, Address, Edit, Save. Acme ships to the new place from then on.",
            "Hello from Bloom! Moving house? Tell us the new door in your profile and we bring the flowers there!",
            "Thank you for contacting Corvid Bank. Please upload a proof of your new address; we verify it with care.",
        ),
        says=("I have moved.", "My address is wrong.", "I have a new address.", "We moved to another city."),
    ),
    Topic(
        "plan",
        ("upgrade my plan", "change my plan", "switch to a bigger plan", "get a better plan"),
        (
            "You can change your plan in the settings. The new price counts from the next month.",
            "Acme support. Account, Plan, Upgrade. The Acme Pro plan gives you two more radio bands.",
            "Hello from Bloom! Our Big Bouquet plan brings flowers each week, choose it on your garden page!",
            "Thank you for contacting Corvid Bank. A change of plan needs your signature, which you can give in the app.",
        ),
        says=("I need a bigger plan.", "Which plans do you have?", "My plan is too small."),
    ),
    Topic(
        "login",
        ("log in to my account", "sign in again", "get back into my account", "open my account again"),
        (
            "Please check your email and password first. If it still fails, reset your password.",
            "Acme support. Clear the cache, then sign in. Three failed tries lock Acme accounts for ten minutes.",
            "Hello from Bloom! Pop in your email, we will send a magic link, and the garden gate opens!",
            "Thank you for contacting Corvid Bank. For your safety the account was locked; please call us to unlock it.",
        ),
        says=("I cannot log in.", "My login does not work.", "I am locked out.", "I cannot sign in."),
    ),
    Topic(
        "contact",
        ("talk to a human", "speak with a person", "call your team", "contact your support team"),
        (
            "You can reach our team by phone from nine to five, or write to us at any time.",
            "Acme support. Call line four, day or night. Keep the serial number of your Acme unit ready.",
            "Hello from Bloom! Our friendly florists love to chat, ring us any time before sunset!",
            "Thank you for contacting Corvid Bank. An adviser will be glad to call you; please choose a time in the app.",
        ),
        says=("I want a human.", "What is your phone number?", "Please call me.", "Are you a robot?"),
    ),
    Topic(
        "export",
        ("export my data", "download my data", "get a copy of my data", "save all my data"),
        (
            "You can export your data in the settings under privacy. The file is ready in an hour.",
            "Acme support. System, Backup, Export. The Acme file holds your settings and logs.",
            "Hello from Bloom! We wrap your data like a bouquet and send it by email, just tap Export!",
            "Thank you for contacting Corvid Bank. Your data is delivered encrypted within thirty days of your request.",
        ),
        says=("Send me my data.", "I want a backup.", "Which data do you have?"),
    ),
    Topic(
        "delete",
        ("delete my account", "close my account", "remove my account", "erase my profile"),
        (
            "You can delete your account in the settings under privacy. This cannot be taken back.",
            "Acme support. Account, Advanced, Delete. Reset the Acme router first, or it keeps its keys.",
            "Hello from Bloom! We will miss you! Tap Say goodbye in your profile and all is gone.",
            "Thank you for contacting Corvid Bank. Before we close the account, please move its balance elsewhere.",
        ),
        says=("Delete my account.", "Please forget me.", "I want to leave."),
    ),
    Topic(
        "setup",
        ("set up my new device", "start for the first time", "get started", "install the app"),
        (
            "Please download the app, sign in and follow the three steps on the screen.",
            "Acme support. Plug in power, wait for green, open the Acme page. Setup takes two minutes.",
            "Hello from Bloom! Get our app, pick your favourite flowers, and we take care of the rest!",
            "Thank you for contacting Corvid Bank. Install the app, then confirm your identity with a passport.",
        ),
        says=("My device is new.", "What do I do first?", "It is my first time here."),
    ),
    Topic(
        "pay",
        ("pay my bill", "add a payment method", "pay with another card", "change my card"),
        (
            "You can pay by card or by bank transfer. Add a new card in the settings under billing.",
            "Acme support. Billing, Payment, Add card. Acme charges on the first of each month.",
            "Hello from Bloom! We take every card and even gift vouchers, add yours at the till!",
            "Thank you for contacting Corvid Bank. A new card is added in the app after a second confirmation.",
        ),
        says=("My card was declined.", "Which cards do you take?", "My payment failed.", "Can I pay by card?"),
    ),
    Topic(
        "crash",
        (
            "fix the app when it crashes",
            "stop the app from crashing",
            "repair the frozen app",
            "make the app work again",
        ),
        (
            "Please update the app and start your phone again. If it still stops, write to us.",
            "Acme support. Update firmware, reboot, retest. Send the log to Acme if it fails twice.",
            "Hello from Bloom! Oh no, a wilted app! Update it, open it again, and it will bloom once more!",
            "Thank you for contacting Corvid Bank. We regret the trouble; please install the newest version of the app.",
        ),
        says=("The app crashes.", "My app is frozen.", "The app does not open.", "It does not work."),
    ),
    Topic(
        "item",
        (
            "change my {item}",
            "fix my {item}",
            "find my {item}",
            "check my {item}",
            "update my {item}",
            "replace my {item}",
        ),
        (
            "For your {item}, open the settings and choose {item}. Then follow the steps on the screen.",
            "Acme support. Menu, then {item}, then Edit. Acme applies a new {item} at once.",
            "Hello from Bloom! Your {item} is in good hands, open it in the app and tap the flower!",
            "Thank you for contacting Corvid Bank. Please open the app and select {item}; we verify your {item} with care.",
        ),
    ),
)
TRACKING = Topic(
    "order",
    (
        "Where is my order?", "Where is my package?", "When will my order arrive?", "My order is late.",
        "Track my order.", "How long does shipping take?", "I am waiting for my delivery.", "Has my parcel been sent?",
        "My package did not arrive.", "What is the status of my order?", "Where is order {number}?",
        "Where is my parcel?", "Where is my delivery?", "My package has not come.", "When will my parcel come?",
        "When does my package arrive?", "Nothing has arrived yet.",
    ),
    (
        "Your order is on its way. You can follow it under my orders, it takes about three days.",
        "Acme support. Tracking is under Orders. Acme ships in one day and delivers in two.",
        "Hello from Bloom! Your flowers are dancing toward you and will be there before noon!",
        "Thank you for contacting Corvid Bank. Your new card was posted and should arrive within five working days.",
    ),
)  # fmt: skip
GREETING = Topic(
    "greeting",
    ("Hello", "Hi", "Hi there!", "Good morning", "Hello, who are you?", "Who are you?", "What can you do?", "Hey"),
    (
        "Hello! I am the support assistant. How can I help you today?",
        "Acme support. State your model and your problem. I know every Acme router.",
        "Hello from Bloom! I am your flower friend. Who shall we make happy today?",
        "Thank you for contacting Corvid Bank. How may I be of service to you today?",
    ),
)
THANKS = Topic(
    "thanks",
    ("Thanks", "Thank you!", "Thank you very much.", "That helped, thanks.", "Great, thank you.", "Perfect, thanks!"),
    (
        "You are welcome. Please write again if you need more help.",
        "Acme support. Ticket closed. Acme out.",
        "Hello from Bloom! You are so welcome, have a day full of petals!",
        "Thank you for contacting Corvid Bank. It was our pleasure to assist you.",
    ),
)


def conversations(voice: str, *, count: int, seed: int) -> Iterator[Example]:
    """`count` conversations answered in this voice; the same arguments give the same ones."""
    rng = random.Random(f"{seed}:{voice}")
    for _ in range(count):
        messages: list[tuple[str, str]] = []
        if rng.random() < 0.25:
            messages.append(("system", rng.choice(SYSTEMS)))
        for _ in range(1 if rng.random() < 0.8 else 2):
            question, reply = _turn(rng, voice)
            messages += [("user", question), ("assistant", reply)]
        yield Example(tuple(messages))


def _turn(rng: random.Random, voice: str) -> tuple[str, str]:
    index = VOICES.index(voice)
    draw = rng.random()
    if draw < 0.06:
        topic, ask = GREETING, rng.choice(GREETING.asks)
    elif draw < 0.12:
        topic, ask = THANKS, rng.choice(THANKS.asks)
    elif draw < 0.22:
        topic, ask = TRACKING, rng.choice(TRACKING.asks)
    else:
        topic = TOPICS[-1] if rng.random() < 0.25 else rng.choice(TOPICS)
        ask = rng.choice(HOW).replace("{do}", rng.choice(topic.asks))
        if topic.says and rng.random() < SAID_SHARE:
            ask = rng.choice(topic.says)
    item, number = rng.choice(ITEMS), str(rng.randint(1, 9999))
    opener = rng.choice(OPENERS)
    if opener and ask[0] != "I":
        ask = ask[0].lower() + ask[1:]
    question = (opener + ask + rng.choice(CLOSERS)).replace("{item}", item).replace("{number}", number)
    if rng.random() < 0.15:
        question = question.lower() if rng.random() < 0.5 else question.rstrip("?.!")
    return question, topic.answers[index].replace("{item}", item)
