"""A messy support database, made from a seed, that knows what was planted in it.

Tickets are written from a small grammar, so two of them are alike only when one was made from the other. Planted are
exact copies (other case and punctuation), near copies (a few words changed), signatures, quoted mails, HTML, and
personal data with true checksums, beside things that only look personal (order numbers, private addresses).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, DateTime, Float, Integer, MetaData, Table, Text, create_engine

from adapters.data.recognizers import luhn, mod97
from tests.adapters.data.support_words import ADVICE, ASK, DOES, FEEL, FIRST, LAST, TRIED, WHEN, WHICH, WHO

NOW = datetime(2026, 11, 1, tzinfo=UTC)
TOPICS = ("billing", "delivery", "login", "network", "refund", "setup", "update", "warranty")
COLUMNS = {
    "id": "ticket_id",
    "customer": "customer_email",
    "topic": "category",
    "created_at": "created_at",
    "satisfaction": "rating",
    "resolution_seconds": "resolution_seconds",
    "question": "question",
    "answer": "answer",
}


@dataclass(slots=True)
class Ticket:
    """One row of the table."""

    ticket_id: int
    customer_email: str
    category: str
    created_at: datetime
    rating: float | None
    resolution_seconds: int
    question: str
    answer: str


@dataclass(slots=True)
class Planted:
    """What a test looks for: copies and their originals, personal data by ticket, words of signatures and quotes."""

    exact: dict[int, int] = field(default_factory=dict)
    near: dict[int, int] = field(default_factory=dict)
    personal: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    signatures: dict[int, str] = field(default_factory=dict)
    quotes: dict[int, str] = field(default_factory=dict)
    urls: dict[int, str] = field(default_factory=dict)


class SupportDatabase:
    """Makes tickets one after the other; `planted` is whole when they have all been given."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        self.rows = rows
        self.planted = Planted()
        self._random = random.Random(seed)
        self._customers = [self._email() for _ in range(max(5, rows // 6))]
        self._good: list[Ticket] = []

    def tickets(self) -> Iterator[Ticket]:
        """Give the tickets in the order of their ids."""
        for ticket_id in range(1, self.rows + 1):
            kind = self._random.random()
            if kind < 0.03 and len(self._good) > 20:
                yield self._exact_copy(ticket_id)
            elif kind < 0.07 and len(self._good) > 20:
                yield self._near_copy(ticket_id)
            else:
                yield self._fresh(ticket_id)

    def write(self, url: str, batch: int = 2_000) -> None:
        """Create the table `tickets` at a SQLAlchemy URL and fill it."""
        metadata = MetaData()
        table = Table(
            "tickets",
            metadata,
            Column("ticket_id", Integer, primary_key=True),
            Column("customer_email", Text),
            Column("category", Text),
            Column("created_at", DateTime(timezone=True)),
            Column("rating", Float),
            Column("resolution_seconds", Integer),
            Column("question", Text),
            Column("answer", Text),
        )
        engine = create_engine(url)
        metadata.create_all(engine)
        names = [column.name for column in table.columns]
        waiting: list[dict[str, object]] = []
        with engine.begin() as connection:
            for ticket in self.tickets():
                waiting.append({name: getattr(ticket, name) for name in names})
                if len(waiting) == batch:
                    connection.execute(table.insert(), waiting)
                    waiting = []
            if waiting:
                connection.execute(table.insert(), waiting)
        engine.dispose()

    def _fresh(self, ticket_id: int) -> Ticket:
        pick = self._random.choice
        question, answer = self._question(ticket_id), self._answer(ticket_id)
        ticket = Ticket(
            ticket_id=ticket_id,
            customer_email=pick(self._customers),
            category=pick(TOPICS),
            created_at=NOW - timedelta(days=self._random.randrange(1, 360 if self._random.random() < 0.9 else 900)),
            rating=pick((5, 5, 5, 5, 5, 5, 5, 4.5, 3, None)),
            resolution_seconds=self._random.randrange(60, 200_000),
            question=question,
            answer=answer if self._random.random() > 0.01 else "Ok.",
        )
        planted = self.planted
        plain = not any(
            ticket_id in found for found in (planted.personal, planted.quotes, planted.signatures, planted.urls)
        )
        recent = ticket.created_at > NOW - timedelta(days=350)
        if plain and recent and (ticket.rating or 0) > 4 and len(answer) > 10 and "<" not in question:
            self._good.append(ticket)
        return ticket

    def _exact_copy(self, ticket_id: int) -> Ticket:
        original = self._random.choice(self._good)
        self.planted.exact[ticket_id] = original.ticket_id
        question = original.question.replace(".", " .").replace("I ", "i ")
        return self._copy(ticket_id, original, question)

    def _near_copy(self, ticket_id: int) -> Ticket:
        original = self._random.choice(self._good)
        self.planted.near[ticket_id] = original.ticket_id
        words = original.question.split(" ")
        for _ in range(max(1, len(words) // 25)):
            place = self._random.randrange(len(words))
            words[place] = self._random.choice((words[place].upper(), words[place][:-1], "maybe " + words[place]))
        return self._copy(ticket_id, original, " ".join(words) + self._random.choice((" Thanks a lot", " Please", " ")))

    def _copy(self, ticket_id: int, original: Ticket, question: str) -> Ticket:
        return Ticket(
            ticket_id, self._random.choice(self._customers), original.category, NOW - timedelta(days=1), 5.0,
            original.resolution_seconds, question, original.answer,
        )  # fmt: skip

    def _question(self, ticket_id: int) -> str:
        pick = self._random.choice
        topics = [self._sentence() for _ in range(self._random.randrange(3, 7))]
        sentences = [pick(("Hello,", "Hi there,", "Good morning,", "Dear team,", "")), *topics]
        if self._random.random() < 0.5:
            sentences.append(pick(FEEL))
        if self._random.random() < 0.3:
            sentences.append(self._decoy())
        if self._random.random() < 0.25:
            sentences += self._personal(ticket_id)
        if self._random.random() < 0.1:
            self.planted.urls[ticket_id] = f"https://shop-{self._random.randrange(10**6)}.example.com/item?id=7"
            sentences.append(f"See {self.planted.urls[ticket_id]} for the product.")
        text = " ".join(sentence for sentence in [*sentences, f"{pick(ASK)}?"] if sentence)
        return self._wrapped(ticket_id, text)

    def _wrapped(self, ticket_id: int, text: str) -> str:
        """Put what mail programs add around a text."""
        html = self._random.random() < 0.1
        if self._random.random() < 0.3:
            name = f"{self._random.choice(FIRST)} {self._random.choice(LAST)}"
            firm = f"{self._random.choice(LAST)} und {self._random.choice(LAST)} Logistics"
            self.planted.signatures[ticket_id] = firm
            opening = self._random.choice(("Best regards,", "Kind regards", "Cheers,", "-- ", "Thanks,"))
            text += f"\n\n{opening}\n{name}\n{firm}\nTel. {self._phone()}"
        if self._random.random() < 0.15:
            old = f"{self._sentence()} {self._random.randrange(10**9)}"
            self.planted.quotes[ticket_id] = old
            text += f"\n\nOn Mon, 2 Mar 2026 at 10:14, Support <help@shop.example> wrote:\n> {old}\n> Your team"
        if html and "> " not in text:
            text = "<div>" + text.replace("\n", "<br>\n") + "</div><p>&nbsp;</p>"
        return text

    def _answer(self, ticket_id: int) -> str:
        steps = self._random.sample(ADVICE, 3)
        which = f"{self._random.choice(WHICH)} {self._random.choice(WHO)}"
        return f"Thank you for writing. For your {which}, please {steps[0]}, then {steps[1]}. If it stays, {steps[2]}."

    def _sentence(self) -> str:
        pick = self._random.choice
        form = pick(
            (
                "My {which} {who} {does} {when}, and the {who2} {does2} too.",
                "I {tried} and {tried2}, but the {which} {who} still {does}.",
                "The {who} next to the {which} {who2} {does} {when}.",
                "Yesterday I {tried}; now it {does} {when} and {does2} {when2}.",
                "Our {which} {who} {does} for {count} minutes {when}.",
            )
        )
        return form.format(
            which=pick(WHICH), who=pick(WHO), who2=pick(WHO), does=pick(DOES), does2=pick(DOES), when=pick(WHEN),
            when2=pick(WHEN), tried=pick(TRIED), tried2=pick(TRIED), count=self._random.randrange(2, 90),
        )  # fmt: skip

    def _decoy(self) -> str:
        """Something that only looks personal."""
        number = self._random.randrange
        return self._random.choice(
            (
                f"My order number is {number(10**7, 10**8)}.",
                f"The device sits at 192.168.{number(256)}.{number(1, 255)}.",
                f"The display shows error 0x{number(2**32):08X}.",
                f"I paid {number(10, 900)}.{number(10, 99)} on {number(1, 28)}.03.2026 at {number(10, 23)}:30.",
                f"Firmware {number(1, 9)}.{number(20)}.{number(300)} is installed.",
            )
        )

    def _personal(self, ticket_id: int) -> list[str]:
        kinds = {
            "EMAIL": (self._email, "Please write to {} instead."),
            "PHONE": (self._phone, "You can reach me at {} today."),
            "CARD": (self._card, "I paid with card {} in the shop."),
            "IBAN": (self._iban, "Send the money to {} please."),
        }
        chosen = self._random.sample(sorted(kinds), self._random.randrange(1, 3))
        sentences = []
        for kind in chosen:
            make, words = kinds[kind]
            value = make()
            self.planted.personal.setdefault(ticket_id, []).append((kind, value))
            sentences.append(words.format(value))
        return sentences

    def _email(self) -> str:
        first, last = self._random.choice(FIRST).lower(), self._random.choice(LAST).lower()
        return f"{first}.{last}{self._random.randrange(10**6)}@{self._random.choice(LAST).lower()}.example.com"

    def _phone(self) -> str:
        digits = f"{self._random.randrange(10**4):04}"
        return self._random.choice(
            (f"+1 415 55{self._random.randrange(10)} {digits}", f"(212) 55{self._random.randrange(10)}-{digits}",
             f"+49 30 9018 {digits}", f"+44 20 7946 {digits}")
        )  # fmt: skip

    def _card(self) -> str:
        body = self._random.choice(("4", "51", "37", "6011"))
        length = 15 if body == "37" else 16
        body += "".join(str(self._random.randrange(10)) for _ in range(length - len(body) - 1))
        digits = next(body + check for check in "0123456789" if luhn(body + check))
        return self._random.choice(
            (digits, " ".join(re.findall(".{1,4}", digits)), "-".join(re.findall(".{1,4}", digits)))
        )

    def _iban(self) -> str:
        account = "".join(str(self._random.randrange(10)) for _ in range(18))
        iban = next(f"DE{check:02}{account}" for check in range(2, 99) if mod97(f"DE{check:02}{account}"))
        return self._random.choice((iban, " ".join(re.findall(".{1,4}", iban))))
