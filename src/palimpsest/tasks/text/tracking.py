"""``vt``: chains of variables, each set to the one before it (RULER's variable tracking, Hsieh et al. 2024).

Departures: drawn per item, several chains do not share values, the order can be shuffled, and the value at the end of a
chain can be asked for (``ask: value``) beside RULER's form, all variables that have a value.
"""

from math import comb
from string import ascii_uppercase
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Reference, Span, Split
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.base import Haystack, Question, TextSpec, TextTask
from palimpsest.tasks.text.haystack import Unit, lay, ordered_cuts, place
from palimpsest.tasks.text.lexicon import Letters, Numbers
from palimpsest.tasks.text.pairs import candidates_among

INTRODUCTION = "Memorize and track the chains of variable assignment hidden in the following text."
FIRST = " VAR {name} = {value}."
NEXT = " VAR {name} = VAR {before}."
ASK_VARIABLES = (
    " Question: Find all variables that are assigned the value {value} in the text above. Answer: According to the "
    "chains of variable assignment in the text above, {count} variables are assigned the value {value}, they are:"
)
ASK_VALUE = (
    " Question: Which value is assigned to the variable {name} in the text above? Answer: According to the chains of "
    "variable assignment in the text above, the value of {name} is"
)

VARIABLES = Letters(5, tuple(ascii_uppercase))
VALUES = Numbers(5)


class TrackingSpec(TextSpec):
    """The knobs of ``vt``.

    Attributes:
        hops: assignments of one variable to another in each chain.
        chains: number of chains; one is asked about.
        order: ``told`` sets every variable after the one that it is set to; ``shuffled`` in any order.
        ask: for all ``variables`` that have a value (RULER), or for the ``value`` of the last one of a chain.
        candidates: number of answers to rank, the right one included.
    """

    kind: Literal["vt"] = "vt"
    hops: Annotated[int, Field(ge=0, le=64)] = 4
    chains: Annotated[int, Field(ge=1, le=64)] = 1
    order: Literal["told", "shuffled"] = "told"
    ask: Literal["variables", "value"] = "variables"
    candidates: Annotated[int, Field(ge=2, le=64)] = 16


class Tracking(TextTask[TrackingSpec]):
    """``VAR QXWZK = 51309.`` ... ``VAR ABCDE = VAR QXWZK.``, each assignment between sentences of its own place."""

    name = "vt"

    def __init__(self, spec: TrackingSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.numeric = spec.ask == "value"
        self._introduction = self.speller.opening(INTRODUCTION)

    @property
    def floor(self) -> Reference:
        """What one of the values told, or a random set of the variables told, reaches; with one chain, any at all."""
        if self.spec.chains == 1:
            guess = 1 / (VALUES if self.numeric else VARIABLES).available("evaluation")
        elif self.numeric:
            guess = 1 / self.spec.chains
        else:
            told = self.spec.chains * (self.spec.hops + 1)
            guess = 1 / comb(told, self.spec.hops + 1)
        return Reference(exact=guess, rank_first=1 / self.spec.candidates)

    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return the chains in filler; with ``depth`` the first assignment of the chain asked about lies there."""
        chains, links = self.spec.chains, self.spec.hops + 1
        names = VARIABLES.draw(Draws(f"{label}|names"), split, links * (chains + self.spec.candidates))
        values = VALUES.draw(Draws(f"{label}|values"), split, chains + self.spec.candidates)
        told = names[: chains * links]
        texts = [
            NEXT.format(name=name, before=told[at - 1])
            if at % links
            else FIRST.format(name=name, value=values[at // links])
            for at, name in enumerate(told)
        ]
        question, answers, others, spare = self._asked(names, values)
        self.speller.learn([*texts, *(f" {answer}" for answer in answers)])
        end = length - self.asked_length(question, ", ".join(answers))
        ground = self.ground(len(self._introduction), end)
        units = [Unit(self.speller.spell(text)) for text in texts]
        draws = Draws(f"{label}|cuts")
        starts = place(ground, units, lambda: self._cuts(draws, depth), self.name)
        ids = lay(ground, units, starts, Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        needles = sorted(
            Span(start, start + len(unit.ids)) for start, unit in list(zip(starts, units, strict=True))[:links]
        )
        asked = Question(
            text=question,
            candidates=candidates_among(Draws(f"{label}|candidates"), answers, others, spare, self.spec.candidates),
            answers=tuple(answers),
            needles=tuple(needles),
            others=tuple(others),
            facts={"needles": links, "distractors": (chains - 1) * links, "hops": self.spec.hops, "chains": chains},
        )
        return Haystack(np.concatenate([np.array(self._introduction, dtype=np.int32), ids]), [asked])

    def _asked(self, names: list[str], values: list[str]) -> tuple[str, list[str], list[str], list[str]]:
        """Return the question about the first chain, its answers, what the others would be, and what nobody told."""
        chains, links = self.spec.chains, self.spec.hops + 1
        if self.numeric:
            return ASK_VALUE.format(name=names[links - 1]), values[:1], values[1:chains], values[chains:]
        question = ASK_VARIABLES.format(value=values[0], count=links)
        return question, names[:links], names[links : chains * links], names[chains * links :]

    def _cuts(self, draws: Draws, depth: float | None) -> np.ndarray:
        links = self.spec.hops + 1
        cuts = draws.fractions(self.spec.chains * links).reshape(-1, links)
        if self.spec.order == "told":
            cuts = np.sort(cuts, axis=1)
            if depth is not None:
                cuts[0] = ordered_cuts(cuts[0], 0, depth)
        elif depth is not None:
            cuts[0, 0] = depth
        return cuts.reshape(-1)
