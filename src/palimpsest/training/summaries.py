"""Rows of documents with their summaries: read the document, then write the summary."""

import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.data import IGNORED
from palimpsest.data.summaries import Encode, PairsSpec, prepare_pairs
from palimpsest.data.tokenizer import document_encoder, end_of_text_number
from palimpsest.errors import InputError
from palimpsest.tasks.stories import Story, StorySpec, write_story
from palimpsest.tasks.task import Split
from palimpsest.training.recipe import StoriesSpec, SummariesData
from palimpsest.training.rows import Row, padding_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHOWN = 16
"""Stories of a fixed seed that stand for all of them in a fingerprint."""
PAIRS = "pairs"
"""The folder of tokenised pairs in the directory of a run's data."""

Tokens = NDArray[np.int64]


class Prompt(NamedTuple):
    """Tokens that a summary is written after: the document, and the cue that asks for it."""

    document: Tokens
    cue: Tokens


class SummaryRows:
    """Rows of one document, the cue and its summary each, padded on the right; labels on the summary and its end.

    Pairs come in an order of their own in every epoch, as rows of text do; stories never come twice::

        input_ids      d d d d C C s s s .
        labels         * * * * * * s s s .     (*: -100)
    """

    def __init__(self, data: SummariesData, seed: int, tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
        self._encode = document_encoder(tokenizer)
        self._cue = np.array(self._encode([data.cue])[0], dtype=np.int64)
        self._end, self._pad = end_of_text_number(tokenizer), padding_token(tokenizer)
        self._data, self._seed = data, seed
        self.row_length = data.row_length
        self._order = lru_cache(maxsize=2)(self._plan_epoch)
        if isinstance(data.pairs, PairsSpec):
            self._pairs = prepare_pairs(data.pairs, self._encode, tokenizer.get_vocab(), directory / PAIRS)
            self._usable = self._fitting(self._pairs.lengths)
            source = self._pairs.manifest.fingerprint
        else:
            self._pairs, self._usable = None, np.arange(0)
            shown = (story_pair(data.pairs, "training", 0, index) for index in range(SHOWN))
            texts = (f"{story.text}\0{story.summary}" for story in shown)
            source = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        parts = (
            source,
            data.cue,
            data.long_documents,
            str(data.row_length),
            str(sorted(tokenizer.get_vocab().items())),
        )
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def row(self, index: int) -> Row:
        """Return row ``index`` >= 0.

        Raises:
            InputError: a story that does not fit in a recipe that does not cut documents.
        """
        if index < 0:
            raise IndexError(f"rows are numbered from 0, not {index}")
        document, summary = self._texts(index)
        room = self._room(len(summary))
        if room < 1 or (len(document) > room and self._data.long_documents != "cut"):
            raise InputError(
                f"Story {index} has {len(document)} tokens, but a row of {self.row_length} has room for {room} beside "
                "its summary; make row_length larger, stories shorter, or set long_documents to cut."
            )
        tokens = np.concatenate([document[:room], self._cue, summary, [self._end]])
        labels = tokens.copy()
        labels[: len(tokens) - len(summary) - 1] = IGNORED
        return Row(tokens, labels, np.zeros_like(tokens), weight=1.0).padded(self.row_length, self._pad)

    def _texts(self, index: int) -> tuple[Tokens, Tokens]:
        """Return the tokens of a document and of its summary."""
        if self._pairs is not None:
            epoch, place = divmod(index, len(self._usable))
            return self._pairs.pair(int(self._usable[self._order(epoch)[place]]))
        assert isinstance(self._data.pairs, StoriesSpec)  # the only other kind
        story = story_pair(self._data.pairs, "training", self._seed, index)
        document, summary = (np.array(ids, dtype=np.int64) for ids in self._encode([story.text, story.summary]))
        return document, summary

    def _plan_epoch(self, epoch: int) -> NDArray[np.intp]:
        # raw output of a bit generator is the same in every version of numpy; Generator.permutation is not
        random = np.random.PCG64(np.random.SeedSequence(self._seed, spawn_key=(epoch,)))
        return np.argsort(random.random_raw(len(self._usable)), kind="stable")

    def _room(self, summary: int) -> int:
        """Return how many tokens of a document fit beside a summary of so many."""
        return self.row_length - len(self._cue) - summary - 1

    def _fitting(self, lengths: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the numbers of the pairs that are used.

        Raises:
            InputError: a document that does not fit where that is refused, or none that is left.
        """
        room = self.row_length - len(self._cue) - lengths[:, 1] - 1
        fits = lengths[:, 0] <= room
        if self._data.long_documents == "drop":
            usable = np.flatnonzero(fits)
        elif self._data.long_documents == "refuse" and not fits.all():
            longest = int((lengths.sum(1) + len(self._cue) + 1).max())
            raise InputError(
                f"{int((~fits).sum()):,} of {len(fits):,} documents do not fit into rows of {self.row_length:,} tokens "
                f"with their summaries (the longest row would have {longest:,}); make row_length larger, or set "
                "long_documents to cut or drop."
            )
        else:
            usable = np.flatnonzero(room >= 1)
        if not len(usable):
            raise InputError(
                f"No document fits into rows of {self.row_length:,} tokens with its summary; make row_length larger."
            )
        if len(usable) < len(fits):
            logger.warning("%d of %d pairs do not fit and are left out.", len(fits) - len(usable), len(fits))
        return usable


def story_pair(spec: StoriesSpec, split: Split, seed: int, index: int) -> Story:
    """Return the story that these coordinates name; its text is the document.

    Raises:
        InputError: more people, rooms or objects than there are, or more than so few words can tell of.
    """
    story = StorySpec(people=spec.people, rooms=spec.rooms, objects=spec.objects, event_share=spec.event_share)
    return write_story(story, split=split, seed=seed, index=index, words=spec.words)


def prompt_of(encode: Encode, document: str, cue: str) -> Prompt:
    """Return the tokens that a summary of a document is written after, as in training."""
    ids, asked = encode([document, cue])
    return Prompt(np.array(ids, dtype=np.int64), np.array(asked, dtype=np.int64))
