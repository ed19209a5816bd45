"""Rows of needle prompts: packed as the public code did, or one prompt a row."""

import hashlib
import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.data import IGNORED
from palimpsest.data.needle_tokens import NeedleTokens, encode_needles, prepare_needles, tokenizer_digest
from palimpsest.data.needles import (
    Ending,
    NeedleRow,
    NeedleText,
    StoredNeedles,
    finished_text,
    needle_files,
    stored_rows,
)
from palimpsest.data.tokenizer import document_encoder, end_of_text_number
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.records import write_jsonl
from palimpsest.tasks import Split
from palimpsest.tasks.needles import IntendedNeedles, PublishedNeedles, TextTokenizer, needle_prompts
from palimpsest.training.recipe import NeedlesData
from palimpsest.training.rows import Row, padding_token
from palimpsest.training.state import STATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NEEDLES = "needles"
"""Where in the data of a run the tokenised prompts lie."""


class NeedleRows:
    """Rows of needle prompts, row i a pure function of (seed, i).

    ``packed``: the prompts, in the order of their set, are one stream, which is cut every ``sequence_length`` tokens;
    what is left at its end is dropped. ``padded`` and ``whole``: one prompt a row, padded on the right. All rows come
    once in every epoch, in an order that is a function of (seed, epoch). Where the loss is of the answers alone, rows
    that hold no answer teach nothing and are left out.

    Raises:
        InputError: no such set, a prompt longer than a row (``whole``), or a set without a single row.
    """

    def __init__(
        self,
        data: NeedlesData,
        seed: int,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        directory: Path,
        segment_length: int,
    ) -> None:
        self.data, self.seed = data, seed
        self.pad = padding_token(tokenizer)
        self.row_length = data.sequence_length
        self.prompts = _prepared(data, tokenizer, directory / NEEDLES, segment_length)
        self.fingerprint = self.prompts.fingerprint
        self.rows = self._kept_rows()
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)

    def __len__(self) -> int:
        """Rows in one epoch."""
        return self.rows.size

    def row(self, index: int) -> Row:
        """Return row ``index``."""
        epoch, position = divmod(index, len(self))
        return self.made_row(int(self.rows[self._order(epoch)[position]]))

    def made_row(self, number: int) -> Row:
        """Return row ``number`` of the set itself: in the order of its prompts, none left out."""
        if self.data.packing == "packed":
            return self._packed(number * self.row_length)
        start, end = int(self.prompts.starts[number]), int(self.prompts.ends[number])
        row = self._cut(start, min(end, start + self.row_length))
        return row.padded(self.row_length, self.pad)

    def _packed(self, start: int) -> Row:
        return self._cut(start, start + self.row_length)

    def _cut(self, start: int, stop: int) -> Row:
        """Return the tokens ``start .. stop`` of the stream; documents are numbered from 0."""
        tokens = np.array(self.prompts.tokens[start:stop], dtype=np.int64)
        first, last = np.searchsorted(self.prompts.starts, (start, stop))
        begins = self.prompts.starts[first:last] - start
        document_ids = np.zeros_like(tokens)
        document_ids[begins[begins > 0]] = 1
        labels = tokens.copy() if self.data.loss == "all" else self._answers(tokens, start, stop)
        labels[0] = IGNORED
        labels[begins] = IGNORED
        return Row(tokens, labels, np.cumsum(document_ids), weight=1.0)

    def _answers(self, tokens: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        """Return labels on the answers and what closes them."""
        labels = np.full_like(tokens, IGNORED)
        first = int(np.searchsorted(self.prompts.ends, start, side="right"))
        last = int(np.searchsorted(self.prompts.asked, stop))
        for asked, end in self.prompts.places[first:last, 2:].tolist():
            here = slice(max(asked - start, 0), end - start)
            labels[here] = tokens[here]
        return labels

    def _kept_rows(self) -> NDArray[np.int64]:
        """Return the numbers of the rows to train on."""
        packed, length = self.data.packing == "packed", self.row_length
        if self.data.packing == "whole" and self.prompts.longest > length:
            longer = int(self.prompts.cut_off(length).sum())
            raise InputError(
                f"{longer:,} of {len(self.prompts):,} needle prompts are longer than sequence_length {length} (the "
                f"longest has {self.prompts.longest} tokens); make it that long, or let packing: padded cut them."
            )
        rows = np.arange(self.prompts.tokens.size // length if packed else len(self.prompts))
        if not rows.size:
            raise InputError(
                f"All needle prompts together have {self.prompts.tokens.size} tokens, fewer than one row of "
                f"{length} (sequence_length); give more prompts or shorter rows."
            )
        if self.data.loss == "all":
            return rows
        kept = rows[self._has_answer(packed)[: rows.size]]
        if not kept.size:
            raise InputError(
                f"No row of {length} tokens (sequence_length) holds an answer, so loss: answer has nothing to learn "
                "from; make rows longer, or take loss: all."
            )
        if kept.size < rows.size:
            logger.warning("%d of %d rows hold no answer and are left out.", rows.size - kept.size, rows.size)
        return kept

    def _has_answer(self, packed: bool) -> NDArray[np.bool_]:
        """Tell for each row whether a token of an answer is in it that its own row predicts."""
        length, asked, ends = self.row_length, self.prompts.asked, self.prompts.ends
        if not packed:
            return asked - self.prompts.starts < length
        found = np.zeros(self.prompts.tokens.size // length + 1, dtype=np.bool_)
        for step in range(int((ends - asked).max())):  # the tokens of an answer are few
            place = (asked + step)[asked + step < ends]
            found[place[place % length > 0] // length] = True
        return found

    def _order_of_epoch(self, epoch: int) -> NDArray[np.int64]:
        # raw output of a bit generator is the same in every version of numpy
        random = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        return np.argsort(random.random_raw(len(self)), kind="stable")


def generated_rows(
    spec: PublishedNeedles | IntendedNeedles,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    split: Split = "training",
    segment_length: int,
) -> Iterator[NeedleRow]:
    """Yield the prompts of a generated set in the hub's schema, answers included.

    Raises:
        InputError: the tokenizer or the lengths do not fit the form.
    """
    prompts = needle_prompts(spec, cast(TextTokenizer, tokenizer), split=split, segment_length=segment_length)
    for index in range(spec.number):
        prompt = prompts.prompt(index)
        yield NeedleRow(
            id=f"{spec.kind}-{split}-{spec.seed}-{index}",
            prompt=prompt.text,
            answer=int(prompt.key),
            context_length=prompt.context_length,
            depth_percent=prompt.depth_percent,
        )


def _prepared(
    data: NeedlesData, tokenizer: "PreTrainedTokenizerBase", directory: Path, segment_length: int
) -> NeedleTokens:
    """Tokenise the set of a recipe, or open it where that was done before."""
    spec = data.prompts
    made_from = {
        "prompts": spec.model_dump(mode="json"),
        "files": _signature(spec),
        "tokenizer": tokenizer_digest(tokenizer),
        "segment_length": segment_length if isinstance(spec, IntendedNeedles) else None,
        "end_of_text": end_of_text_number(tokenizer) if data.end_of_text else None,
    }
    identity = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def texts() -> Iterator[NeedleText]:
        ends: Ending = "answer"
        if isinstance(spec, StoredNeedles):
            rows, ends, name = stored_rows(spec), spec.ends, spec.source
        else:
            rows, name = generated_rows(spec, tokenizer, segment_length=segment_length), f"{spec.kind} needles"
        for number, row in enumerate(rows, 1):
            yield finished_text(row, ends, f"{name}, row {number}")

    return prepare_needles(directory, identity, texts, tokenizer, end_of_text=data.end_of_text)


def _signature(spec: StoredNeedles | PublishedNeedles | IntendedNeedles) -> list[tuple[str, int]] | None:
    """Return names and sizes of the files of a local set."""
    if not isinstance(spec, StoredNeedles) or not Path(spec.source).exists():
        return None
    return [(path.name, path.stat().st_size) for path in needle_files(Path(spec.source))]


def require_positions(data: NeedlesData, init: Path) -> None:
    """Check that a checkpoint which attends to all of its context knows positions for rows of this length.

    One of our own runs says with its rows how far it was trained, and any other kind of attention counts positions
    within a bounded reach.

    Raises:
        InputError: the rows are longer than the positions of the model.
    """
    if (init / STATE).is_file():
        return
    config = PalimpsestConfig.from_pretrained(init)
    sizes, kinds = Sizes.of(config), set(config.attention_spec.pattern)
    unbounded = any(KINDS[kind].bytes_per_token(sizes, 1) for kind in kinds)
    if unbounded and data.sequence_length > config.max_position_embeddings:
        raise InputError(
            f"Rows of {data.sequence_length} tokens (sequence_length) are longer than the "
            f"{config.max_position_embeddings} positions that {init} has; make them that short."
        )


class WrittenNeedles(NamedTuple):
    """What is in a set that was written.

    Attributes:
        prompts: how many.
        shortest, longest: true tokens.
        apart: share of the keys that one row tells and another asks for when the stream of all prompts is cut.
    """

    prompts: int
    shortest: int
    longest: int
    apart: float


def write_needles(
    path: Path,
    spec: PublishedNeedles | IntendedNeedles,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    split: Split,
    segment_length: int,
    row_length: int,
) -> WrittenNeedles:
    """Write a generated set in the hub's schema, with true tokens beside the length by which a prompt counts.

    Prompts to train on end with the answer, those to evaluate with the question.

    Args:
        path: a ``.jsonl`` or ``.jsonl.gz`` file.
        spec: the set.
        tokenizer: decides lengths and places in tokens.
        split: whose keys are told.
        segment_length: tokens per segment, for the intended form.
        row_length: tokens per row, for the share of keys that are apart from their questions.

    Raises:
        InputError: the tokenizer or the lengths do not fit the form.
    """
    rows = list(generated_rows(spec, tokenizer, split=split, segment_length=segment_length))
    texts = [finished_text(row, "answer", f"{spec.kind} needles, row {row.id}") for row in rows]
    encoded = list(encode_needles(texts, tokenizer, end_of_text=False))
    sizes = np.array([ids.size for ids, _, _ in encoded])
    starts = np.cumsum(sizes) - sizes
    told, asked = (starts + np.array(column) for column in list(zip(*encoded, strict=True))[1:])
    if split == "evaluation":
        rows = [
            row.model_copy(update={"prompt": each.text[: each.asked]}) for row, each in zip(rows, texts, strict=True)
        ]
        # not those before the answer's first: a token may be of the last blank and the first digit
        sizes = np.array([len(ids) for ids in document_encoder(tokenizer)([row.prompt for row in rows])])
    counted = (row.model_copy(update={"num_tokens": int(size)}) for row, size in zip(rows, sizes, strict=True))
    write_jsonl(path, counted)
    apart = float((told // row_length != asked // row_length).mean())
    return WrittenNeedles(len(rows), int(sizes.min()), int(sizes.max()), apart)
