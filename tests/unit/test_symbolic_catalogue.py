"""The symbolic tasks as a whole: what they are called, what they refuse, and what they draw from."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from palimpsest.errors import InputError
from palimpsest.tasks import TASKS, task_spec
from palimpsest.tasks.catalogue import describe
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from palimpsest.tasks.symbolic.haystack import before_question, spans_by_segment
from palimpsest.tasks.symbolic.pairs import draw_content, draw_pairs, draw_values, in_split
from palimpsest.tasks.symbolic.vocabulary import KEYS, names
from symbolic_case import Case, build, items

# Catalogue


def test_every_task_says_in_one_line_what_it_is():
    lines = [describe(kind) for kind in SYMBOLIC_TASKS]
    assert len(set(lines)) == len(lines)
    assert all(20 < len(line) < 120 and line.endswith(".") for line in lines)


def test_knobs_are_found_by_kind():
    for kind in SYMBOLIC_TASKS:
        spec = task_spec({"kind": kind})
        assert spec.kind == kind == TASKS[kind].name


def test_the_page_of_the_tasks_names_all_of_them_with_all_their_knobs():
    page = (Path(__file__).parents[2] / "docs" / "tasks" / "symbolic.md").read_text(encoding="utf-8")
    for kind in SYMBOLIC_TASKS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` |"))
        own = task_spec({"kind": kind}).model_dump().keys() - {"kind", "questions", "min_length", "max_length"}
        assert own == set(re.findall(r"`(\w+)=", row)), kind


# Bad input


@pytest.mark.parametrize(
    ("case", "length", "words"),
    [
        (Case("sym_multikey", {"needles": 120}), 320, "120 needles of 3 tokens do not fit into a haystack of 317"),
        (Case("sym_multikey", {}), 3, "3 tokens leave no room for a haystack beside 1 questions of 3 tokens"),
        (Case("sym_overwrite", {"writes": 12}), 320, "in different segments of 32, in a haystack of 317 tokens"),
        (Case("sym_overwrite", {"writes": 11, "gap": "same"}), 320, "in one segment of 32"),
        (Case("sym_mqar", {"pairs": 128, "passes": 2}), 320, "256 pairs of 2 tokens need more than the 288 tokens"),
        (Case("sym_cwe", {"times": 300}), 320, "316 words do not fit into the 288 tokens"),
        (Case("sym_fwe", {"words": 128, "skew": 4.0}), 320, "too few to tell 128 words by a zeta law of 4.0"),
        (Case("sym_copy", {"symbols": 320}), 640, "a string of 320 symbols does not fit into the 288 tokens"),
        (Case("sym_parity", {"updates": 400}), 320, "400 updates do not fit into the 288 tokens"),
        (Case("sym_babi", {"supporting": 3, "statements": 3, "questions": 2}), 320, "ask for more statements"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_sentence(case, length, words):
    with pytest.raises(InputError, match=re.escape(words)) as error:
        build(case).sample(split="evaluation", seed=0, index=0, length=length, depth=None)
    assert case.kind in str(error.value)


@pytest.mark.parametrize(
    "knobs",
    [
        {"kind": "sym_multikey", "needles": 2, "questions": 3},
        {"kind": "sym_multikey", "needles": 129},
        {"kind": "sym_multivalue", "keys": 64, "values": 3},
        {"kind": "sym_multiquery", "needles": 7, "queries": 4, "questions": 2},
        {"kind": "sym_overwrite", "keys": 64, "writes": 3},
        {"kind": "sym_forgetting_mqar", "pairs": 4, "updates": 5},
        {"kind": "sym_forgetting_mqar", "pairs": 100, "updates": 40},
        {"kind": "sym_vt", "hops": 9},
        {"kind": "sym_cwe", "times": 2, "other_times": 2},
        {"kind": "sym_cwe", "questions": 2},
        {"kind": "sym_babi", "supporting": 4},
        {"kind": "sym_induction", "triggers": 2, "questions": 3},
        {"kind": "sym_parity", "order": 2},
        {"kind": "sym_summary", "min_length": 300, "max_length": 200},
    ],
    ids=str,
)
def test_knobs_that_contradict_each_other_are_refused(knobs):
    with pytest.raises(ValidationError):
        task_spec(knobs)


def test_the_vocabulary_has_128_keys():
    with pytest.raises(InputError, match="needs 129 different keys, and the symbolic vocabulary has 128"):
        draw_pairs(Draws("label"), "training", 129, "this")


def test_a_split_that_has_too_few_values_says_so():
    one_key = np.full(60, KEYS.start, dtype=np.int32)
    with pytest.raises(InputError, match="needs 60 different values for its keys, and the evaluation split has not"):
        draw_values(Draws("label"), "evaluation", one_key, "this")


def test_content_that_no_split_has_is_refused():
    with pytest.raises(InputError, match="too little for two splits"):
        draw_content(lambda: np.zeros(1, dtype=np.int32), lambda _: False, "this")


# Pairs and places


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_all_keys_find_different_values_of_their_split(split):
    for label in range(5):
        keys, values = draw_pairs(Draws(f"all|{label}"), split, 128, "this")
        assert len(set(keys.tolist())) == len(set(values.tolist())) == 128


def test_every_content_is_in_one_split_and_a_fifth_in_evaluation():
    contents = [np.array([number, 7, number + 1], dtype=np.int32) for number in range(5_000)]
    evaluation = [in_split(content, "evaluation") for content in contents]
    assert [in_split(content, "training") for content in contents] == [not each for each in evaluation]
    assert binomtest(sum(evaluation), 5_000, 1 / 5).pvalue > 0.01
    assert in_split(contents[3].astype(np.int64), "evaluation") == evaluation[3]


def test_spans_by_segment_cover_positions_and_no_boundary():
    spans = spans_by_segment(np.array([3, 7, 8, 9, 31, 40]), 8)
    assert [tuple(span) for span in spans] == [(3, 8), (8, 10), (31, 32), (40, 41)]


@pytest.mark.parametrize(("length", "room"), [(31, 31), (32, 32), (33, 32), (95, 64), (96, 96)])
def test_room_before_the_question(length, room):
    assert before_question(length, 32) == room


def test_what_needs_everything_leaves_the_last_segment_free():
    kinds = ("sym_mqar", "sym_forgetting_mqar", "sym_cwe", "sym_fwe", "sym_copy", "sym_selective_copy", "sym_s5")
    for kind in kinds:
        assert all(sample.compressions >= 1 for sample in items(Case(kind, {})))


def test_the_words_are_512_and_all_different():
    assert len(set(names())) == len(names()) == 512
