"""Retrieval tasks of other wordings: passkeys among numbers, content cues, JSON, a phone book, codes that change."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from palimpsest.tasks.templates import INTRODUCTION
from palimpsest.tasks.text.lexicon import CUES, DOORS, FULL_NAMES, ROSETTA, TICKETS, Led, Numbers, Uuids
from palimpsest.tasks.text.pairs import Form, PairsSpec, PairsTask, Plan

PASS_KEY = "pass key"


class TextPasskeySpec(PairsSpec):
    """The knobs of ``text_passkey``.

    Attributes:
        key_digits: width of the key and of all other numbers.
        needle: ``repeat`` is the classic needle, which tells the key twice; ``short`` tells it once.
        distractors: sentences of the same form that tell the numbers of other things. Items that differ in this knob
            alone have the same key and, as nearly as whole sentences allow, the same place of the needle.
    """

    kind: Literal["text_passkey"] = "text_passkey"
    questions: Annotated[int, Field(ge=1, le=1)] = 1
    key_digits: Annotated[int, Field(ge=3, le=12)] = 5
    needle: Literal["repeat", "short"] = "short"
    distractors: Annotated[int, Field(ge=0, le=90)] = 0


class TextPasskey(PairsTask[TextPasskeySpec]):
    """The passkey of Mohtashami & Jaggi 2023 in prose, or among numbers told in the same words."""

    name = "text_passkey"
    unpaired = frozenset({"distractors"})

    def worded(self) -> tuple[Form, Plan]:
        """Return the wording of the passkey; the other things have numbers too."""
        repeated = " Remember it. {value} is the {key}." if self.spec.needle == "repeat" else ""
        form = Form(
            introduction=INTRODUCTION,
            needle=" The {key} is {value}." + repeated,
            question=" What is the {keys}? The {keys} is",
            keys=Led(PASS_KEY, TICKETS),
            values=Numbers(self.spec.key_digits),
        )
        return form, Plan(keys=1 + self.spec.distractors)


class RosettaSpec(PairsSpec):
    """The knobs of ``rosetta``.

    Attributes:
        cue: ``drawn`` asks for a word drawn per item; ``ROSETTA`` always for this one, never a cue in training.
        needles: words with a passkey each.
        key_digits: width of the passkeys.
    """

    kind: Literal["rosetta"] = "rosetta"
    cue: Literal["drawn", "ROSETTA"] = "drawn"
    needles: Annotated[int, Field(ge=1, le=50)] = 8
    key_digits: Annotated[int, Field(ge=3, le=12)] = 5

    @model_validator(mode="after")
    def _askable(self) -> "RosettaSpec":
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.needles} needles")
        if self.questions > 1 and self.cue == ROSETTA:
            raise ValueError("several questions ask for several words: cue drawn")
        return self


class Rosetta(PairsTask[RosettaSpec]):
    """``The passkey associated with the word ROSETTA is 48213.`` among passkeys of other words."""

    name = "rosetta"

    def worded(self) -> tuple[Form, Plan]:
        """Return the wording; only the word tells which passkey is meant."""
        form = Form(
            introduction="Some words have a passkey that is told in the following text. Memorize all of them.",
            needle=" The passkey associated with the word {key} is {value}.",
            question=" What is the passkey associated with the word {keys}? The passkey associated with the word "
            "{keys} is",
            keys=CUES if self.spec.cue == "drawn" else Led(ROSETTA, CUES, splits=("evaluation",)),
            values=Numbers(self.spec.key_digits),
        )
        return form, Plan(keys=self.spec.needles)


class KeyValueSpec(PairsSpec):
    """The knobs of ``key_value``: those of all tasks about keys and values."""

    kind: Literal["key_value"] = "key_value"


class KeyValue(PairsTask[KeyValueSpec]):
    """A JSON object of UUIDs, as many as fit, and one of them asked for (Liu et al. 2023; InfiniteBench; HELMET)."""

    name = "key_value"

    def worded(self) -> tuple[Form, Plan]:
        """Return InfiniteBench's wording, on one line."""
        form = Form(
            introduction="Extract the value corresponding to the specified key in the JSON object below.",
            needle=' "{key}": "{value}",',
            question=' Key: "{keys}". The value associated with the specified key is:',
            keys=Uuids(),
            values=Uuids(),
            opening=" JSON data: {",
            closing=' "{key}": "{value}" }}',
        )
        return form, Plan(keys=None)


class PhoneBookSpec(PairsSpec):
    """The knobs of ``phone_book``.

    Attributes:
        shown: entries that the question repeats, to show what is asked for.
    """

    kind: Literal["phone_book"] = "phone_book"
    shown: Annotated[int, Field(ge=0, le=8)] = 2


class PhoneBook(PairsTask[PhoneBookSpec]):
    """``Ada Abbott: 8347201956.`` for as many as fit, one of them asked for (Jelassi et al. 2024, arXiv 2402.01032)."""

    name = "phone_book"

    def worded(self) -> tuple[Form, Plan]:
        """Return the wording; entries follow each other after a space instead of a line's end."""
        form = Form(
            introduction="Here is a phone book. Memorize all of it.",
            needle=" {key}: {value}.",
            question="{shown} {keys}:",
            keys=FULL_NAMES,
            values=Numbers(10),
            shown=self.spec.shown,
        )
        return form, Plan(keys=None)


class OverwriteSpec(PairsSpec):
    """The knobs of ``overwrite``.

    Attributes:
        needles: doors with a code.
        writes: how often the code of each is told, another one each time.
        ask: for the ``newest`` code of a door or for its ``first``.
        key_digits: width of the codes.
    """

    kind: Literal["overwrite"] = "overwrite"
    needles: Annotated[int, Field(ge=1, le=256)] = 4
    writes: Annotated[int, Field(ge=1, le=64)] = 2
    ask: Literal["newest", "first"] = "newest"
    key_digits: Annotated[int, Field(ge=3, le=12)] = 4

    @model_validator(mode="after")
    def _askable(self) -> "OverwriteSpec":
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.needles} doors")
        return self


class Overwrite(PairsTask[OverwriteSpec]):
    """``The code of the blue door is now 4711.`` told again and again; the newest code, or the first, is asked for."""

    name = "overwrite"

    def worded(self) -> tuple[Form, Plan]:
        """Return the wording."""
        code, verb = ("code", "is") if self.spec.ask == "newest" else ("first code", "was")
        form = Form(
            introduction="The codes of some doors change in the following text. Remember which code each of them has.",
            needle=" The code of the {key} is now {value}.",
            question=f" What {verb} the {code} of the {{keys}}? The {code} of the {{keys}} {verb}",
            keys=DOORS,
            values=Numbers(self.spec.key_digits),
        )
        return form, Plan(keys=self.spec.needles, values=self.spec.writes, told=self.spec.ask)
