"""The labelled pairs of questions: which may share an answer, and which only look so. Seeded; writes the two halves.

`tuning.txt` and `test.txt` hold families of questions, one family to an intent: `=` lines ask the same, `+` lines too
in quite other words (older families do not mark them), `-` negates it, `~` asks for the opposite, `<` swaps who does it
to whom, `&` is about somebody else's, `?` asks something else, `@xx` asks it in another language. Words in braces are
filled from `*.pools.json`; a pair with another value in one of them is a near miss. The halves have no family and no
wording in common, so that nothing the guard was tuned on is in what it is measured on. A pair is {kind, same, family,
a, b}.

    python -m tests.cache.pairs.generate        writes tuning.jsonl and test.jsonl
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

FOLDER = Path(__file__).parent
HALVES = ("tuning", "test")
FILLS = 3  # times that a family with slots is filled
SAME_PAIRS = 6  # pairs of paraphrases taken of one filling
SEED = 20261124
SAME = ("paraphrase", "rewording")

_SLOT = re.compile(r"\{(\w+)\}")
_KINDS = {"-": "negation", "~": "polarity", "<": "role", "&": "possession", "?": "intent"}
_UNITS = {"duration", "size", "weight", "dose", "temperature", "time", "amount"}
_SLOT_KINDS = {
    **dict.fromkeys(
        (
            "account",
            "order",
            "policy",
            "patent",
            "port",
            "pressure",
            "area",
            "altitude",
            "seats",
            "rooms",
            "level",
            "hours",
            "ticket",
            "claim",
            "repair",
            "voucher",
            "iban",
            "http",
            "people",
            "years",
            "percent",
            "count",
        ),
        "number",
    ),
    "version": "number",
    **dict.fromkeys(_UNITS, "number"),
    **dict.fromkeys(("date", "weekday", "month", "monthday", "year"), "date"),
    **dict.fromkeys(
        (
            "command",
            "snippet",
            "message",
            "file",
            "regex",
            "sql",
            "logged",
            "cron",
            "css",
            "crash",
            "column",
            "shell",
            "value",
            "alert",
            "sed",
            "tag",
            "notice",
            "logfile",
            "awk",
            "fault",
            "flag",
            "jq",
            "vim",
            "fn_a",
            "fn_b",
            "key",
            "banner",
            "cmd_a",
            "cmd_b",
            "prompt",
            "func",
        ),
        "code",
    ),
    "option": "code",
    **dict.fromkeys(
        (
            "unit_a",
            "unit_b",
            "length_a",
            "length_b",
            "mass_a",
            "mass_b",
            "bake_a",
            "bake_b",
            "spoon_a",
            "spoon_b",
            "vat_a",
            "vat_b",
            "press_a",
            "press_b",
            "speed_a",
            "speed_b",
            "vol_a",
            "vol_b",
            "grain_a",
            "grain_b",
            "land_a",
            "land_b",
            "rope_a",
            "rope_b",
            "energy_a",
            "energy_b",
            "len_a",
            "fever",
        ),
        "unit",
    ),
}

_SCALES: dict[str, tuple[str, ...]] = {
    "duration": ("{} minutes", "{} hours", "{} days", "{} weeks", "{} months"),
    "size": ("{} GB", "{} MB", "{} TB"),
    "weight": ("{} kg", "{} pounds", "{} g"),
    "dose": ("{} mg", "{} g", "{} grams"),
    "temperature": ("{}°C", "{}°F", "{} degrees Celsius", "{} degrees Fahrenheit"),
    "time": ("{} am", "{} pm", "{}:30 am", "{}:30 pm"),
    "amount": ("${}", "€{}", "£{}", "{} dollars", "{} euros"),
}
_SAME_UNIT = (
    {"mg"},
    {"g", "grams"},
    {"°C", "degrees Celsius"},
    {"°F", "degrees Fahrenheit"},
    {"$", "dollars"},
    {"€", "euros"},
)


@dataclass(slots=True)
class Family:
    """One intent: wordings that ask it, and wordings that only look like it."""

    name: str
    same: list[str] = field(default_factory=list)
    reworded: list[str] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)

    def slots(self) -> list[str]:
        """The slots that every wording has."""
        return sorted(set.intersection(*(set(_SLOT.findall(text)) for text in self.same)))


def families(half: str) -> list[Family]:
    """The families of one half, as they are written."""
    found: list[Family] = []
    for line in (FOLDER / f"{half}.txt").read_text(encoding="utf-8").splitlines():
        mark, text = line[:1], line[1:].strip()
        if mark == "#":
            found.append(Family(text))
        elif mark == "=":
            found[-1].same.append(text)
        elif mark == "+":
            found[-1].reworded.append(text)
        elif mark == "@":
            found[-1].other.append(("language", text[2:].strip()))
        elif mark:
            found[-1].other.append((_KINDS[mark], text))
    return found


def pairs(half: str) -> list[dict[str, object]]:
    """Every pair of one half, each once, in a fixed order."""
    rng = random.Random(f"{SEED}-{half}")
    made: dict[tuple[str, str], dict[str, object]] = {}
    for family in families(half):
        for kind, a, b in _of_family(family, half, rng):
            key = (min(a, b), max(a, b))
            if a != b and key not in made:
                made[key] = {"kind": kind, "same": kind in SAME, "family": family.name, "a": a, "b": b}
    return list(made.values())


def _of_family(family: Family, half: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    slots = family.slots()
    for _ in range(FILLS if slots else 1):
        values = _values(slots, half, rng)
        same = list(combinations(family.same, 2))
        for a, b in rng.sample(same, min(SAME_PAIRS if slots else len(same), len(same))):
            yield "paraphrase", a.format(**values), b.format(**values)
        for text in family.reworded:
            for asked in family.same:
                yield "rewording", asked.format(**values), text.format(**values)
        for kind, text in family.other:
            for asked in rng.sample(family.same, 2 if slots else min(4, len(family.same))):
                yield kind, asked.format(**values), text.format(**values)
        for slot in slots:
            for kind, other in _others(slot, values, half, rng):
                first, second = rng.sample(family.same, 2)
                yield kind, first.format(**values), first.format(**{**values, **other})
                yield kind, first.format(**values), second.format(**{**values, **other})


def _others(slot: str, values: dict[str, str], half: str, rng: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """Another value for one slot; for a scaled one also the same number in another unit; two ends also swapped."""
    if slot in _SCALES:
        number, scale = values[slot + "#"], values[slot + "%"]
        yield "number", {slot: scale.format(rng.choice([n for n in _numbers(slot, half) if n != number]))}
        yield "unit", {slot: rng.choice([s for s in _SCALES[slot] if not _is_same_unit(s, scale)]).format(number)}
        return
    pool = _pool(slot, half)
    yield _SLOT_KINDS.get(slot, "entity"), {slot: rng.choice([value for value in pool if value != values[slot]])}
    end = slot.removesuffix("_a") + "_b"
    if (
        slot.endswith("_a")
        and end in values
        and slot not in ("unit_a", "length_a", "mass_a", "bake_a", "spoon_a", "vat_a")
    ):
        yield "order", {slot: values[end], end: values[slot]}


def _is_same_unit(one: str, other: str) -> bool:
    bare = {one.replace("{}", "").strip(), other.replace("{}", "").strip()}
    return len(bare) == 1 or any(bare <= group for group in _SAME_UNIT)


def _values(slots: list[str], half: str, rng: random.Random) -> dict[str, str]:
    """Values of slots; of a scaled one also its number (`slot#`) and its scale (`slot%`)."""
    values: dict[str, str] = {}
    for slot in slots:
        if slot in _SCALES:
            values[slot + "#"], values[slot + "%"] = rng.choice(_numbers(slot, half)), rng.choice(_SCALES[slot])
            values[slot] = values[slot + "%"].format(values[slot + "#"])
        else:
            values[slot] = rng.choice(_pool(slot, half))
    return values


def _numbers(slot: str, half: str) -> list[str]:
    return _pool("hour" if slot == "time" else "number", half)


def _pool(slot: str, half: str) -> list[str]:
    return _pools(half)[slot]


@cache
def _pools(half: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((FOLDER / f"{half}.pools.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Write both halves."""
    for half in HALVES:
        lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs(half)]
        (FOLDER / f"{half}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
