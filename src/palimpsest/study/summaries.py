"""Summaries that a model writes of documents of any length: ROUGE, facts, the loss of the reference, and baselines.

A document is read once, in whole segments and bounded memory. The extractive baselines (first, last and random
sentences, as many as the reference has) are scored beside the model: what does not beat them has not read the document.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from palimpsest.data.summaries import Encode, PairsSpec, SummaryPair, summary_pairs
from palimpsest.data.tokenizer import document_encoder, end_of_text_number
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache
from palimpsest.models.streaming import continue_from, prefill
from palimpsest.probes import INTERVENTIONS
from palimpsest.study.evaluate import Subject
from palimpsest.study.summary_scores import INTACT, SummaryRecord, Writer
from palimpsest.study.text_probes.scoring import score
from palimpsest.tasks.stories import Fact, Story, facts_of
from palimpsest.tasks.summaries import (
    Encoder,
    embedding_score,
    lead,
    random_sentences,
    rouge,
    score_facts,
    sentences_of,
    tail,
)
from palimpsest.training.recipe import StoriesSpec, SummariesData
from palimpsest.training.summaries import prompt_of, story_pair


class Asked(NamedTuple):
    """A document to be summarised; of a story also what is true in it, and where each fact was last told.

    Attributes:
        pair: the document and its reference.
        facts: the fact table, None for what is no story.
        told_until: for every fact the characters of the document up to the end of the sentence that last told it.
    """

    pair: SummaryPair
    facts: tuple[Fact, ...] | None = None
    told_until: tuple[int, ...] = ()


class Writing(NamedTuple):
    """How summaries are written: at most so many tokens, greedily at temperature 0, and drawn by a seed otherwise."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Written(NamedTuple):
    """What a model wrote after a document, and what the reference would have cost it in nats."""

    text: str
    finished: bool
    reference_nats: float


def asked_pairs(data: SummariesData, count: int, *, seed: int, split: str | None = None) -> list[Asked]:
    """Return what a model trained on such data is tested on: held-out pairs, or stories of the evaluation split.

    Args:
        data: what was trained on.
        count: how many, or as many as there are.
        seed: of the stories; keep 10,000 and above for final tests.
        split: another split of a hub dataset, all of which is held out.

    Raises:
        InputError: there is nothing to read.
    """
    pairs = data.pairs
    if isinstance(pairs, StoriesSpec):
        return [_told(story_pair(pairs, "evaluation", seed, index), f"story-{seed}-{index}") for index in range(count)]
    spec: PairsSpec = pairs if split is None else pairs.model_copy(update={"split": split, "heldout_fraction": 0.0})
    part = "heldout" if split is None else "all"
    return [Asked(pair) for pair in islice(summary_pairs(spec, part), count)]


def _told(story: Story, name: str) -> Asked:
    """Return a story with the places of its facts."""
    ends: dict[int, int] = {}
    words = position = 0
    for sentence in story.sentences:
        position += len(sentence)
        ends[words] = position
        words += len(sentence.split())
        position += 1  # the blank between sentences
    until = tuple(ends[before] for before in story.told)
    return Asked(SummaryPair(name, name, story.text, story.summary), story.facts, until)


def evaluate_summaries(
    subject: Subject,
    asked: Iterable[Asked],
    cue: str,
    writing: Writing,
    *,
    interventions: Sequence[str] = (),
    encoder: Encoder | None = None,
    listen: Callable[[int], None] | None = None,
) -> list[SummaryRecord]:
    """Let a model summarise documents, intact and under interventions, and score it beside the extractive baselines.

    An intervention is in force from the first token of the document to the last of the summary.

    Args:
        subject: the model under test.
        asked: the documents.
        cue: the text between a document and its summary, as in training.
        writing: how summaries are written.
        interventions: what is done to the memory, beside nothing ("none").
        encoder: sentence embeddings, for a score that is not of words; None: no such score.
        listen: told of every document how many tokens have been read.

    Raises:
        InputError: no document, an unknown intervention, or a package for scores that is missing.
    """
    encode, found = document_encoder(subject.tokenizer), []
    for each in asked:
        read = _prepared(subject, each, cue, encode)
        for intervention in dict.fromkeys((INTACT, *interventions)):
            written = write_summary(subject, read.prompt, read.reference, writing, intervention)
            record = _scored(subject, read, written.text, "model", intervention, encoder)
            loss = written.reference_nats / len(read.reference)
            update = {"finished": written.finished, "reference_tokens": len(read.reference), "reference_loss": loss}
            found.append(record.model_copy(update=update))
        for writer, text in _baselines(each.pair, writing.seed).items():
            found.append(_scored(subject, read, text, writer, INTACT, encoder))
        if listen is not None:
            listen(len(read.prompt))
    if not found:
        raise InputError("There is no document to summarise; give at least one.")
    return found


class _Prepared(NamedTuple):
    """A document as a model is given it.

    Attributes:
        asked: the document.
        prompt: its tokens and those of the cue.
        document_tokens: how many are the document's.
        reference: the tokens of the reference, its end of text included.
        far: for every fact whether it was last told before the segment that writes the first token of the summary.
    """

    asked: Asked
    prompt: np.ndarray
    document_tokens: int
    reference: list[int]
    far: tuple[bool, ...]


def _prepared(subject: Subject, asked: Asked, cue: str, encode: Encode) -> _Prepared:
    document, question = prompt_of(encode, asked.pair.document, cue)
    segment = subject.model.config.attention_spec.segment_length
    begin = (len(document) + len(question) - 1) // segment * segment
    told = encode([asked.pair.document[:until] for until in asked.told_until]) if asked.told_until else []
    return _Prepared(
        asked=asked,
        prompt=np.concatenate([document, question]),
        document_tokens=len(document),
        reference=[*encode([asked.pair.summary])[0], end_of_text_number(subject.tokenizer)],
        far=tuple(len(ids) <= begin for ids in told),
    )


def _baselines(pair: SummaryPair, seed: int) -> dict[Writer, str]:
    """Return extracts with as many sentences as the reference has."""
    count = max(1, len(sentences_of(pair.summary)))
    return {
        "lead": lead(pair.document, count),
        "tail": tail(pair.document, count),
        "random": random_sentences(pair.document, count, seed=seed),
    }


@torch.inference_mode()
def write_summary(
    subject: Subject, prompt: np.ndarray, reference: Sequence[int], writing: Writing, intervention: str = INTACT
) -> Written:
    """Read a prompt in bounded memory, write a summary after it, and score the reference in its place.

    Args:
        subject: the model.
        prompt: the tokens of document and cue, ``[T]``.
        reference: the tokens of the reference with its end of text, ``[R]``.
        writing: how the summary is written.
        intervention: in force from the first token to the last.

    Raises:
        InputError: an empty prompt, or an intervention that there is not.
    """
    model, tokenizer = subject.model, subject.tokenizer
    if intervention not in INTERVENTIONS:
        raise InputError(f"There is no intervention '{intervention}'; take one of {', '.join(INTERVENTIONS)}.")
    end, generator = end_of_text_number(tokenizer), torch.Generator().manual_seed(writing.seed)
    with INTERVENTIONS[intervention](model):
        cache = PalimpsestCache(model.config)
        logits = prefill(model, torch.from_numpy(prompt)[None], cache)
        gold = torch.tensor([reference])
        nats = -float(logits[0].double().log_softmax(-1)[gold[0, 0]])
        if gold.shape[1] > 1:
            nats += float(score(model, gold, cache.clone()).nll.sum())
        tokens = list(
            continue_from(
                model,
                logits,
                cache,
                max_new_tokens=writing.max_new_tokens,
                temperature=writing.temperature,
                generator=generator,
                stop={end},
            )
        )
    text = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    return Written(text, len(tokens) < writing.max_new_tokens, nats)


def _scored(
    subject: Subject, read: _Prepared, text: str, writer: Writer, intervention: str, encoder: Encoder | None
) -> SummaryRecord:
    """Return a summary with its scores."""
    pair, facts = read.asked.pair, read.asked.facts
    words = rouge(pair.summary, text)
    scores: dict[str, float | int | None] = {}
    if facts is not None:
        stated = score_facts(facts, text, facts_of)
        far = [said for said, is_far in zip(stated.recalled, read.far, strict=True) if is_far]
        scores = {
            "fact_recall": stated.recall,
            "salient_recall": stated.salient_recall,
            "fact_precision": stated.precision,
            "contradictions": stated.contradictions,
            "far_facts": len(far),
            "far_recall": sum(far) / len(far) if far else None,
        }
    return SummaryRecord(
        arm=subject.arm,
        seed=subject.seed,
        checkpoint=subject.checkpoint,
        intervention=intervention,
        writer=writer,
        pair_id=pair.id,
        group=pair.group,
        document_tokens=read.document_tokens,
        segments=-(-len(read.prompt) // subject.model.config.attention_spec.segment_length),
        summary=text,
        reference=pair.summary,
        finished=True,
        rouge1=words.rouge1,
        rouge2=words.rouge2,
        rouge_l=words.rouge_l,
        geometric_mean=words.geometric_mean,
        embedding=None if encoder is None else embedding_score(pair.summary, text, encoder),
    ).model_copy(update=scores)
