"""How the probes on running text choose, pair, cut and spoil documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_probe_case import STOP, texts

from palimpsest.errors import InputError
from palimpsest.tasks.documents import (
    SENTENCE,
    SPOILINGS,
    doubling,
    first_documents,
    forgetting_pairs,
    partners,
    sentences,
    spoilt,
    stacked,
)
from palimpsest.tasks.draws import Draws

NOTHING = np.empty(0, dtype=np.int64)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.data())
def test_a_spoilt_document_keeps_what_is_near_and_only_rearranges_what_is_far(words, data):
    tokens = np.array(words)
    far = data.draw(st.integers(1, len(words) - 1))
    other = tokens + 10
    for how in SPOILINGS:
        got = spoilt(tokens, far, how, other=other, ends=np.array([0]), draws=Draws("x"))
        assert got[len(got) - (len(tokens) - far) :].tolist() == words[far:]
        beyond = got[: len(got) - (len(tokens) - far)].tolist()
        if how == "other":
            assert beyond == other[:far].tolist()
        elif how == "dropped":
            assert beyond == []
        else:
            assert sorted(beyond) == sorted(words[:far])


def test_sentences_end_where_they_end_and_keep_their_order():
    tokens = np.array([5, STOP, 6, 7, STOP, 8, 9])
    assert [piece.tolist() for piece in sentences(tokens, np.array([STOP]))] == [[5, STOP], [6, 7, STOP], [8, 9]]
    assert [len(piece) for piece in sentences(np.arange(40), NOTHING)] == [SENTENCE, SENTENCE, 40 - 2 * SENTENCE]
    shuffled = {
        tuple(spoilt(tokens, 5, "sentences", other=tokens, ends=np.array([STOP]), draws=Draws(str(label))).tolist())
        for label in range(20)
    }
    assert shuffled == {(5, 3, 6, 7, 3, 8, 9), (6, 7, 3, 5, 3, 8, 9)}
    orders = {tuple(spoilt(tokens, 5, "tokens", other=tokens, ends=NOTHING, draws=Draws(str(n)))) for n in range(20)}
    assert len(orders) > 5


@given(st.integers(2, 30), st.integers(0, 5))
def test_every_document_is_the_partner_of_another_one(count, seed):
    partner = partners(count, seed)
    assert sorted(partner) == list(range(count))
    assert (partner != np.arange(count)).all()


def test_targets_take_turns_and_never_meet_their_own_document():
    documents = [*texts(4, 30), ("short", np.arange(5))]
    pairs = forgetting_pairs(documents, 8, 8, seed=1)
    assert sorted(pair.target.document_id for pair in pairs[:4]) == ["d0", "d1", "d2", "d3"]
    assert sorted(pair.target.document_id for pair in pairs[4:]) == ["d0", "d1", "d2", "d3"]
    content = dict(documents)
    for pair in pairs:
        assert pair.target.document_id != pair.unrelated.document_id
        for part in pair:
            assert part.tokens.tolist() == content[part.document_id][part.start : part.start + 8].tolist()
    assert len({pair.target.start for pair in pairs}) > 2
    again, other = (forgetting_pairs(documents, 8, 8, seed=seed) for seed in (1, 2))
    assert [p.target.start for p in again] == [p.target.start for p in pairs] != [p.target.start for p in other]
    with pytest.raises(InputError, match=r"31 tokens .* two documents that long, but 0 of 5 are"):
        forgetting_pairs(documents, 31, 8, seed=1)


def test_the_first_documents_are_read_no_further_than_needed():
    def endless():
        for number in range(1000):
            assert number < 4, "nothing is read after enough was found"
            yield f"d{number}", np.arange(number * 10)

    assert [(name, len(ids)) for name, ids in first_documents(endless(), 2, 15, where="here")] == [
        ("d2", 15),
        ("d3", 15),
    ]
    with pytest.raises(InputError, match=r"here: 1 of 2 documents have 20 tokens .* longest has 30"):
        first_documents(texts(1, 30) + texts(1, 10, seed=1), 5, 20, where="here")
    assert len(first_documents(texts(3, 30), 5, 20, where="here")) == 3


def test_documents_must_be_alike_and_have_names_of_their_own():
    with pytest.raises(InputError, match="from 5 to 6 tokens"):
        stacked([("a", np.arange(5)), ("b", np.arange(6))])
    with pytest.raises(InputError, match="Two documents are called 'a'"):
        stacked([("a", np.arange(5)), ("a", np.arange(5))])
    with pytest.raises(InputError, match="no documents"):
        stacked([])


def test_buckets_double_up_to_the_end():
    assert doubling(1, 11) == [1, 2, 4, 8, 11]
    assert doubling(1, 8) == [1, 2, 4, 8]
    assert doubling(1, 2) == [1, 2]
