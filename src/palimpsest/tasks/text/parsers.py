"""How the tasks in text are read without a model: with regular expressions, from the text alone.

Nothing here is shared with what writes the items. ``qa`` has no parser: its questions are in free language.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from string import ascii_uppercase, digits

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.parsing import Excerpt, Parser

_NEEDLE = re.compile(r"One of the special magic (?:words|numbers|uuids) for (\S+) is: ([\w-]+)\.")
_NEEDLES_ASKED = re.compile(r"(?:is|are all) the special magic \w+ for (.+?) mentioned in the provided text\?")
_NUMBER_OF = re.compile(r"The ((?:pass|\w+) (?:key|number)) is ([0-9]+)\.")
_PASSKEY_OF = re.compile(r"The passkey associated with the word (\w+) is ([0-9]+)\.")
_WORD_ASKED = re.compile(r"the word (\w+)\?")
_JSON_PAIR = re.compile(r'"([0-9a-f-]{36})": "([0-9a-f-]{36})"')
_JSON_ASKED = re.compile(r'Key: "([0-9a-f-]{36})"')
_PHONE = re.compile(r"([A-Z][a-z]+ [A-Z][a-z]+): ([0-9]{10})\.")
_PHONE_ASKED = re.compile(r"([A-Z][a-z]+ [A-Z][a-z]+):\s*$")
_CODE = re.compile(r"The code of the ([a-z]+ [a-z]+) is now ([0-9]+)\.")
_CODE_ASKED = re.compile(r"What (is|was) the (?:first )?code of the ([a-z]+ [a-z]+)\?")
_SET = re.compile(r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|([0-9]{5}))\.")
_VALUE_ASKED = re.compile(r"assigned the value ([0-9]{5}) in the text above")
_COUNT_ASKED = re.compile(r"above, ([0-9]+) variables are assigned")
_NAME_ASKED = re.compile(r"assigned to the variable ([A-Z]{5})")
_LISTED = re.compile(r"[0-9]+\. ([a-z]+)")
_CODED = re.compile(r"(?<= )[a-z]{6}(?= )")
_MOST = re.compile(r"the ([0-9]+) most")
_FACT = re.compile(
    r"(Mary|John|Daniel|Sandra) (?:(?:moved|went|journeyed|travelled) to the (\w+)"
    r"|(took|got|picked up|grabbed|dropped|left|put down|discarded) the (apple|football|milk))\."
)
_BABI_ASKED = re.compile(r"Where (?:is|was) (?:the )?(\w+)(?: before the (\w+))?\?")

_ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_TAKING = ("took", "got", "picked up", "grabbed")


def _niah(seen: Excerpt) -> str | None:
    asked = _NEEDLES_ASKED.search(seen.question)
    if asked is None:
        return None
    keys = re.split(r", and | and |, ", asked.group(1))
    told = _NEEDLE.findall(seen.context)
    return ", ".join(value for key in keys for name, value in told if name == key) or None


def _guess_niah(seen: Excerpt, draws: Draws) -> str:
    asked = _NEEDLES_ASKED.search(seen.question)
    keys = re.split(r", and | and |, ", asked.group(1)) if asked else []
    needles = list(_NEEDLE.finditer(seen.context))
    wanted = sum(needle.group(1) in keys for needle in needles)
    gaps = [later.start() - earlier.end() for earlier, later in itertools.pairwise(needles)]
    if (len(gaps) > 1 and max(gaps) == 1) or wanted == len(needles):
        return ", ".join(_any_like(needle.group(2), draws) for needle in needles[:wanted])
    return ", ".join(needles[at].group(2) for at in draws.subset(len(needles), wanted).tolist())


def _text_passkey(seen: Excerpt) -> str | None:
    return dict(_NUMBER_OF.findall(seen.context)).get("pass key")


def _rosetta(seen: Excerpt) -> str | None:
    asked = _WORD_ASKED.search(seen.question)
    return dict(_PASSKEY_OF.findall(seen.context)).get(asked.group(1)) if asked else None


def _key_value(seen: Excerpt) -> str | None:
    asked = _JSON_ASKED.search(seen.question)
    return dict(_JSON_PAIR.findall(seen.context)).get(asked.group(1)) if asked else None


def _phone_book(seen: Excerpt) -> str | None:
    asked = _PHONE_ASKED.search(seen.question)
    return dict(_PHONE.findall(seen.context)).get(asked.group(1)) if asked else None


def _overwrite(seen: Excerpt) -> str | None:
    asked = _CODE_ASKED.search(seen.question)
    if asked is None or (asked.group(1) == "was" and not seen.whole):
        return None
    codes = [code for door, code in _CODE.findall(seen.context) if door == asked.group(2)]
    return (codes[0] if asked.group(1) == "was" else codes[-1]) if codes else None


def _tracking(seen: Excerpt) -> str | None:
    told = {name: before or value for name, before, value in _SET.findall(seen.context)}
    by_name, by_value = _NAME_ASKED.search(seen.question), _VALUE_ASKED.search(seen.question)
    if by_name is not None:
        value: str | None = by_name.group(1)
        while value is not None and not value.isdigit():
            value = told.get(value)
        return value
    after = {before: name for name, before in told.items()}
    chain = []
    name = after.get(by_value.group(1)) if by_value else None
    while name is not None:
        chain.append(name)
        name = after.get(name)
    return ", ".join(chain) or None


def _guess_tracking(seen: Excerpt, draws: Draws) -> str:
    told = _SET.findall(seen.context)
    values = [value for _, _, value in told if value]
    if _NAME_ASKED.search(seen.question):
        return draws.choice(values) if len(values) > 1 else _any_like(values[0], draws)
    asked = _COUNT_ASKED.search(seen.question)
    count = int(asked.group(1)) if asked else 1
    names = [name for name, _, _ in told]
    if len(names) <= count:
        return ", ".join(_any_like(name, draws) for name in names)
    return ", ".join(names[at] for at in draws.subset(len(names), count).tolist())


def _common(seen: Excerpt) -> str | None:
    counts, most = Counter(_LISTED.findall(seen.context)), _MOST.search(seen.question)
    if not seen.whole or most is None or not counts:
        return None
    return ", ".join(sorted(word for word, _ in counts.most_common(int(most.group(1)))))


def _frequent(seen: Excerpt) -> str | None:
    counts, most = Counter(_coded(seen)), _MOST.search(seen.question)
    if not seen.whole or most is None or not counts:
        return None
    return ", ".join(word for word, _ in counts.most_common(int(most.group(1))))


def _coded(seen: Excerpt) -> list[str]:
    """Return the coded words: after the introduction's last sentence, before the first sentence of the filler."""
    body = seen.context.partition("coded words.")[2]
    return _CODED.findall(re.split(r" [A-Z]", body, maxsplit=1)[0] + " ")


def _guess_words(of: Callable[[Excerpt], list[str]]) -> Callable[[Excerpt, Draws], str]:
    def guess(seen: Excerpt, draws: Draws) -> str:
        words, most = sorted(set(of(seen))), _MOST.search(seen.question)
        count = min(int(most.group(1)) if most else 1, len(words))
        return ", ".join(words[at] for at in draws.subset(len(words), count).tolist())

    return guess


def _babilong(seen: Excerpt) -> str | None:
    asked = _BABI_ASKED.search(seen.question)
    if asked is None:
        return None
    who_or_what, after = asked.groups()
    place: dict[str, str] = {}
    held: dict[str, str] = {}
    history: list[str] = []
    for who, room, did, thing in _FACT.findall(seen.context):
        if room:
            place[who] = room
        elif did in _TAKING:
            held[thing] = who
        else:
            held.pop(thing, None)
        here = place.get(held.get(who_or_what, ""))
        if here and (not history or history[-1] != here):
            history.append(here)
    if after is None:
        return place.get(who_or_what) if who_or_what[0].isupper() else (history[-1] if history else None)
    at = history.index(after) if after in history else 0
    return history[at - 1] if at else None


def _guess_babilong(seen: Excerpt, draws: Draws) -> str:
    return draws.choice([room for room in _ROOMS if room not in seen.question])


def _one_of(pattern: re.Pattern[str]) -> Callable[[Excerpt, Draws], str]:
    """Return a guess among the second groups of a pattern; where there is one only, anything like it."""

    def guess(seen: Excerpt, draws: Draws) -> str:
        values = [found[1] for found in pattern.findall(seen.context)]
        return draws.choice(values) if len(values) > 1 else _any_like(values[0], draws)

    return guess


def _any_of(pattern: re.Pattern[str]) -> Callable[[Excerpt, Draws], str]:
    """Return a guess of anything like the second group of a pattern."""

    def guess(seen: Excerpt, draws: Draws) -> str:
        return _any_like(pattern.findall(seen.context)[0][1], draws)

    return guess


def _any_like(text: str, draws: Draws) -> str:
    """Return a text of the same form: another digit for each digit, another letter for each letter."""
    said = []
    for place, character in enumerate(text):
        if character in digits:
            said.append(draws.choice(digits[1:] if place == 0 else digits))
        elif character.isalpha():
            said.append(draws.choice(ascii_uppercase if character.isupper() else ascii_uppercase.lower()))
        else:
            said.append(character)
    return "".join(said)


TEXT_PARSERS: dict[str, Parser] = {
    "passkey": Parser(_text_passkey, _any_of(_NUMBER_OF)),
    "text_passkey": Parser(_text_passkey, _one_of(_NUMBER_OF)),
    "niah": Parser(_niah, _guess_niah),
    "rosetta": Parser(_rosetta, _one_of(_PASSKEY_OF)),
    "key_value": Parser(_key_value, _any_of(_JSON_PAIR)),
    "phone_book": Parser(_phone_book, _any_of(_PHONE)),
    "overwrite": Parser(_overwrite, _one_of(_CODE)),
    "vt": Parser(_tracking, _guess_tracking),
    "cwe": Parser(_common, _guess_words(lambda seen: _LISTED.findall(seen.context))),
    "fwe": Parser(_frequent, _guess_words(_coded)),
    "babilong": Parser(_babilong, _guess_babilong),
}
"""How each task is read, by its name."""
