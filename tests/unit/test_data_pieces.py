"""Documents cut into pieces: nothing is lost, neighbours are strangers, and lengths are those of a web corpus."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from palimpsest.data import CorpusSpec, Document, is_heldout
from palimpsest.data.corpus import PieceSpec
from palimpsest.data.documents import documents
from palimpsest.data.pieces import pieces
from palimpsest.errors import InputError
from palimpsest.schema import parse

TEXTS = st.lists(st.text(alphabet="ab \n\t", min_size=1).filter(str.strip), min_size=1, max_size=5)


def number(name: str) -> int:
    return int(name.rpartition(" ")[2].removesuffix("]"))


@given(texts=TEXTS, median=st.integers(1, 6), spread=st.sampled_from([0.0, 0.5, 2.0]), seed=st.integers(0, 3))
def test_pieces_in_their_order_are_the_text_and_are_as_long_as_the_spec_says(texts, median, spread, seed):
    whole = [Document(f"d{index}", text) for index, text in enumerate(texts)]
    spec = PieceSpec(median_words=median, spread=spread, seed=seed)
    found = list(pieces(whole, spec))
    assert len({piece.id for piece in found}) == len(found)
    for document in whole:
        own = sorted((p for p in found if p.id.startswith(f"{document.id} [")), key=lambda p: number(p.id))
        assert "".join(piece.text for piece in own) == document.text
        assert all(piece.text.split() for piece in own)
        if spread == 0:
            assert all(len(piece.text.split()) == median for piece in own[:-1])


def test_lengths_are_log_normal_with_the_shares_that_the_study_gives_of_fineweb():
    """A median of 418 tokens and 0.4 % above 8,192 are a spread of 1.12: the quantile of 0.996 is 2.65 deviations."""
    assert math.log(8192 / 418) / norm.ppf(0.996) == pytest.approx(1.12, abs=0.005)
    whole = [Document(f"d{index}", "word " * 20_000) for index in range(20)]
    lengths = [len(p.text.split()) for p in pieces(whole, PieceSpec(median_words=200)) if p.text.count("word") < 20_000]
    assert len(lengths) > 800
    assert kstest(np.log(lengths), norm(math.log(200), 1.12).cdf).pvalue > 0.01


def test_neighbours_are_of_different_documents_and_another_seed_is_another_order():
    whole = [Document(f"d{index}", f"{index} " * 400) for index in range(20)]
    spec = PieceSpec(median_words=10, spread=0)
    found = [piece.id for piece in pieces(whole, spec)]
    origins = [name.partition(" ")[0] for name in found]
    together = sum(a == b for a, b in pairwise(origins)) / len(origins)
    assert together < 0.1, "an order by document would give 0.97, a random one 0.05"
    again = [piece.id for piece in pieces(whole, PieceSpec(median_words=10, spread=0, seed=1))]
    assert sorted(again) == sorted(found)
    assert again != found


def test_all_pieces_of_a_document_are_on_its_side():
    whole = [Document(f"d{index}", "a b c d e f") for index in range(200)]
    spec = PieceSpec(median_words=2, spread=0)
    held_out = {document.id for document in whole if is_heldout(document.id, 0.3)}
    for piece in pieces(whole, spec):
        assert is_heldout(piece.id, 0.3) == (piece.id.partition(" ")[0] in held_out)
    assert 30 < len(held_out) < 90


def test_a_corpus_is_cut_after_its_first_documents_were_chosen(tmp_path):
    (tmp_path / "a.txt").write_text("one two three")
    (tmp_path / "b.txt").write_text("four five")
    spec = CorpusSpec(source=str(tmp_path), limit=1, pieces=PieceSpec(median_words=1, spread=0))
    assert sorted(document.text.strip() for document in documents(spec)) == ["one", "three", "two"]


def test_what_never_named_pieces_is_written_as_before():
    assert "pieces" not in CorpusSpec().model_dump(mode="json")
    cut = CorpusSpec(pieces=PieceSpec(median_words=3))
    assert CorpusSpec.model_validate(cut.model_dump(mode="json")) == cut


@pytest.mark.parametrize(
    ("value", "message"), [({"median_words": 0}, "median_words"), ({"median_words": 9, "spread": -1}, "spread")]
)
def test_pieces_that_cannot_be_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        parse(CorpusSpec, {"pieces": value}, "corpus")
