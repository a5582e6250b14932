"""The English words that the content guard knows: data only.

An axis is a pair of opposites. `marked` words must stand on both sides or on neither ("disable", "off"); `plain` words
are common enough to come and go between paraphrases and only clash with a marked one. Where both sides carry the
meaning (buy and sell, before and after) both are marked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One pair of opposites; words are separated by blanks."""

    name: str
    plain: str
    marked: str
    second: str = ""


AXES = (
    Axis("power", "enable enables enabled enabling activate activates activated activating", "off disable disables "
         "disabled disabling deactivate deactivates deactivated deactivating"),
    Axis("able", "able possible", "unable impossible"),
    Axis("direction", "", "inbound incoming import imports imported importing", "outbound outgoing export exports "
         "exported exporting"),
    Axis("in", "inside within", "out outside"),
    Axis("down", "above", "down below beneath under"),
    Axis("time", "", "before prior", "after afterwards following"),
    Axis("bound", "", "until till", "since"),
    Axis("early", "", "early earlier", "late later overdue"),
    Axis("amount", "", "increase increases increased increasing raise raises raised raising grow", "decrease decreases "
         "decreased decreasing reduce reduces reduced reducing lower lowers lowered lowering shrink cut"),
    Axis("more", "", "more higher greater larger bigger", "less fewer smaller lesser"),
    Axis("most", "", "most highest greatest largest biggest max maximum", "least fewest smallest lowest min minimum"),
    Axis("big", "", "big large huge high", "small tiny little low"),
    Axis("keep", "", "add adds added adding insert inserts include includes included including create creates created "
         "creating attach append", "remove removes removed removing delete deletes deleted deleting erase erases "
         "exclude excludes excluded excluding detach drop drops dropped wipe"),
    Axis("open", "open opens opened opening reopen", "close closes closed closing shut"),
    Axis("lock", "", "lock locks locked locking", "unlock unlocks unlocked unlocking"),
    Axis("run", "start starts started starting begin begins launch resume resumes resumed continue", "stop stops "
         "stopped stopping end ends ended ending pause pauses paused cancel cancels cancelled canceled cancelling "
         "terminate terminates terminated quit suspend suspends suspended"),
    Axis("trade", "", "buy buys buying bought purchase purchases purchased purchasing", "sell sells selling sold"),
    Axis("permit", "", "allow allows allowed allowing permit permits permitted grant grants granted approve approves "
         "approved accept accepts accepted accepting whitelist allowlist", "block blocks blocked blocking deny denies "
         "denied forbid forbids forbidden revoke revokes revoked reject rejects rejected decline declines declined "
         "ban bans banned blacklist blocklist refuse refuses refused prevent prevents"),
    Axis("transfer", "", "upload uploads uploaded uploading send sends sent sending push deposit deposits deposited",
         "download downloads downloaded downloading receive receives received receiving pull withdraw withdraws "
         "withdrew withdrawing withdrawal"),
    Axis("code", "", "encrypt encrypted encrypting encode encoded compress", "decrypt decrypted decrypting decode "
         "decoded decompress"),
    Axis("install", "", "install installs installed installing", "uninstall uninstalls uninstalled uninstalling"),
    Axis("subscribe", "subscribe subscribes subscribed subscribing follow", "unsubscribe unsubscribes unsubscribed "
         "unsubscribing unfollow"),
    Axis("mute", "unmute unmuted", "mute mutes muted muting"),
    Axis("show", "", "show shows shown showing unhide display", "hide hides hidden hiding"),
    Axis("join", "", "join joins joined joining connect connects connected connecting link enter", "leave leaves left "
         "leaving disconnect disconnects disconnected disconnecting unlink exit exits"),
    Axis("grade", "", "upgrade upgrades upgraded upgrading", "downgrade downgrades downgraded downgrading"),
    Axis("win", "", "win wins won gain gains gained profit profits", "lose loses lost lost losing loss losses"),
    Axis("lend", "", "lend lends lent lending loan", "borrow borrows borrowed borrowing"),
    Axis("debit", "", "credit credits credited", "debit debits debited charge charges charged charging"),
    Axis("good", "", "good better best pros advantage advantages benefit benefits", "bad worse worst cons disadvantage "
         "disadvantages drawback drawbacks"),
    Axis("right", "valid correct", "invalid incorrect wrong"),
    Axis("active", "active", "inactive"),
    Axis("public", "", "public", "private"),
    Axis("internal", "", "internal internally", "external externally"),
    Axis("safe", "safe secure legal", "unsafe insecure illegal dangerous"),
    Axis("first", "", "first oldest earliest", "last latest newest final"),
    Axis("new", "", "new", "old previous former"),
    Axis("next", "", "next upcoming", "past previous"),
    Axis("fast", "", "fast faster fastest quick quicker speed", "slow slower slowest"),
    Axis("temperature", "", "hot hotter warm warmer heat heating", "cold colder cool cooler cooling"),
    Axis("full", "", "full", "empty"),
    Axis("all", "", "all every each everything everyone both entire whole", "some any single only one"),
    Axis("cost", "", "free", "paid"),
    Axis("cheap", "", "cheap cheaper cheapest", "expensive pricier"),
    Axis("side", "", "left", "right"),
    Axis("vertical", "", "horizontal horizontally", "vertical vertically"),
    Axis("order", "", "ascending", "descending"),
    Axis("do", "", "undo undoes undid revert reverts", "redo redoes"),
    Axis("read", "", "read reading", "write writing"),
    Axis("person", "", "he she his her hers him them their theirs someone somebody else another"),
    Axis("role", "", "admin administrator administrators admins root superuser sudo"),
    Axis("guest", "", "guest guests visitor anonymous"),
    Axis("owner", "", "owner owners"),
    Axis("success", "success succeed succeeded pass passed", "fail fails failed failing failure error"),
    Axis("permanent", "", "permanent permanently forever", "temporary temporarily"),
    Axis("automatic", "", "automatic automatically", "manual manually"),
    Axis("local", "online remote remotely", "offline locally"),
    Axis("part", "", "with using", "without"),
)  # fmt: skip


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


PHRASAL_VERBS = _set(
    "turn turned turning switch switched switching power sign signed signing log logged logging opt opted check "
    "checked checking clock set shut plug roll scale zoom speed back put take go come get give move key phase"
)
PARTICLES = {
    "on": "on", "onto": "on", "in": "in", "into": "in", "up": "up", "off": "off", "out": "out", "down": "down",
    "over": "over", "away": "away", "back": "back",
}  # fmt: skip
COMPOUNDS = {
    "login": ("log", "in"), "logout": ("log", "out"), "logoff": ("log", "out"), "logon": ("log", "in"),
    "signin": ("sign", "in"), "signout": ("sign", "out"), "signup": ("sign", "up"),
}  # fmt: skip

NEGATIONS = _set(
    "not no never none nothing nobody nowhere neither nor without cannot cant dont doesnt didnt isnt arent wasnt "
    "werent wont wouldnt shouldnt couldnt hasnt havent hadnt aint mustnt neednt except unless hardly barely avoid "
    "instead rather lack lacks missing"
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
    "today tomorrow yesterday tonight now morning noon afternoon evening night midnight midday weekday weekdays "
    "weekend weekends daily weekly monthly yearly annually annual quarterly hourly spring summer autumn winter "
    "christmas easter thanksgiving ago"
)

NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1e6", "billion": "1e9", "dozen": "12", "once": "1 times",
    "twice": "2 times", "thrice": "3 times", "double": "2 times", "triple": "3 times", "half": "1/2",
    "quarter": "1/4", "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th", "1st": "first",
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

QUESTIONS = {
    "who": "who", "whom": "who", "whose": "whose", "when": "when", "where": "where", "why": "why", "how": "how",
    "what": "how", "which": "how",
}  # fmt: skip
MEASURED = {
    "much": "amount", "many": "amount", "long": "duration", "often": "frequency", "far": "distance", "old": "age",
    "soon": "when", "time": "when", "date": "when", "day": "when", "come": "why", "place": "where", "person": "who",
}  # fmt: skip

FUNCTION_WORDS = _set(
    "a an the and or but if so as of to for in on at by with from into is are was were be been being am do does did "
    "have has had can could may might shall should will would must i me my mine we us our you your yours it its this "
    "that these those there here what which who whom whose how when where why please thanks thank hi hello hey just "
    "need want like get way know tell help about s t ve re ll d m"
)
DIRECTIONS = _set("to from into onto than before after over versus vs by for against")

FOREIGN_WORDS = _set(
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish: frequent words that English does not have.
    "der das und ist nicht ich mein meine mein wie kann wo wann warum ein eine einen zu mit für auf le la les et est "
    "pas je mon ma mes comment où quand pourquoi une dans avec vous votre el los las y es mi mis cómo como dónde "
    "cuándo qué puedo por para una il lo gli che di sono mio mia dove perché posso con não meu minha onde quando "
    "você het een ik mijn hoe waar wanneer niet kan jak gdzie kiedy nie jest moje się nerede bir için ve"
)
