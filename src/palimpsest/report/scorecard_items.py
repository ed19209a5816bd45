"""Single items of a scorecard: which of them are shown, how a prompt is shortened, and the page that lists them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, get_args

from palimpsest.errors import InputError
from palimpsest.records import (
    ErrorClass,
    ItemRecord,
    ShownItemRecord,
    ShownOutput,
    ShownPart,
    line_files,
    read_jsonl,
)
from palimpsest.report.answer_figures import ERROR_NAMES
from palimpsest.report.load import INTACT
from palimpsest.report.markup import Html, code, element, joined, prose
from palimpsest.report.numerals import number, plural, tokens
from palimpsest.report.tables import Column, Table, Value, table_html
from palimpsest.statistics import estimate

SAMPLES = ".samples"
"""What the file of the shown items of an ask has in its name, besides that of the ask."""

_KINDS: tuple[ErrorClass, ...] = get_args(ErrorClass)


class Answerer(NamedTuple):
    """One arm, intact (``"none"``) or under an intervention."""

    arm: str
    intervention: str


@dataclass(frozen=True)
class Asked:
    """All that is known of the items of one ask.

    Attributes:
        name: of the ask.
        file: with all answers, None if there is none.
        counts: how many answers of each kind.
        exact: how many exact answers.
        shown: the items to show.
    """

    name: str
    file: Path | None
    counts: Mapping[Answerer, Counter[ErrorClass]]
    exact: Mapping[Answerer, int]
    shown: Sequence[ShownItemRecord]

    @property
    def answers(self) -> int:
        """How many answers were recorded."""
        return sum(counter.total() for counter in self.counts.values())


def excerpt(
    words: Sequence[str],
    needles: Iterable[tuple[int, int]],
    question_start: int,
    around: int = 12,
    separator: str = " ",
) -> tuple[ShownPart, ...]:
    """Shorten a prompt to what lies around its needles and its question.

    Args:
        words: the tokens of the prompt, as text.
        needles: first and one past the last position of each needle; they may overlap.
        question_start: position of the first token of the question, which goes on to the end.
        around: how many tokens to keep on either side.
        separator: what stands between two tokens.

    Raises:
        InputError: a needle or a question that is not inside the prompt.
    """
    spans = sorted(needles)
    if not 0 <= question_start <= len(words):
        raise InputError(f"The question starts at {question_start} of a prompt of {plural(len(words), 'token')}.")
    owner: list[tuple[str, int]] = [("gap", 0)] * len(words)
    for start, end in [*spans, (question_start, len(words))]:
        if not 0 <= start <= end <= len(words):
            raise InputError(f"A needle from {start} to {end} is not inside a prompt of {len(words)} tokens.")
        near = range(max(0, start - around), min(len(words), end + around))
        owner[near.start : near.stop] = [("text", 0)] * len(near)
    owner[question_start:] = [("question", 0)] * (len(words) - question_start)
    for order, (start, end) in enumerate(spans):
        owner[start:end] = [("needle", order)] * (end - start)
    parts = []
    for (kind, _), run in groupby(range(len(words)), key=owner.__getitem__):
        places = list(run)
        text = separator.join(words[places[0] : places[-1] + 1])
        shown = plural(len(places), "token") if kind == "gap" else text
        parts.append(ShownPart.model_validate({"kind": kind, "text": shown}))
    return tuple(parts)


def chosen(items: Iterable[ItemRecord], cap: int = 60) -> list[ItemRecord]:
    """Choose which answers of intact models to show: by a rule that looks at the kind of an answer and no further.

    The kinds of answers of all arms take turns, so that each is there at least once, even beyond ``cap``. Within one of
    them numbers of compressions take turns, the largest first; a digest of the item decides between equals.

    Returns:
        The answers by arm (as they come in ``items``), kind, and turn.
    """
    groups: dict[tuple[str, ErrorClass], dict[int, list[ItemRecord]]] = defaultdict(lambda: defaultdict(list))
    arms: dict[str, None] = {}
    for item in items:
        if item.intervention == INTACT:
            arms.setdefault(item.arm)
            groups[item.arm, item.error_class][item.compressions].append(item)
    order = sorted(groups, key=lambda group: (list(arms).index(group[0]), _KINDS.index(group[1])))
    queues = {group: _in_turns(groups[group]) for group in order}
    taken = dict.fromkeys(order, 0)
    while (first := not any(taken.values())) or sum(taken.values()) < cap:
        before = sum(taken.values())
        for group in order:
            if taken[group] < len(queues[group]) and (first or sum(taken.values()) < cap):
                taken[group] += 1
        if sum(taken.values()) == before:
            break
    return [item for group in order for item in queues[group][: taken[group]]]


def shown_item(
    answers: Iterable[ItemRecord], words: Sequence[str], around: int = 12, separator: str = " "
) -> ShownItemRecord:
    """Put together what a reader sees of one item and one trained model.

    Args:
        answers: of this model to this item, one for each intervention and one without.
        words, around, separator: as in ``excerpt``.

    Raises:
        InputError: answers of different models or to different items, or none of the intact model.
    """
    sorted_answers = sorted(answers, key=lambda answer: answer.intervention != INTACT)
    if len({(answer.arm, answer.seed, answer.task, answer.item_id) for answer in sorted_answers}) != 1:
        raise InputError("Answers that are shown together must be those of one model to one item.")
    first = sorted_answers[0]
    if first.intervention != INTACT:
        raise InputError(f"Item {first.item_id} of {first.task}: there is no answer of the intact model.")
    needles = first.needles or ((first.needle_start, first.needle_end),)
    return ShownItemRecord(
        task=first.task,
        item_id=first.item_id,
        arm=first.arm,
        seed=first.seed,
        length=first.length,
        distance=first.distance,
        compressions=first.compressions,
        locally_reachable=first.locally_reachable,
        answer=first.answer,
        parts=excerpt(words, needles, first.question_start, around, separator),
        outputs=tuple(
            ShownOutput.model_validate({field: getattr(answer, field) for field in ShownOutput.model_fields})
            for answer in sorted_answers
        ),
        knobs=first.facts,
    )


def load_asked(directory: Path) -> list[Asked]:
    """Read the ``items`` directory of a scorecard; answers are counted as they go by, however many there are.

    Raises:
        InputError: a line that is no record, a damaged file, or two files of one ask.
    """
    files = line_files(directory)
    names = sorted({name.removesuffix(SAMPLES) for name in files})
    return [_asked(name, files.get(name), files.get(name + SAMPLES)) for name in names]


def items_main(asked: Asked) -> Html:
    """Return the body of the page of one ask: all answers as counts, then the shown items by arm and kind."""
    groups: dict[str, dict[ErrorClass, list[ShownItemRecord]]] = defaultdict(lambda: defaultdict(list))
    for item in asked.shown:
        groups[item.arm][item.outputs[0].error_class].append(item)
    sections = [_arm(place, arm, kinds) for place, (arm, kinds) in enumerate(groups.items(), 1)]
    return joined([_overview(asked), _contents(groups), *sections])


def _asked(name: str, file: Path | None, samples: Path | None) -> Asked:
    counts: dict[Answerer, Counter[ErrorClass]] = defaultdict(Counter)
    exact: Counter[Answerer] = Counter()
    for item in read_jsonl(file, ItemRecord) if file is not None else ():
        who = Answerer(item.arm, item.intervention)
        counts[who][item.error_class] += 1
        exact[who] += item.exact
    shown = list(read_jsonl(samples, ShownItemRecord)) if samples is not None else []
    seen = set()
    for item in shown:
        if not item.outputs or item.outputs[0].intervention != INTACT:
            raise InputError(f"{samples}: item {item.item_id}: the first output must be that of the intact model.")
        if (who := (item.arm, item.seed, item.task, item.item_id)) in seen:
            raise InputError(f"{samples}: item {item.item_id} of arm '{item.arm}', seed {item.seed}, is there twice.")
        seen.add(who)
    return Asked(name, file, dict(counts), dict(exact), shown)


def _in_turns(by_compressions: Mapping[int, Sequence[ItemRecord]]) -> list[ItemRecord]:
    queues = [sorted(by_compressions[count], key=_digest) for count in sorted(by_compressions, reverse=True)]
    longest = max(map(len, queues))
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _digest(item: ItemRecord | ShownItemRecord) -> str:
    # without the arm, so that arms which answer alike are shown with the same items
    return hashlib.sha256(f"{item.seed}\n{item.task}\n{item.item_id}".encode(errors="replace")).hexdigest()


def _overview(asked: Asked) -> Html:
    if not asked.counts:
        return _section("all", "All answers", element("p", {"class": "nothing"}, "No answers were recorded."))
    seen = _present(kind for counter in asked.counts.values() for kind in counter)
    arms = list(dict.fromkeys(who.arm for who in asked.counts))
    rows: list[list[Value]] = []
    for arm in arms:
        for who in sorted((who for who in asked.counts if who.arm == arm), key=lambda who: who.intervention != INTACT):
            counter, right = asked.counts[who], asked.exact.get(who, 0)
            share = estimate([1.0] * right + [0.0] * (counter.total() - right))
            rows.append([arm, _said(who.intervention), share, *(counter[kind] for kind in seen)])
    columns = [Column("arm", head=True), Column("memory"), Column("exact", "share")]
    columns += [Column(ERROR_NAMES[kind]) for kind in seen]
    caption = (
        "All answers, all seeds, lengths and settings together: share that is exact (95 % Wilson), and their kinds"
    )
    return _section("all", "All answers", table_html(Table("answers", caption, columns, rows)))


def _contents(groups: Mapping[str, Mapping[ErrorClass, Sequence[ShownItemRecord]]]) -> Html:
    if not groups:
        return _section("shown", "Shown items", element("p", {"class": "nothing"}, "No items were chosen to be shown."))
    seen = _present(kind for kinds in groups.values() for kind in kinds)
    rows: list[list[Value]] = []
    for place, (arm, kinds) in enumerate(groups.items(), 1):
        cells = [
            element("a", {"href": f"#{_anchor(place, kind)}"}, f"{len(kinds[kind]):,} shown") if kind in kinds else None
            for kind in seen
        ]
        rows.append([element("a", {"href": f"#arm-{place}"}, prose(arm)), *cells])
    columns = [Column("arm", head=True), *(Column(ERROR_NAMES[kind]) for kind in seen)]
    words = (
        "Chosen by rule, never by hand: the kinds of answers take turns, so rare ones are over-represented here (the "
        "table above has their frequencies), and within a kind numbers of compressions do, the largest first. In the "
        "prompts "
    )
    legend = joined(
        [words, element("mark", None, "needles are boxed"), ", ", element("u", None, "the question is underlined"), "."]
    )
    table = table_html(Table("", "Shown items by arm and by what the intact model answered", columns, rows))
    return _section("shown", "Shown items", element("p", None, legend), table)


def _arm(place: int, arm: str, kinds: Mapping[ErrorClass, Sequence[ShownItemRecord]]) -> Html:
    parts = [
        part
        for kind in _present(kinds)
        for part in (
            element("h3", {"id": _anchor(place, kind), "class": "kind"}, f"{prose(arm)}: {ERROR_NAMES[kind]}"),
            *(_item(item, f"arm-{place}-item-{_digest(item)[:12]}") for item in kinds[kind]),
        )
    ]
    return _section(f"arm-{place}", prose(arm), *parts)


def _item(item: ShownItemRecord, anchor: str) -> Html:
    about = [
        f"seed {item.seed}",
        f"{tokens(item.length)} tokens",
        plural(item.compressions, "compression"),
        f"needle {item.distance:,} tokens back" + (", within local attention" if item.locally_reachable else ""),
        *(f"{prose(name)} {_knob(value)}" for name, value in item.knobs.items()),
    ]
    link = element("a", {"href": f"#{anchor}"}, code(item.item_id, 24))
    head = element("header", None, link, element("span", {"class": "n"}, " · ".join(about)))
    rows: list[list[Value]] = [
        [
            _said(out.intervention),
            code(out.output, 160),
            "exact" if out.exact else "not exact",
            ERROR_NAMES[out.error_class],
            f"{out.rank:,} of {out.candidates:,}",
            number(out.answer_logprob),
        ]
        for out in item.outputs
    ]
    names = ("said", "score", "what it is", "rank of the answer", "its log-probability")
    asked = joined(["Asked for: ", code(item.answer, 160)])
    table = table_html(
        Table(
            "",
            "What the model said, by what was done to its memory",
            [Column("memory", head=True), *map(Column, names)],
            rows,
        )
    )
    prompt = element("p", {"class": "prompt"}, joined(_between(map(_part, item.parts))))
    return element("article", {"class": "item", "id": anchor}, head, prompt, element("p", None, asked), table)


def _part(part: ShownPart) -> Html:
    if part.kind == "gap":
        return element("span", {"class": "gap"}, f"… {prose(part.text)} …")
    text = element("bdi", None, prose(part.text))
    return text if part.kind == "text" else element("mark" if part.kind == "needle" else "u", None, text)


def _between(parts: Iterable[Html]) -> list[str]:
    return [piece for part in parts for piece in (part, " ")][:-1]


def _present(kinds: Iterable[ErrorClass]) -> list[ErrorClass]:
    """Return the kinds of answers that there are, in their usual order."""
    there = set(kinds)
    return [kind for kind in _KINDS if kind in there]


def _knob(value: float | str) -> str:
    return prose(value) if isinstance(value, str) else number(value)


def _said(intervention: str) -> str:
    return "intact" if intervention == INTACT else prose(intervention).replace("_", " ")


def _anchor(place: int, kind: ErrorClass) -> str:
    return f"arm-{place}-{kind.replace('_', '-')}"


def _section(anchor: str, title: str, *body: str) -> Html:
    return element("section", {"id": anchor}, element("h2", None, title), *body)
