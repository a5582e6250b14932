"""The English words that the content guard knows: data only.

Words are compared as stems, and stems of one group of synonyms are one word. An axis is a pair of opposites: it names
the reason when a word in which two texts differ is one of its ends.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One pair of opposites, each end with its words."""

    name: str
    one: frozenset[str]
    other: frozenset[str]


AXES = tuple(
    Axis(name, frozenset(one.split()), frozenset(other.split()))
    for name, one, other in (
        ("power", "enable on", "disable off"),
        ("able", "able possible", "unable impossible"),
        ("direction", "inbound incoming import", "outbound outgoing export"),
        ("inside", "in inside within", "out outside"),
        ("height", "above up over", "below under down beneath"),
        ("time", "before prior", "after afterwards"),
        ("bound", "until till", "since from"),
        ("early", "early earlier soon", "late later overdue"),
        ("amount", "increase raise grow gain", "decrease reduce lower shrink cut"),
        ("more", "more higher greater larger bigger longer", "less fewer smaller lesser shorter"),
        ("most", "most highest greatest largest biggest maximum", "least fewest smallest lowest minimum"),
        ("size", "big large huge high long tall", "small tiny little low short"),
        ("keep", "add insert include create attach keep restore save", "delete remove exclude detach drop lose"),
        ("open", "open reopen", "close shut"),
        ("lock", "lock block freeze", "unlock unblock unfreeze"),
        ("run", "start begin launch resume continue renew", "stop end pause cancel quit suspend"),
        ("trade", "buy", "sell"),
        ("permit", "allow permit grant approve accept", "block deny forbid revoke reject decline ban refuse prevent"),
        ("transfer", "upload send push deposit give", "download receive pull withdraw take"),
        ("code", "encrypt encode compress", "decrypt decode decompress"),
        ("install", "install", "uninstall"),
        ("subscribe", "subscribe follow register login", "unsubscribe unfollow unregister logout"),
        ("mute", "unmute", "mute"),
        ("show", "show unhide", "hide"),
        ("join", "join connect enter", "leave disconnect exit"),
        ("grade", "upgrade", "downgrade"),
        ("win", "win profit", "lose loss"),
        ("lend", "lend", "borrow"),
        ("debit", "credit", "debit charge"),
        ("good", "good better best pros advantage benefit", "bad worse worst cons disadvantage drawback"),
        ("right", "valid correct right", "invalid incorrect wrong"),
        ("active", "active", "inactive"),
        ("public", "public", "private"),
        ("internal", "internal internally", "external externally"),
        ("safe", "safe secure legal healthy", "unsafe insecure illegal dangerous harmful"),
        ("first", "first oldest", "last latest newest final"),
        ("new", "new", "old previous former"),
        ("next", "next upcoming", "past previous last"),
        ("fast", "fast faster fastest", "slow slower slowest"),
        ("temperature", "hot warm heat preheat", "cold cool freeze"),
        ("full", "full", "empty"),
        ("loud", "loud", "quiet"),
        ("all", "all every each everyone whole both", "some single only nobody"),
        ("cost", "free", "paid"),
        ("cheap", "cheap cheaper cheapest", "expensive pricier"),
        ("side", "left", "right"),
        ("vertical", "horizontal horizontally", "vertical vertically"),
        ("order", "ascending", "descending"),
        ("do", "undo revert", "redo"),
        ("read", "read", "write"),
        ("move", "arrive come", "leave go"),
        ("success", "success succeed pass", "fail failure error"),
        ("permanent", "permanent permanently", "temporary temporarily"),
        ("automatic", "automatic automatically", "manual manually"),
        ("local", "online remote", "offline local"),
        ("part", "with", "without"),
        ("stock", "available", "unavailable sold"),
        ("assemble", "assemble", "disassemble"),
    )
)  # fmt: skip


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NEGATIONS = _set(
    "not no never none nothing nobody nowhere neither nor without cannot cant dont doesnt didnt isnt arent wasnt "
    "werent wont wouldnt shouldnt couldnt hasnt havent hadnt aint mustnt neednt except unless hardly barely avoid "
    "avoiding instead lack lacks"
)

MONTHS = {
    "january": 1, "jan": 1, "february": 2, "feb": 2, "march": 3, "mar": 3, "april": 4, "apr": 4, "may": 5, "june": 6,
    "jun": 6, "july": 7, "jul": 7, "august": 8, "aug": 8, "september": 9, "sep": 9, "sept": 9, "october": 10,
    "oct": 10, "november": 11, "nov": 11, "december": 12, "dec": 12,
}  # fmt: skip
WEEKDAYS = {
    "monday": 1, "mon": 1, "tuesday": 2, "tue": 2, "tues": 2, "wednesday": 3, "wed": 3, "thursday": 4, "thu": 4,
    "thur": 4, "thurs": 4, "friday": 5, "fri": 5, "saturday": 6, "sat": 6, "sunday": 7, "sun": 7,
}  # fmt: skip
CALENDAR_ONLY_CAPITALISED = frozenset({"may", "march", "mar", "sun", "sat", "mon", "wed", "jan", "dec"})
MOMENTS = _set(
    "today tomorrow yesterday tonight morning noon afternoon evening night midnight midday weekday weekdays "
    "weekend weekends annual quarterly hourly spring summer autumn winter "
    "christmas easter thanksgiving ago"
)

NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1e6", "billion": "1e9", "dozen": "12", "once": "1 times",
    "twice": "2 times", "thrice": "3 times", "double": "2 times", "triple": "3 times", "half": "1/2",
    "quarter": "1/4", "second": "2nd", "third": "3rd", "single": "1", "fourth": "4th", "fifth": "5th", "1st": "first",
}  # fmt: skip

_UNIT_WORDS = {
    "%": "percent pct", "usd": "dollar dollars bucks", "eur": "euro euros", "gbp": "pound pounds sterling",
    "jpy": "yen", "inr": "rupee rupees", "chf": "franc francs", "cent": "cents", "ms": "millisecond milliseconds",
    "s": "sec secs second seconds", "min": "mins minute minutes", "h": "hr hrs hour hours", "d": "day days",
    "wk": "week weeks", "mo": "month months", "yr": "year years yrs", "b": "byte bytes", "kb": "kilobyte kilobytes",
    "mb": "megabyte megabytes", "gb": "gigabyte gigabytes gig gigs", "tb": "terabyte terabytes", "kib": "", "mib": "",
    "gib": "", "mm": "millimeter millimeters millimetre millimetres", "cm": "centimeter centimeters centimetres",
    "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres kms", "mi": "mile miles",
    "ft": "foot feet", "inch": "inches", "yd": "yard yards", "mg": "milligram milligrams", "g": "gram grams",
    "kg": "kilogram kilograms kilo kilos kgs", "lb": "lbs", "oz": "ounce ounces", "ml": "milliliter milliliters",
    "l": "liter liters litre litres", "gal": "gallon gallons", "c": "celsius", "f": "fahrenheit", "k": "", "w": "watt "
    "watts", "kw": "kilowatt kilowatts", "kwh": "", "v": "volt volts", "hz": "hertz", "mhz": "", "ghz": "", "mph": "",
    "kmh": "", "tok": "token tokens", "times": "x time", "am": "a.m", "pm": "p.m",
}  # fmt: skip
UNITS = {word: unit for unit, words in _UNIT_WORDS.items() for word in (unit, *words.split())}
CURRENCIES = {"$": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "₹": "inr"}

FUNCTION_WORDS = _set(
    "a an the if as of to for in on at by with from into is are was were be being am do does did have has had can "
    "could may might would will i me my we us our you your it its that they there about hi hello hey please thanks "
    "thank whether ok okay sir madam"
)  # what may come and go; each other word of a text must be matched in the other text
DIRECTIONS = _set("to from into onto than before after over versus vs by for against with about")
SAME_DIRECTION = {"into": "to", "onto": "to", "vs": "versus"}
ARTICLES = _set("the a an this that these those")
GOVERNING = {
    "of": "of", "for": "of", "in": "in", "on": "in", "at": "in", "within": "in", "inside": "in", "to": "to",
    "into": "to", "onto": "to", "from": "from", "by": "by", "with": "with", "about": "about", "against": "against",
    "through": "through", "during": "during", "between": "between", "under": "under", "over": "over",
    "behind": "behind", "near": "near", "beside": "near",
}  # fmt: skip
OWNERS = {
    "my": "i", "our": "i", "your": "you", "his": "he", "her": "she", "their": "they", "its": "it", "whose": "who",
}  # fmt: skip
PERSONS = {
    "i": "i", "we": "i", "me": "i", "us": "i", "mine": "i", "ours": "i", "you": "you", "yours": "you", "he": "he",
    "him": "he", "she": "she", "they": "they", "them": "they", "theirs": "they",
}  # fmt: skip
MOVING = _set("mean must may")  # words that stand before or behind what they are said of
TYING = _set("to from by for against with about")  # a word so tied is another thing when it is tied otherwise
KEPT_FOR = {
    "where": _set("find get"),
    "duration": _set("must take takes taken last lasts"),
    "price": _set("must cost costs costing pay paying charge charges charged"),
    "howto": _set("best"),
}  # left out of a text of that kind, whose frame says it already
MEASURES = {
    "weight": "heavy weigh weighs weight", "height": "tall height", "size": "big large size", "age": "old age",
    "speed": "fast speed", "distance": "far distance", "depth": "deep depth", "width": "wide width",
}  # fmt: skip

SYNONYM_GROUPS = (
    "change modify alter amend edit adjust", "move migrate relocate reschedule", "delete remove erase",
    "cancel terminate end", "pause suspend", "enable activate", "disable deactivate", "buy purchase",
    "submit lodge", "deliver delivery ship shipping shipment", "parcel package", "photo picture image photograph",
    "movie film", "tv television", "car automobile", "phone telephone cellphone smartphone", "fridge refrigerator",
    "bike bicycle", "take bring", "flat apartment", "luggage baggage", "vacation holiday", "start begin commence",
    "finish complete", "fix repair resolve solve", "problem issue trouble", "choose select pick", "show display",
    "see view", "big large huge", "small little tiny", "fast quick rapid", "loud noisy noise", "quiet silent",
    "mute silence", "invoice bill", "colleague coworker", "client customer", "doctor physician", "child kid",
    "include contain comprise", "mean meaning signify", "leave depart", "trip journey", "everyone everybody",
    "someone somebody", "anyone anybody", "people person", "nobody noone", "register enroll", "raise increase",
    "reduce decrease lower", "write author", "paint painter", "invent inventor", "direct director",
    "compose composer", "convert conversion", "calculate compute",
    "must should shall ought required obliged supposed", "quick fast", "wrong incorrect", "town city", "sick ill",
    "medicine medication drug", "connect connection", "renew renewal", "cancel cancellation",
    "subscribe subscription", "pay payment", "reserve reservation book booking", "refund reimbursement reimburse",
    "verify verification", "require requirement", "everyday daily", "talk speak", "answer reply respond",
    "heat preheat", "discount discounted", "close shut", "available availability", "warranty guarantee",
    "owner own", "valid validity",
)  # fmt: skip
IRREGULAR = {
    "site": "website", "wrote": "write", "written": "write", "bought": "buy", "sent": "send", "paid": "pay",
    "took": "take", "taken": "take",
    "began": "begin", "begun": "begin", "broke": "break", "broken": "break", "chose": "choose", "chosen": "choose",
    "did": "do", "done": "do", "drove": "drive", "found": "find", "forgot": "forget", "forgotten": "forget",
    "froze": "freeze", "frozen": "freeze", "gave": "give", "given": "give", "went": "go", "gone": "go", "kept": "keep",
    "left": "left", "got": "get", "lost": "lose", "made": "make", "met": "meet", "ran": "run", "said": "say",
    "saw": "see",
    "seen": "see", "sold": "sell", "spoke": "speak", "spoken": "speak", "spent": "spend", "stole": "steal",
    "stolen": "steal", "taught": "teach", "led": "lead", "built": "build", "held": "hold", "brought": "bring",
    "caught": "catch", "knew": "know", "grew": "grow", "flew": "fly", "wore": "wear", "sang": "sing",
    "thought": "think", "told": "tell", "won": "win", "children": "child", "people": "people", "shoes": "shoe",
    "has": "have", "is": "be", "was": "be", "owes": "owe", "does": "do", "goes": "go", "lying": "lie", "dying": "die",
    "photos": "photo", "videos": "video", "during": "during", "nothing": "nothing", "something": "something",
    "anything": "anything", "everything": "everything", "morning": "morning", "evening": "evening", "string": "string",
    "missing": "missing", "this": "this", "bus": "bus", "news": "news", "address": "address", "access": "access",
    "process": "process", "class": "class", "less": "less", "always": "always", "status": "status", "speed": "speed",
    "need": "need", "feed": "feed", "bed": "bed", "red": "red", "wed": "wed", "need's": "need", "spring": "spring",
    "thing": "thing", "king": "king", "ring": "ring", "bring": "bring", "sing": "sing", "wing": "wing", "yes": "yes",
}  # fmt: skip
PASTS = _set(
    "wrote bought sent paid took began broke chose did drove found forgot froze gave went kept lost made met ran "
    "said saw sold spent stole taught thought told won led built held brought caught left knew grew flew wore "
    "spoke sang"
)
_PARTICIPLE = (
    r"((?!allowed|supposed|required|obliged|permitted)[a-z]+ed"
    r"|paid|sent|given|told|shown|taken|seen|sold|caught|hit|left)\b"
)
PHRASES = (
    (r"\bput ((?:[a-z-]+ ){1,4})on hold\b", r" pause \1 "),
    (r"\b(?:turn(?:ed|ing)?|switch(?:ed|ing)?|power)(?: ((?:[a-z-]+ ){0,5}?))? ?(?:back )?on\b", r" enable \1 "),
    (r"\b(?:turn(?:ed|ing)?|switch(?:ed|ing)?|power|shut)(?: ((?:[a-z-]+ ){0,5}?))? ?off\b", r" disable \1 "),
    (r"\b(?:log|sign)(?:ging|ged|ing|ed|s)? ?(?:in|on)(?:to)?\b|\blogin\b|\bsignin\b|\blogon\b", " login "),
    (r"\b(?:log|sign)(?:ging|ged|ing|ed|s)? ?(?:out|off)(?: of)?\b|\blogout\b|\bsignout\b", " logout "),
    (r"\bsign(?:ing|ed|s)? ?up\b", " register "),
    (r"\bget in touch with\b", " contact "),
    (r"\b(?:send|give|bring|take) ((?:[a-z-]+ ){0,3})back\b", r" return \1 "),
    (r"\bpick(?:ing|ed)? ((?:[a-z-]+ ){0,3})up\b|\bpick(?:ing|ed)? up\b", r" collect \1 "),
    (r"\b(?:have|has|had|need|needs|got) to\b", " must "),
    (r"\bbe (?:required|obliged|supposed) to\b", " must "),
    (r"\bof my account\b", " "),
    (r"\b(?:a|per|each|every) (day|week|month|year)\b", r" each\1 "),
    (r"\bdaily\b", " eachday "),
    (r"\bweekly\b", " eachweek "),
    (r"\bmonthly\b", " eachmonth "),
    (r"\b(?:yearly|annually)\b", " eachyear "),
    (r"\bin stock\b", " available "),
    (r"\b(?:out of stock|sold out)\b", " unavailable "),
    (r"\b(?:send|give|show|bring|forward|get) (?:me|us)\b", " give "),
    (r"\b(heat(?:ing)?|warm(?:ing)?) ((?:[a-z]+ ){0,3})up\b", r" \1 \2"),
    (r"\bput ((?:[a-z]+ ){1,4})together\b", r" assemble \1 "),
    (r"\be-mail\b", " email "),
    (r"\b(?:am|be|being|get) (?:i )?" + _PARTICIPLE, r" undergo \1 "),
    (r"\b(?:was|been|got) (?:i )?" + _PARTICIPLE, r" underwent \1 "),
    (r"\bis it necessary (?:for (?:me|us) )?to\b", " must i "),
    (r"\bset(?:ting)? (?:a|the) reminder\b(?: for (?:me|us))?", " remind "),
    (r"\btakes? place\b", " "),
    (r"(?<=[a-z])-(?=[a-z])", " "),
    (r"\b(?:send|sending|wire|move) (?=(?:[a-z]+ )?money\b)", " transfer "),
    (r"\bno one\b", " nobody "),
    (r"\b(add|create|invite) ((?:an? )?)new\b", r" \1 \2"),
    (r"\b(csv|pdf|json|xml|zip|excel|word|text) files?\b", r" \1 "),
    (r"\bfile (?=[a-z_]+ \. [a-z])", " "),
    (r"\bso (?=[a-z])", " "),
    (r"\bin order to\b", " to "),
)  # fmt: skip

FOREIGN_WORDS = _set(
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish: frequent words that English does not have.
    "der das und ist nicht ich mein meine mein wie kann wo wann warum ein eine einen zu mit für auf le la les et est "
    "pas je mon ma mes comment où quand pourquoi une dans avec vous votre el los las y es mi mis cómo como dónde "
    "cuándo qué puedo por para una il lo gli che di sono mio mia dove perché posso con não meu minha onde quando "
    "você het een ik mijn hoe waar wanneer niet kan jak gdzie kiedy nie jest moje się nerede bir için ve"
)
