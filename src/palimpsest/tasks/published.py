"""Published needle prompts as a task: what the study asks its models, with the true place of the needle in tokens.

The prompts are those of ``palimpsest.tasks.needles``: their lengths may count characters, their needle may cross a
boundary of segments, and their keys know no split, as in the public sets.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.needles import (
    ASKED,
    CYCLE,
    LARGEST_KEY,
    TOLD,
    NeedlePrompt,
    NeedlePrompts,
    PublishedNeedles,
    TextTokenizer,
    needle_prompts,
)
from palimpsest.tasks.task import Output, Reference, Sample, Score, Span, Split, score_number

SHORTEST_FILLER = len(CYCLE)
"""Characters of filler that a prompt needs: one round of its sentences."""

ABSENT = -1


class PublishedItems(BaseModel):
    """The knobs of published needles as items; ``PublishedNeedles`` explains the first four.

    Attributes:
        candidates: number of answers to rank, the right one included, all of its width: nine of one digit.
        new_tokens: tokens that a model may say, 30 in the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["published"] = "published"
    units: Literal["characters", "tokens"] = "characters"
    needle: Literal["split", "stop", "whole"] = "split"
    key_digits: Annotated[int, Field(ge=1, le=12)] | None = None
    wording: Literal["important_info", "pass_key"] = "pass_key"
    candidates: Annotated[int, Field(ge=2, le=64)] = 16
    new_tokens: Annotated[int, Field(ge=1)] = 30


class PublishedPasskey:
    """A key told somewhere in filler, and asked for at the end, in the words of the public sets.

    Attributes:
        spec: the knobs.
        segment_length: tokens per segment; nothing is fitted to it.
    """

    name = "published_passkey"
    version = 1
    questions = 1

    def __init__(self, spec: PublishedItems, tokenizer: TextTokenizer, *, segment_length: int) -> None:
        self.spec = spec
        self.segment_length = segment_length
        self._tokenizer = tokenizer
        self._prompts = lru_cache(maxsize=1)(self._open)

    @property
    def floor(self) -> Reference:
        """What a guess reaches, uniform among all keys and in the ranking of as many candidates as are asked for."""
        keys = LARGEST_KEY if self.spec.key_digits is None else 9 * 10 ** (self.spec.key_digits - 1)
        return Reference(exact=1 / keys, rank_first=1 / self.spec.candidates)

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        return Reference(exact=1.0, rank_first=1.0)

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> Sample:
        """Make one item, a pure function of its arguments; ``Sample.length`` is its true length in tokens.

        Args:
            split: makes another set of items; keys are shared by chance.
            seed, index: coordinates of the item.
            length: of the filler or the whole, as ``units`` says.
            depth: where in the filler the needle is told, from 0 (start) to 1. None: anywhere.

        Raises:
            InputError: ``depth`` is outside 0..1, or no text of this length can be made.
        """
        label = f"{self.name}@{self.version}|{split}|{seed}|{index}|{length}"
        if depth is None:
            depth = float(Draws(f"{label}|depth").fractions(1)[0])
        if not 0.0 <= depth <= 1.0:
            raise InputError(f"the depth of a needle is a fraction of the filler from 0 to 1, not {depth}")
        if self.spec.units == "characters" and length < SHORTEST_FILLER:
            raise InputError(
                f"a published needle prompt needs at least {SHORTEST_FILLER} characters of filler, one round of its "
                f"sentences; got {length}"
            )
        label += f"|{float(depth).hex()}"
        found = self._prompts(seed, length, depth).prompt(_number(label))
        prompt = self._encode(_question_of(found))
        candidates = self._candidates(label, found.key)
        ids = [self._encode(candidate) for candidate in candidates]
        candidate_ids = np.full((len(ids), max(map(len, ids))), ABSENT, dtype=np.int32)
        for row, tokens in enumerate(ids):
            candidate_ids[row, : len(tokens)] = tokens
        input_ids = np.array(prompt + ids[0], dtype=np.int32)
        input_ids.setflags(write=False)
        candidate_ids.setflags(write=False)
        content = f"{label}|{candidates}|".encode() + input_ids.astype("<i4").tobytes()
        identity = blake2b(content, digest_size=8).hexdigest()
        return Sample(
            id=identity,
            task=self.name,
            version=self.version,
            split=split,
            seed=seed,
            index=index,
            cluster=identity,
            depth=float(depth),
            segment_length=self.segment_length,
            input_ids=input_ids,
            prompt_length=len(prompt),
            question_start=self._place(found.text, found.text.rindex(ASKED)),
            needles=(self._needle(found),),
            candidates=candidates,
            candidate_ids=candidate_ids,
            answers=candidates[:1],
            others=(),
            facts={"needles": 1, "distractors": 0, "hops": 1, "nominal": length, "units": self.spec.units},
            new_tokens=self.spec.new_tokens,
        )

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer: is the first integer of the text the whole key, does the text contain it, its rank.

        Raises:
            ValueError: the number of log-probabilities is not the number of candidates.
        """
        return score_number(sample, output)

    def _open(self, seed: int, length: int, depth: float) -> NeedlePrompts:
        knobs = self.spec.model_dump(exclude={"candidates", "new_tokens"})
        spec = PublishedNeedles(lengths=(length,), depths=(100 * depth,), seed=seed, **knobs)
        return needle_prompts(spec, self._tokenizer, split="evaluation", segment_length=self.segment_length)

    def _candidates(self, label: str, key: str) -> tuple[str, ...]:
        """Return the key, then others of its width, all different."""
        lowest = 10 ** (len(key) - 1)
        highest = 10 * lowest - 1
        draws, found = Draws(f"{label}|candidates"), {key: None}
        while len(found) < min(self.spec.candidates, highest - lowest + 1):
            found[str(draws.integer(lowest, highest))] = None
        return tuple(found)

    def _needle(self, found: NeedlePrompt) -> Span:
        """Return where the sentences are that tell the key."""
        told = TOLD.format(key=found.key).strip()
        start = found.text.index(told)
        return Span(self._place(found.text, start), self._place(found.text, start + len(told)))

    def _place(self, text: str, character: int) -> int:
        """Return the tokens before a character; the blank before a word belongs to the word's token."""
        return len(self._encode(text[:character].rstrip(" ")))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def _question_of(found: NeedlePrompt) -> str:
    """Return a prompt without its answer and the full stop behind it."""
    return found.text[: found.text.rindex(ASKED) + len(ASKED)]


def _number(label: str) -> int:
    """Return the number of a prompt in its set, so that items of all cells have keys of their own."""
    return int.from_bytes(blake2b(label.encode(), digest_size=6).digest())
