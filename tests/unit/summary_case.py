"""Chapters in BookSum's schema, and recipes' data over them."""

from palimpsest.data.summaries import SUMMARY_SETS, PairsSpec
from palimpsest.schema import parse
from palimpsest.training.recipe import SummariesData
from text_case import encode

CUE = "\n\nSummary:\n"


def chapters(count: int = 12) -> list[dict]:
    """Return rows in BookSum's schema, two chapters a book."""
    return [
        {
            "bid": number // 2,
            "is_aggregate": False,
            "book_id": f"Book {number // 2}.chapter {number % 2}",
            "chapter": f"Chapter {number}. " + f"He went to town {number}. " * (3 + number),
            "chapter_length": 3.0,
            "summary_text": f"He went to town {number} often.",
            "summary_analysis": None,
        }
        for number in range(count)
    ]


def booksum_spec(source, **values) -> PairsSpec:
    named = SUMMARY_SETS["booksum-chapters"] | {"source": str(source)}
    return parse(PairsSpec, {"kind": "pairs", **named, **values}, "pairs")


def encoded(texts) -> list[list[int]]:
    return [encode(text) for text in texts]


def summaries_data(pairs, **values) -> SummariesData:
    block = pairs.model_dump() if isinstance(pairs, PairsSpec) else pairs
    return parse(SummariesData, {"row_length": 192, "pairs": block, **values}, "data")
