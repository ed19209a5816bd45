"""How the symbolic tasks are read: the definition of each answer, written once more and without the generators."""

import re
from collections import Counter
from functools import partial
from itertools import permutations

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.parsing import Excerpt, Parser
from palimpsest.tasks.symbolic.vocabulary import KEYS, ROOMS, VALUES, Words

_PAIR = re.compile(r"SEP (k\d+(?: k\d+)?) (v\d+)")
_NUMBER = re.compile(r"SEP (\w+) (v\d+ v\d+ v\d+)")
_ADJACENT = re.compile(r"\b(k\d+) (v\d+)\b")
_ASSIGNMENT = re.compile(r"\bVAR (k\d+) ([kv]\d+)\b")
_KEY = re.compile(r"\bk\d+\b")
_VALUE = re.compile(r"\bv\d+\b")
_STRING = re.compile(r"SEP COPY((?: v\d+)+) SEP")
_EVENT = re.compile(r"\b(n\d+) (WENT|TOOK|DROPPED) ([ro]\d+)\b")


def _asked(excerpt: Excerpt) -> str:
    """Return the key between the words of a question."""
    return " ".join(_KEY.findall(excerpt.question))


def _some(draws: Draws, told: list[str], words: Words, count: int = 1) -> str:
    """Return ``count`` different things of those told, or of all words if no more were told."""
    different = list(dict.fromkeys(told))
    pool = different if len(different) > count else [f"{words.stem}{number}" for number in range(words.size)]
    return " ".join(pool[place] for place in draws.subset(len(pool), count))


def _any(draws: Draws, words: Words, count: int) -> str:
    """Return ``count`` words, perhaps with repetitions."""
    return " ".join(f"{words.stem}{number}" for number in draws.integers(words.size, count))


def _passkey(excerpt: Excerpt) -> str | None:
    return dict(_NUMBER.findall(excerpt.context)).get("NUM")


def _guess_passkey(excerpt: Excerpt, draws: Draws) -> str:
    numbers = [number for _, number in _NUMBER.findall(excerpt.context)]
    return draws.choice(numbers) if len(numbers) > 1 else _any(draws, VALUES, 3)


def _multikey(excerpt: Excerpt) -> str | None:
    return dict(_PAIR.findall(excerpt.context)).get(_asked(excerpt))


def _guess_value(excerpt: Excerpt, draws: Draws) -> str:
    return _some(draws, _VALUE.findall(excerpt.context), VALUES)


def _multivalue(excerpt: Excerpt) -> str | None:
    told = [value for key, value in _PAIR.findall(excerpt.context) if key == _asked(excerpt)]
    return " ".join(told) if told and excerpt.whole else None


def _guess_multivalue(excerpt: Excerpt, draws: Draws) -> str:
    pairs = _PAIR.findall(excerpt.context)
    each = len(pairs) // len({key for key, _ in pairs})
    return _some(draws, [value for _, value in pairs], VALUES, each)


def _multiquery(excerpt: Excerpt) -> str | None:
    told = dict(_PAIR.findall(excerpt.context))
    keys = _asked(excerpt).split()
    return " ".join(told[key] for key in keys) if told.keys() >= set(keys) else None


def _guess_multiquery(excerpt: Excerpt, draws: Draws) -> str:
    return _some(draws, _VALUE.findall(excerpt.context), VALUES, len(_asked(excerpt).split()))


def _overwrite(excerpt: Excerpt) -> str | None:
    told = [value for key, value in _PAIR.findall(excerpt.context) if key == _asked(excerpt)]
    if "FIRST" in excerpt.question:
        return told[0] if told and excerpt.whole else None
    return told[-1] if told else None


def _newest(excerpt: Excerpt) -> str | None:
    return dict(_ADJACENT.findall(excerpt.context)).get(_asked(excerpt))


def _resolve(told: dict[str, str], variable: str) -> tuple[str, int] | None:
    """Return the value of a variable and how many assignments lead to it; None if the chain is broken."""
    hops = 0
    while variable in told:
        variable = told[variable]
        hops += 1
    return (variable, hops) if variable.startswith("v") else None


def _tracking(excerpt: Excerpt) -> str | None:
    told = dict(_ASSIGNMENT.findall(excerpt.context))
    if variable := _asked(excerpt):
        found = _resolve(told, variable)
        return found[0] if found else None
    value = _VALUE.findall(excerpt.question)[0]
    resolved = {name: _resolve(told, name) for name in told}
    same = {name: found[1] for name, found in resolved.items() if found and found[0] == value}
    return " ".join(sorted(same, key=lambda name: same[name])) if same and excerpt.whole else None


def _guess_tracking(excerpt: Excerpt, draws: Draws) -> str:
    told = dict(_ASSIGNMENT.findall(excerpt.context))
    values = [value for value in told.values() if value.startswith("v")]
    return _some(draws, values, VALUES) if _asked(excerpt) else _some(draws, [*told], KEYS, len(told) // len(values))


def _most_told(excerpt: Excerpt) -> str | None:
    told = Counter(_KEY.findall(excerpt.context))  # in the order of the text
    top = [word for word, _ in told.most_common(excerpt.question.count("COUNT"))]
    return " ".join(word for word in told if word in top) if told and excerpt.whole else None


def _guess_words(excerpt: Excerpt, draws: Draws) -> str:
    return _some(draws, _KEY.findall(excerpt.context), KEYS, excerpt.question.count("COUNT"))


def _where(excerpt: Excerpt) -> str | None:
    """Look up where a person or a thing is, event by event, from what was said last."""
    events = _EVENT.findall(excerpt.context)
    asked, *before = [word for word in excerpt.question.split() if word not in ("QUERY", "WHERE", "FIRST")]

    def person(name: str, until: int) -> str | None:
        walks = [thing for actor, verb, thing in events[:until] if actor == name and verb == "WENT"]
        return walks[-1] if walks else None

    def thing(name: str, until: int) -> str | None:
        touched = [at for at, (_, verb, it) in enumerate(events[:until]) if it == name and verb != "WENT"]
        if not touched:
            return None
        actor, verb, _ = events[touched[-1]]
        return person(actor, touched[-1] if verb == "DROPPED" else until)

    if asked.startswith("n"):
        return person(asked, len(events))
    if not before:
        return thing(asked, len(events))
    rooms = [room for until in range(len(events) + 1) if (room := thing(asked, until))]
    stays = [room for at, room in enumerate(rooms) if at == 0 or rooms[at - 1] != room]
    last = max((at for at, room in enumerate(stays) if room == before[0]), default=0)
    return stays[last - 1] if last else None


def _guess_room(excerpt: Excerpt, draws: Draws) -> str:
    return _any(draws, ROOMS, 1)


def _copy(excerpt: Excerpt) -> str | None:
    found = _STRING.search(excerpt.context)
    return found.group(1).strip() if found else None


def _selective_copy(excerpt: Excerpt) -> str | None:
    told = _VALUE.findall(excerpt.context)
    return " ".join(told) if told and excerpt.whole else None


def _guess_string(excerpt: Excerpt, draws: Draws) -> str:
    return _any(draws, VALUES, len(_VALUE.findall(excerpt.context)))


def _guess_any_value(excerpt: Excerpt, draws: Draws) -> str:
    return _any(draws, VALUES, 1)


def _state(points: int, excerpt: Excerpt) -> str | None:
    """Apply permutation after permutation."""
    updates = [int(word[1:]) for word in _KEY.findall(excerpt.context)]
    if not updates or not excerpt.whole:
        return None
    elements = list(permutations(range(points)))
    state = elements[0]
    for update in updates:
        state = tuple(elements[update][point] for point in state)
    return f"v{elements.index(state)}"


def _guess_state(points: int, excerpt: Excerpt, draws: Draws) -> str:
    return f"v{draws.integer(0, len(list(permutations(range(points)))) - 1)}"


def _summary(excerpt: Excerpt) -> str | None:
    facts = {name: room for name, verb, room in _EVENT.findall(excerpt.context) if verb == "WENT"}
    names = sorted(facts, key=lambda name: int(name[1:]))
    return " ".join(f"{name} {facts[name]}" for name in names) if names and excerpt.whole else None


def _guess_summary(excerpt: Excerpt, draws: Draws) -> str:
    names = sorted({name for name, _, _ in _EVENT.findall(excerpt.context)}, key=lambda name: int(name[1:]))
    return " ".join(f"{name} {room}" for name, room in zip(names, _any(draws, ROOMS, len(names)).split(), strict=True))


SYMBOLIC_PARSERS: dict[str, Parser] = {
    "sym_passkey": Parser(_passkey, _guess_passkey),
    "sym_multikey": Parser(_multikey, _guess_value),
    "sym_multivalue": Parser(_multivalue, _guess_multivalue),
    "sym_multiquery": Parser(_multiquery, _guess_multiquery),
    "sym_overwrite": Parser(_overwrite, _guess_value),
    "sym_mqar": Parser(_newest, _guess_value),
    "sym_forgetting_mqar": Parser(_newest, _guess_value),
    "sym_vt": Parser(_tracking, _guess_tracking),
    "sym_cwe": Parser(_most_told, _guess_words),
    "sym_fwe": Parser(_most_told, _guess_words),
    "sym_babi": Parser(_where, _guess_room),
    "sym_copy": Parser(_copy, _guess_string),
    "sym_selective_copy": Parser(_selective_copy, _guess_string),
    "sym_induction": Parser(_newest, _guess_any_value),
    "sym_parity": Parser(partial(_state, 2), partial(_guess_state, 2)),
    "sym_s3": Parser(partial(_state, 3), partial(_guess_state, 3)),
    "sym_s5": Parser(partial(_state, 5), partial(_guess_state, 5)),
    "sym_summary": Parser(_summary, _guess_summary),
}
"""How each symbolic task is read, by its name."""
