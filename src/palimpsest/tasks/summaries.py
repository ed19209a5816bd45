"""Scores of summaries: facts against a fact table, ROUGE, distance of sentence embeddings; and extractive baselines.

No score stands alone. Facts are exact but only read what they can parse; ROUGE counts words and not truth; embeddings
hardly see a negation. The extractive baselines are the floor of all three.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.stories import Fact

Encoder: TypeAlias = Callable[[Sequence[str]], NDArray[np.floating]]
"""Maps texts to vectors, [texts, size]."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class FactScore(NamedTuple):
    """How a summary's facts compare with the gold ones.

    Attributes:
        recall: share of the gold facts that are stated.
        precision: share of the stated facts that are gold; None where none is stated.
        contradictions: stated facts about something in the gold table, with another value.
        salient_recall: recall with every gold fact weighted by its salience.
        recalled: for every gold fact, whether it is stated.
    """

    recall: float
    precision: float | None
    contradictions: int
    salient_recall: float
    recalled: tuple[bool, ...]


class RougeScore(NamedTuple):
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, and their geometric mean."""

    rouge1: float
    rouge2: float
    rouge_l: float
    geometric_mean: float


def score_facts(gold: Sequence[Fact], summary: str, facts_of: Callable[[str], Sequence[Fact]]) -> FactScore:
    """Compare what a summary states with the gold facts.

    Args:
        gold: the fact table, one value for every (subject, relation).
        summary: the text to score.
        facts_of: reads the facts that a text states, such as :func:`palimpsest.tasks.stories.facts_of`.

    Raises:
        InputError: no gold facts, or two values for the same thing.
    """
    table = {(fact.subject, fact.relation): fact.value for fact in gold}
    if not gold or len(table) != len(gold):
        what = "is empty" if not gold else "gives two values for the same subject and relation"
        raise InputError(f"The table of gold facts {what}; give each fact once, and at least one.")
    stated = set(facts_of(summary))
    recalled = tuple(fact in stated for fact in gold)
    weights = np.array([fact.salience for fact in gold])
    wrong = [fact for fact in stated if table.get((fact.subject, fact.relation), fact.value) != fact.value]
    return FactScore(
        recall=sum(recalled) / len(gold),
        precision=len(stated & set(gold)) / len(stated) if stated else None,
        contradictions=len(wrong),
        salient_recall=float(weights[np.array(recalled)].sum() / weights.sum()),
        recalled=recalled,
    )


def rouge(reference: str, summary: str) -> RougeScore:
    """Score word overlap with stemming, by the ``rouge-score`` package; ROUGE-L is that of the whole text.

    The geometric mean is what the Infini-attention paper calls the overall score of BookSum.

    Raises:
        InputError: the package is not installed.

    Source: Lin (2004); Munkhdalai et al. (2024), table 4.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError("ROUGE needs the package rouge-score: pip install 'palimpsest-lm[summaries]'.") from error
    found = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, summary)
    values = [found[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
    return RougeScore(*values, geometric_mean=float(np.prod(values) ** (1 / 3)))


def embedding_score(reference: str, summary: str, encoder: Encoder) -> float:
    """Return the cosine between the embeddings of both texts, from -1 to 1; 0 for a text without any direction.

    Raises:
        InputError: the encoder does not give one finite vector for each text.
    """
    vectors = np.asarray(encoder([reference, summary]), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != 2 or not np.isfinite(vectors).all():
        raise InputError(f"The encoder gave an array of shape {vectors.shape}, not two vectors of finite numbers.")
    norms = np.linalg.norm(vectors, axis=1)
    return float(vectors[0] @ vectors[1] / norms.prod()) if norms.all() else 0.0


def sentences_of(text: str) -> list[str]:
    """Split a text after every full stop, question mark and exclamation mark that a blank follows."""
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def lead(text: str, sentences: int) -> str:
    """Return the first sentences of a text."""
    return " ".join(sentences_of(text)[: _counted(sentences)])


def tail(text: str, sentences: int) -> str:
    """Return the last sentences of a text."""
    return " ".join(sentences_of(text)[-_counted(sentences) :])


def random_sentences(text: str, sentences: int, *, seed: int) -> str:
    """Return sentences of a text chosen at random, in their order; all of them where there are no more."""
    found = sentences_of(text)
    chosen = Draws(f"random sentences {seed}").permutation(len(found))[: _counted(sentences)]
    return " ".join(found[i] for i in sorted(chosen.tolist()))


def _counted(sentences: int) -> int:
    if sentences < 1:
        raise InputError(f"A summary has at least one sentence, not {sentences}.")
    return sentences
