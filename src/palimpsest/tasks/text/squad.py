"""Articles with questions in the schema of SQuAD (Rajpurkar et al. 2016), from a local file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palimpsest.errors import InputError
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.task import Split

_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z])|$)", re.DOTALL)


class Asked(NamedTuple):
    """A question about a paragraph.

    Attributes:
        paragraph: number of the paragraph.
        text: the question.
        answers: accepted wordings, the one to give first.
        sentence: number of the only sentence of the paragraph in which the answer occurs.
    """

    paragraph: int
    text: str
    answers: tuple[str, ...]
    sentence: int


class Paragraph(NamedTuple):
    """A paragraph of an article, as sentences with single spaces."""

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole paragraph."""
        return " ".join(self.sentences)


class Articles(NamedTuple):
    """Paragraphs, and the questions that can be asked about them."""

    paragraphs: list[Paragraph]
    questions: list[Asked]


def read_articles(path: Path) -> Articles:
    """Read a file in SQuAD's schema: its own JSON, JSON lines or parquet with the hub's columns.

    Unanswerable questions and those whose answer occurs in more than one sentence of their paragraph are left out.

    Raises:
        InputError: the file cannot be read, has another schema, or no question that can be asked.
    """
    paragraphs: dict[tuple[str, str], int] = {}
    kept: list[Paragraph] = []
    questions: list[Asked] = []
    try:
        for row in _rows(path):
            title, context = str(row["title"]), str(row["context"])
            number = paragraphs.setdefault((title, context), len(paragraphs))
            if number == len(kept):
                kept.append(Paragraph(title, tuple(_single(context[a:b]) for a, b in _sentences(context))))
            asked = _asked(row, number, kept[number])
            if asked is not None:
                questions.append(asked)
    except OSError as error:
        raise InputError(f"qa: {path} cannot be read ({error.strerror}); take a file in SQuAD's schema") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"qa: {path} is not in SQuAD's schema ({error}); take its JSON, or JSON lines or parquet with the columns "
            "title, context, question and answers"
        ) from error
    if not questions:
        raise InputError(f"qa: {path} has no question whose answer occurs in just one sentence; take another file")
    return Articles(kept, questions)


def split_of(title: str) -> Split:
    """Return the split of an article: about one in five is for evaluation."""
    code = np.frombuffer(blake2b(title.encode(), digest_size=8).digest(), dtype="<u8")
    return "evaluation" if bool(is_evaluation_key(code)[0]) else "training"


def _asked(row: Mapping[str, Any], number: int, paragraph: Paragraph) -> Asked | None:
    texts = [_single(str(text)) for text in row["answers"]["text"]]
    texts = [text for text in dict.fromkeys(texts) if text]
    if not texts:
        return None
    # the shortest wording: whoever gives a longer one has given it too
    answer = min(texts, key=len)
    found = [at for at, sentence in enumerate(paragraph.sentences) if answer.lower() in sentence.lower()]
    if len(found) != 1:
        return None
    rest = tuple(text for text in texts if text != answer)
    return Asked(number, _single(str(row["question"])), (answer, *rest), found[0])


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield rows with the hub's columns: title, context, question, answers {text}."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path, columns=["title", "context", "question", "answers"]).to_pylist()
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
        return
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = {"text": [answer["text"] for answer in asked["answers"]]}
                yield {"title": article["title"], "context": paragraph["context"], "question": asked["question"],
                       "answers": answers}  # fmt: skip


def _sentences(text: str) -> Iterable[tuple[int, int]]:
    return (found.span() for found in _SENTENCE.finditer(text))


def _single(text: str) -> str:
    return " ".join(text.split())
