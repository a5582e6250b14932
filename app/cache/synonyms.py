"""Words that come to the same: inflections, and closed groups of synonyms. Pure.

A plural or a third person is its bare form everywhere; a past or "-ing" form only where the grammar of the clause says
that it is the verb (`verbs.py`): "the training" is no train. A group of synonyms is here only if each of its words
may stand for each other in any question; a word that no list knows equals nothing but itself.
"""

from __future__ import annotations

from app.cache.lexicon import IN_E, word_set

_GROUPS = (
    "change modify alter amend edit adjust", "move migrate relocate reschedule", "delete remove erase",
    "cancel terminate", "enable activate", "disable deactivate", "buy purchase", "delivery shipping shipment",
    "deliver ship", "parcel package", "photo picture photograph", "movie film", "tv television", "car automobile",
    "phone telephone cellphone smartphone", "fridge refrigerator", "bike bicycle", "flat apartment",
    "luggage baggage", "vacation holiday", "start begin commence", "finish complete", "fix repair resolve",
    "choose select pick", "show display", "see view", "big large huge", "small little tiny", "fast quick rapid",
    "loud noisy", "mute silence", "colleague coworker", "client customer", "doctor physician", "child kid",
    "include contain comprise", "leave depart", "trip journey", "everyone everybody", "someone somebody",
    "anyone anybody", "people person", "register enroll", "raise increase", "reduce decrease", "wrong incorrect",
    "town city", "sick ill", "medicine medication", "reservation booking", "refund reimburse reimbursement",
    "talk speak", "answer reply respond", "warranty guarantee", "every each all", "get obtain", "enough sufficient",
    "hurt harm damage", "need require", "allow permit", "required needed necessary mandatory compulsory obligatory",
    "allowed permitted", "nearest closest", "happen occur", "app application", "exam examination", "information info",
    "website site", "expensive costly", "cheap inexpensive", "maximum max", "minimum min", "sofa couch",
    "subway metro", "help assist", "attempt try", "often frequently", "immediately instantly", "identical same",
    "entire whole", "trash garbage rubbish", "color colour", "tire tyre", "center centre", "favorite favourite",
    "license licence", "theater theatre", "gray grey", "program programme", "canceled cancelled",
    "plane airplane aeroplane", "labor labour", "neighbor neighbour", "mom mother mum", "dad father", "in into",
    "on onto", "restart reboot", "invoice bill", "collect fetch",
)  # fmt: skip
_IRREGULAR = {
    "wrote": "write", "written": "write", "bought": "buy", "sent": "send", "paid": "pay", "took": "take",
    "taken": "take", "began": "begin", "begun": "begin", "broke": "break", "broken": "break", "chose": "choose",
    "chosen": "choose", "drove": "drive", "driven": "drive", "found": "find", "forgot": "forget",
    "forgotten": "forget", "froze": "freeze", "frozen": "freeze", "gave": "give", "given": "give", "went": "go",
    "gone": "go", "kept": "keep", "got": "get", "lost": "lose", "made": "make", "met": "meet", "ran": "run",
    "said": "say", "saw": "see", "seen": "see", "sold": "sell", "spoke": "speak", "spoken": "speak",
    "spent": "spend", "stole": "steal", "stolen": "steal", "taught": "teach", "led": "lead", "built": "build",
    "held": "hold", "brought": "bring", "caught": "catch", "knew": "know", "known": "know", "grew": "grow",
    "grown": "grow", "flew": "fly", "wore": "wear", "worn": "wear", "sang": "sing", "thought": "think",
    "told": "tell", "won": "win", "lent": "lend", "fed": "feed", "ate": "eat", "eaten": "eat", "drank": "drink",
    "fell": "fall", "fallen": "fall", "hid": "hide", "hidden": "hide", "rose": "rise", "shown": "show",
    "slept": "sleep", "swam": "swim", "threw": "throw", "thrown": "throw", "understood": "understand",
    "bit": "bite", "bitten": "bite", "did": "do", "done": "do", "had": "have", "came": "come", "became": "become",
    "beaten": "beat", "drawn": "draw", "drew": "draw", "shot": "shoot", "sank": "sink", "rang": "ring",
}  # past forms  # fmt: skip

SAME_IN_PAST = word_set(
    "beat bet bid burst cast cost cut hit hurt let put quit read set shed shut split spread thrust upset"
)  # whose past looks like the present
UNINFLECTED = word_set(
    "this bus news address access process class less always status does gas its his hers ours yours theirs goods "
    "customs glasses arms savings shorts works series lens canvas atlas is was has us as plus bonus virus"
)
_NO_PAST = word_set("need feed bed red wed speed seed hundred indeed exceed proceed succeed sled shed bleed breed")
_NO_VERB = word_set(
    "during morning evening string spring thing king ring bring sing wing nothing something anything everything "
    "ceiling building meeting parking"
)
_PLURALS = {
    "children": "child", "feet": "foot", "men": "man", "women": "woman", "goes": "go", "echoes": "echo",
    "mice": "mouse", "knives": "knife", "shoes": "shoe", "heroes": "hero", "potatoes": "potato",
    "tomatoes": "tomato",
}  # fmt: skip
_SHORT = 4  # shorter words have no endings to lose


def stem(word: str) -> str:
    """The bare form of a word, and for all words of a group of synonyms the same."""
    bare = bare_form(word)
    return _SYNONYMS.get(bare, bare)


def bare_form(word: str) -> str:
    """A word without the ending of a plural or a third person."""
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) < _SHORT or word[-1] != "s" or word in UNINFLECTED or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > _SHORT:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes", "zes")) and word[:-1] not in IN_E:
        return word[:-2]
    return word[:-1]


def is_past(word: str) -> bool:
    """Whether a word is a past form: a finite past or a participle."""
    return word in _IRREGULAR or (word.endswith("ed") and len(word) > _SHORT and word not in _NO_PAST)


def is_ing(word: str) -> bool:
    """Whether a word may be the "-ing" form of a verb."""
    return word.endswith("ing") and len(word) > _SHORT and word not in _NO_VERB


def verb(word: str) -> str:
    """The verb of a past or an "-ing" form."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ied") and len(word) > _SHORT:
        return word[:-3] + "y"
    bare = word[:-3] if is_ing(word) else word[:-2] if is_past(word) else word
    if bare == word:
        return bare_form(word)
    if bare + "e" in IN_E:
        return bare + "e"
    return bare[:-1] if bare[-1:] == bare[-2:-1] and bare[-1] not in "lsz" else bare


_SYNONYMS = {bare_form(word): bare_form(group.split()[0]) for group in _GROUPS for word in group.split()}
