"""The closed lists of English words that the content guard reads by: data only.

Most of them only name what differs (negations, opposites, units, dates). What lets two texts meet is elsewhere: the
synonyms in `synonyms.py`, the frames of a question in `frames.py`, and the few small words of `clause.py`.
"""

from __future__ import annotations


def word_set(words: str) -> frozenset[str]:
    """The words of a line."""
    return frozenset(words.split())


OPPOSITES = tuple(
    (word_set(one), word_set(other))
    for one, other in (
        ("enable on", "disable off"),
        ("able possible", "unable impossible"),
        ("inbound incoming import", "outbound outgoing export"),
        ("in inside within", "out outside"),
        ("above up over", "below under down beneath"),
        ("before prior", "after afterwards"),
        ("until till", "since from"),
        ("early earlier soon", "late later overdue"),
        ("increase raise grow gain", "decrease reduce lower shrink cut"),
        ("more higher greater larger bigger longer", "less fewer smaller lesser shorter"),
        ("most highest greatest largest biggest maximum", "least fewest smallest lowest minimum"),
        ("big large huge high long tall", "small tiny little low short"),
        ("add insert include create attach keep restore save", "delete remove exclude detach drop lose"),
        ("open reopen", "close shut"),
        ("lock block freeze", "unlock unblock unfreeze"),
        ("start begin launch resume continue renew", "stop end pause cancel quit suspend"),
        ("buy", "sell"),
        ("allow permit grant approve accept", "block deny forbid revoke reject decline ban refuse prevent"),
        ("upload send push deposit give", "download receive pull withdraw take"),
        ("encrypt encode compress", "decrypt decode decompress"),
        ("install", "uninstall"),
        ("subscribe follow register login", "unsubscribe unfollow unregister logout"),
        ("unmute", "mute"),
        ("show unhide", "hide"),
        ("join connect enter", "leave disconnect exit"),
        ("upgrade", "downgrade"),
        ("win profit", "lose loss"),
        ("lend", "borrow"),
        ("credit", "debit charge"),
        ("good better best pros advantage benefit", "bad worse worst cons disadvantage drawback"),
        ("valid correct right", "invalid incorrect wrong"),
        ("active", "inactive"),
        ("public", "private"),
        ("internal internally", "external externally"),
        ("safe secure legal healthy", "unsafe insecure illegal dangerous harmful"),
        ("first oldest", "last latest newest final"),
        ("new", "old previous former"),
        ("next upcoming", "past previous last"),
        ("fast faster fastest", "slow slower slowest"),
        ("hot warm heat preheat", "cold cool freeze"),
        ("full", "empty"),
        ("loud", "quiet"),
        ("all every each everyone whole both", "some single only nobody"),
        ("free", "paid"),
        ("cheap cheaper cheapest", "expensive pricier"),
        ("left", "right"),
        ("horizontal horizontally", "vertical vertically"),
        ("ascending", "descending"),
        ("undo revert", "redo"),
        ("read", "write"),
        ("arrive come", "leave go"),
        ("success succeed pass", "fail failure error"),
        ("permanent permanently", "temporary temporarily"),
        ("automatic automatically", "manual manually"),
        ("online remote", "offline local"),
        ("with", "without"),
        ("available", "unavailable sold"),
        ("assemble", "disassemble"),
    )
)  # words of which one in a difference says that it is one of opposites

NEGATIONS = word_set(
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
MOMENTS = word_set(
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

SMALL_WORDS = word_set(
    "a an the if as of to for in on at by with from into is are was were be being am do does did has have had can "
    "could may might would will i me my we us our you your it its that they there about hi hello hey please thanks "
    "thank whether ok okay sir madam how what why when where who whom whose which and or not"
)  # what tells English from its neighbours, and is no name where it is written with a capital

FOREIGN_WORDS = word_set(
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish: frequent words that English does not have.
    "der das und ist nicht ich mein meine mein wie kann wo wann warum ein eine einen zu mit für auf le la les et est "
    "pas je mon ma mes comment où quand pourquoi une dans avec vous votre el los las y es mi mis cómo como dónde "
    "cuándo qué puedo por para una il lo gli che di sono mio mia dove perché posso con não meu minha onde quando "
    "você het een ik mijn hoe waar wanneer niet kan jak gdzie kiedy nie jest moje się nerede bir için ve"
)

IN_E = word_set(
    "accelerate accuse ache achieve acknowledge acquire activate admire advance advice advise advocate age "
    "allowance alternate analyze angle announce apple appliance approve archive argue arise arrange arrive article "
    "assemble assume authorize average badge bake balance bandage base battle become believe bike bite blame blaze "
    "blouse bore bottle bounce brace brake breathe bridge browse bubble bulge bundle cable cache cage calculate "
    "candle capsule capture care case cattle cause celebrate challenge change charge chase choice choke choose "
    "circle cite clause close code collaborate collapse combine come commemorate commence communicate compare "
    "compete compile complete compose comprise compute concentrate conclude configure confuse consume continue "
    "contribute convince coordinate cope cottage couple course cradle crease create cruise curse curve cycle damage "
    "dance dare date deactivate debate decide declare decline decode decrease define degrade delete demonstrate "
    "describe determine device disable distance distribute dive divide dominate dose double downgrade drive "
    "duplicate eagle ease edge educate eliminate embrace emerge emphasize enable encode encourage endure enforce "
    "engage enhance enlarge ensure entrance escape evaluate evolve examine example exchange exclude excuse execute "
    "exercise expense experience expire explode explore expose face facilitate fade fence figure file finance fine "
    "fire flame force forgive frame freeze fridge gamble game garage gaze generate gesture giggle give glance glare "
    "glide grade graduate grate grease guide handle hate have hide hike hire hope horse hose house ice ignore "
    "illustrate image imagine impose improve include income incorporate increase indicate induce influence initiate "
    "inspire instance insurance integrate interfere intervene introduce invade investigate invite invoice invoke "
    "involve issue joke judge juice jungle justice kettle language lease leave leverage licence license like line "
    "little live locate locke lodge loose lose love make manage manipulate manufacture mate measure merge message "
    "middle migrate mile mine module mouse move muscle mute name navigate needle negotiate noise noodle nose note "
    "notice nurse observe office operate oppose optimize orange organise organize originate overcome owe pace "
    "package page participate paste pause penetrate people phase phrase piece pierce place please plunge poke "
    "police pose practice praise prepare preserve price prince prize produce promise promote propose prove provide "
    "province prune purchase purpose pursue puzzle quote race rage raise range rate rattle reactivate realise "
    "realize reassure receive recharge recognize reduce refuse regulate reimburse relate release relocate remove "
    "rename rephrase replace require reschedule rescue resemble reside resize resolve response restore retire "
    "retrieve reuse revoke rice ride rinse rise rose rotate route rule rumble saddle sample sauce save scale "
    "schedule score scrape secure seize sense sentence separate serve service settle shake shape share shine shove "
    "shuffle side simple single size skate slice slide slope smile smoke snooze solve soothe source space sparkle "
    "square squeeze stable stage stare state stimulate stone storage store strike stroke struggle stumble style "
    "subscribe supervise surface surprise survive synchronize table take taste tease temple tense terminate thrive "
    "tile time tingle title trace trade translate tremble tumble tune type undertake underwrite unite unmute "
    "unsubscribe update upgrade upsize urge use utilize vacate validate vehicle village violate voice vote voyage "
    "wage wake waste weave welcome while whistle wipe wire wrestle write "
)  # words that end in "e", which "-ing", "-ed" and "-es" hide
