"""The labelled pairs of questions: which may share an answer, and which only look so. Seeded; writes the two halves.

`tuning.txt` and `test.txt` hold families of questions, one family to an intent: `=` lines ask the same, `-` negates it,
`~` asks for the opposite, `?` asks something else, `@xx` asks it in another language. Words in braces are filled from
pools; a pair with another value in one of them is a near miss. The halves have no family, wording or name in common,
so that nothing the guard was tuned on is in what it is measured on. A pair is {kind, same, family, a, b}.

    python -m tests.cache.pairs.generate        writes tuning.jsonl and test.jsonl
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

FOLDER = Path(__file__).parent
HALVES = ("tuning", "test")
FILLS = 3  # times that a family with slots is filled
SAME_PAIRS = 6  # pairs of paraphrases taken of one filling
SEED = 20261124

_SLOT = re.compile(r"\{(\w+)\}")
_KINDS = {"-": "negation", "~": "polarity", "?": "intent", "@": "language"}
_UNITS = {"duration", "size", "weight", "dose", "temperature", "time", "amount"}
_SLOT_KINDS = {
    **dict.fromkeys(
        (
            "account",
            "order",
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
    **dict.fromkeys(("date", "weekday", "month"), "date"),
    **dict.fromkeys(("command", "snippet", "message", "file"), "code"),
    "option": "code",
    **dict.fromkeys(("unit_a", "unit_b", "length_a", "length_b", "mass_a", "mass_b", "spoon_a", "spoon_b"), "unit"),
}

_TUNING: dict[str, str] = {
    "account": "1234|1235|1243|8801|8810|77120",
    "order": "48213|48231|A-99120|A-99121|5530017|5530071",
    "card": "Visa|Mastercard|Maestro|Discover",
    "city": "Berlin|Munich|Lisbon|Oslo|Toronto|Nairobi|Madrid|Vienna|Chicago|Sydney|Warsaw|Lima",
    "city_a": "Berlin|Munich|Lisbon|Oslo|Madrid|Vienna|Warsaw|Porto",
    "city_b": "Toronto|Nairobi|Boston|Tokyo|Chicago|Sydney|Lima|Athens",
    "bank_a": "Chase|Barclays|Revolut",
    "bank_b": "Wise|Santander|Monzo",
    "weekday": "Monday|Tuesday|Thursday|Friday|Wednesday|Saturday|Sunday",
    "date": (
        "May 1st|May 2nd|December 24|December 26|January 6|3 October|March 3rd|March 30th"
        "|April 12|April 21|August 9|19 September|June 7|June 17|October 10|October 11|7 February"
        "|27 February|April 4|April 14|November 20|November 21|8 August|18 August"
    ),
    "month": "January|February|June|July|November|March|April|August|September|December|May|October",
    "people": "2|4|5|12|six|eight|3|7|10|15|four|nine|6|16|11|14|seven|ten|9|13|17|20|eleven|three",
    "airline": "Lufthansa|KLM|Qantas|Delta",
    "drug": "ibuprofen|aspirin|metformin|antibiotics",
    "product": (
        "Atlas desk lamp|Nimbus headset|Nimbus keyboard|Orion X2|Orion X3|Pixel 8|Borealis chair"
        "|Borealis table|Tempo bike|Vega 12|Vega 14|Solaris oven"
    ),
    "product_a": "Orion X2|Nimbus headset|Pixel 8|Vega 12|Tempo bike|Kestrel",
    "product_b": "Atlas 5|Zenbook|Galaxy S23|Falcon 7|Merlin|ThinkPad",
    "command": (
        "git reset --hard HEAD~1|git reset --soft HEAD~1|rm -rf build|rm -rf dist|docker prune"
        "|git rebase main|git merge main|chmod 644 a.sh|chmod 755 a.sh|npm ci|npm install|ls -la"
        "|ls -lt|chown -R|chgrp -R|tar xf a.tar|tar cf a.tar|git stash|git stash pop|ps aux|df -h"
        "|curl -X POST|curl -X PUT|grep -i|grep -v|find . -name|pip freeze|pip list|top -b"
    ),
    "http": "404|403|502|503|401|1|2|127|137|139|400|409|422|429|500|504|301|302|413|415|505",
    "snippet": (
        "len([1, 2])|len([1, 2, 3])|max(3, 5)|min(3, 5)|a and b|a or b|x[1:]|x[:1]|sum([1, 2])"
        "|sum([2, 2])|2 ** 3|3 ** 2|not a|a == b|a != b|s.upper()|s.lower()|1 / 2|1 // 2|[1, 2]"
        "|(1, 2)|x is None|x == None|'a' * 3|{1: 2}|print(1 + 1)|print(1 - 1)|print('a', 'b')"
        "|print(not x)|x and y|x or y|list('ab')|set('ab')"
    ),
    "message": (
        "disk is full|disk is failing|permission denied|connection refused|connection reset"
        "|unused variable|unused import|deprecated call|missing return|missing semicolon"
        "|token expired|token missing|queue full|queue empty|host unreachable|low memory"
        "|low battery|update available|update failed|certificate expired"
    ),
    "room": "kitchen|bedroom|garage|hallway|office|nursery|attic|study|cellar|balcony|pantry|workshop",
    "country": "France|Kenya|Peru|Japan|Norway|Brazil|Egypt|Poland|Vietnam|Canada",
    "book": "Dracula|Emma|Ulysses|Dune|Middlemarch",
    "file": (
        "report.pdf|report.docx|notes.txt|data.csv|data.json|settings.toml|settings.yaml|hosts.ini|main.conf|user.json"
    ),
    "software": (
        "Python|Ubuntu|Node|Django|Debian|Java|Postgres|Windows|Firefox|Blender|Drupal|Gimp|Linux"
        "|Android|Inkscape|Solaris"
    ),
    "version": ("3.11|3.12|20.04|22.04|18|4.2|11|12|17|21|9.6|8.1|10|102|115|2.8|2.9|3.6|5.4|5.15|13|14|1.2|1.3"),
    "plan": (
        "Pro|Team|Enterprise|Starter|Basic|Premium|Family|Business|Flex|Smart|Green|Solo|Deluxe|Comfort|Budget|Royal"
    ),
    "person": (
        "Anna|Peter|Mr. Jones|Ms. Jones|Carlos|Laura|Mehmet|Mrs. Smith|Mr. Smith|Ivan|Olga|Tom"
        "|Dr. Lee|Mrs. Lee|Bruno|Greta|Samuel|Mr. Brown|Mrs. Brown|Yusuf"
    ),
    "person_a": "Anna|Peter|Carlos|Laura|Mehmet|Ivan|Olga|Tom|Bruno|Greta|Samuel|Yusuf",
    "person_b": "Maria|John|Fatima|Chloe|Ahmed|Sofia|Nadia|Victor|Hana|Irina|Oscar|Leila",
    "years": "2|5|10|15|twenty|1|3|4|6|eight|7|12|25|30|nine|8|11|18|six",
    "company": "Siemens|Nestle|Toyota|Shell|Nokia|Pfizer|Honda|Adidas",
    "percent": "5 %|15 %|20 %|19 %|10 %|12 %|18 %|25 %|30 %|35 %|70 %|75 %|40 %|45 %|80 %|85 %",
    "unit_a": "meters|feet|inches|yards|grams|ounces|milliliters|pounds",
    "unit_b": "miles|kilometers|cups|tablespoons",
    "count": "3|5|12|20|2|4|6|9|7|8|11|14|13",
    "ticket": "7731|7713|T-2044|T-2045|900312|900321",
    "iban": ("DE89370400440532013000|DE89370400440532013001|GB29NWBK60161331926819|GB29NWBK60161331926818"),
    "region_a": "Frankfurt|Ohio|Mumbai",
    "region_b": "Ireland|Oregon|Singapore",
    "operator": "Amtrak|Renfe|Eurostar|Trenitalia|Thalys|Ouigo|Avanti|Flixtrain",
    "vaccine": "measles|tetanus|flu|polio",
    "painting": "Guernica|The Scream|Water Lilies|Las Meninas|The Night Watch",
    "claim": "C-5519|C-5591|C-70012|C-70021|220458|220485",
    "place": "Heathrow|Montmartre|Alexanderplatz|Soho|Gatwick",
    "stop_a": "Trafalgar Square|Hyde Park|Camden",
    "stop_b": "Covent Garden|Brixton|Greenwich",
    "language_a": "Korean|Swedish|Hindi",
    "language_b": "Turkish|Greek|Czech",
    "activity": "swimming|running|yoga|climbing",
    "thing": "Aurora tent|Aurora lamp|Lynx 3|Lynx 4|Cobalt speaker|Zephyr fan",
    "car_a": "Corolla|Golf|Octavia",
    "car_b": "Civic|Focus|Leon",
    "land": "Finland|Austria|Belgium|Chile|Ghana",
    "opera": "Carmen|Tosca|Fidelio|Turandot|Aida",
    "option": ("max_retries|max_delay|log_level|log_format|use_tls|CACHE_SIZE|CACHE_TTL|DB_HOST|DB_PORT|DEBUG_MODE"),
    "firm": "Novartis|Bosch|Lego|Ikea|Ferrari|Sony|Philips|Nestor",
    "length_a": "centimeters|millimeters|inches",
    "length_b": "meters|yards",
    "repair": "R-3301|R-3310|R-90155|R-90151|61844|61884",
    "museum": "Louvre|Prado|Rijksmuseum|Uffizi",
    "port_a": "Dover|Naples|Kiel",
    "port_b": "Calais|Palermo|Gothenburg",
    "host_a": "alpha|bravo|charlie",
    "host_b": "delta|echo|foxtrot",
    "carrier": "Emirates|Iberia|Finnair|Amtrak",
    "treatment": "surgery|massage|tattooing|acupuncture",
    "item": "Pluto drill|Pluto saw|Ranger 5|Ranger 6|Kobold vacuum|Ivory kettle",
    "phone_a": "Xperia|Moto|Redmi",
    "phone_b": "Nord|Zenfone|Poco",
    "door": "garage door|front gate|skylight|trunk",
    "nation": "Iceland|Ireland|Mexico|Senegal|Latvia",
    "film": "Casablanca|Alien|Vertigo|Amadeus|Gravity",
    "mass_a": "grams|ounces|pounds",
    "mass_b": "kilograms|stones",
}
_TEST: dict[str, str] = {
    "voucher": "V-7102|V-7120|V-33018|V-33081|905517|905571",
    "salon": "Figaro|Scissors|Barberia|Topcut",
    "airport_a": "Zurich|Dubai|Helsinki",
    "airport_b": "Denver|Seoul|Bogota",
    "coin_a": "pesos|rubles|zloty",
    "coin_b": "krona|dirham|forint",
    "weekday": "Wednesday|Saturday|Sunday|Friday",
    "date": "July 5|July 25|March 12|March 13|1 September|11 September",
    "month": "September|February|June|July",
    "people": "8|18|21|22|five|twelve",
    "line": "Viking|Stena|Corsica|Tallink",
    "sport": "tennis|rowing|boxing|skiing",
    "gadget": "Mistral hairdryer|Mistral kettle|Nova 7|Nova 9|Titan mixer|Gecko printer",
    "hero_a": "Achilles|Thor|Athena",
    "hero_b": "Hector|Loki|Medusa",
    "area": "den|loft|lounge|basement",
    "coach": "Milan|Rosa|Mr. Green|Mrs. Green|Kenji",
    "command": "systemctl stop nginx|systemctl start nginx|crontab -e|crontab -r|zip -r|make clean|make all",
    "http": "202|204|418|451|508|511",
    "snippet": "int('x')|int('1')|[][0]|{}['a']|1 / 0|0 / 1|open('a')|x.pop()",
    "message": "sync paused|sync failed|no signal|signal lost|trial ended",
    "realm": "Bolivia|Nepal|Romania|Zambia|Laos",
    "invention": "the telephone|the zipper|dynamite|the barometer|the microscope",
    "option": "--dry-run|--force|--verbose|--quiet|--recursive",
    "library": "Numpy|Pandas|Flask|Celery",
    "version": "1.26|2.1|2.2|3.0|5.3|0.9",
    "tier": "Silver|Gold|Bronze|Platinum",
    "years": "4|9|14|16|seven",
    "brand": "Renault|Canon|Mango|Siemens",
    "percent": "3 %|8 %|22 %|33 %",
    "spoon_a": "milliliters|grams|ounces",
    "spoon_b": "teaspoons|pints",
    "count": "4|5|10|16",
}
_NUMBERS = {
    "tuning": ("2", "3", "5", "7", "15", "30", "45", "350", "500", "1,500"),
    "test": ("4", "6", "18", "25", "700", "3,200"),
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
                made[key] = {"kind": kind, "same": kind == "paraphrase", "family": family.name, "a": a, "b": b}
    return list(made.values())


def _of_family(family: Family, half: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    slots = family.slots()
    for _ in range(FILLS if slots else 1):
        values = _values(slots, half, rng)
        same = list(combinations(family.same, 2))
        for a, b in rng.sample(same, min(SAME_PAIRS if slots else len(same), len(same))):
            yield "paraphrase", a.format(**values), b.format(**values)
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
    if slot.endswith("_a") and slot not in ("unit_a", "length_a", "mass_a", "spoon_a"):
        end = slot.removesuffix("a") + "b"
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


def _numbers(slot: str, half: str) -> tuple[str, ...]:
    return ("6", "7", "9", "11") if slot == "time" else _NUMBERS[half]


def _pool(slot: str, half: str) -> list[str]:
    return (_TUNING if half == "tuning" else _TEST)[slot].split("|")


def main() -> None:
    """Write both halves."""
    for half in HALVES:
        lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs(half)]
        (FOLDER / f"{half}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
