"""What single symbolic tasks promise beyond the laws that hold for all of them."""

import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest, chisquare
from tests.symbolic_case import SEGMENT, Case, build

from palimpsest.errors import InputError
from palimpsest.tasks import TASKS, Output, Sample, task_spec
from palimpsest.tasks.catalogue import describe
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.parsing import Excerpt
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from palimpsest.tasks.symbolic.haystack import before_question, spans_by_segment
from palimpsest.tasks.symbolic.mqar import power_law
from palimpsest.tasks.symbolic.pairs import draw_content, draw_pairs, draw_values, in_split
from palimpsest.tasks.symbolic.states import composition
from palimpsest.tasks.symbolic.stories import Event, history
from palimpsest.tasks.symbolic.summary import fact_scores
from palimpsest.tasks.symbolic.vocabulary import KEYS, VALUES, names, spelled
from palimpsest.tasks.toys import PARSERS


def items(case: Case, count: int = 20) -> list[Sample]:
    task = build(case)
    return [
        task.sample(split="evaluation", seed=2, index=index, length=case.length, depth=None) for index in range(count)
    ]


def haystack(sample: Sample) -> str:
    return spelled(sample.input_ids[: sample.question_start])


def question(sample: Sample) -> str:
    return spelled(sample.input_ids[sample.question_start : sample.prompt_length])


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


# Single tasks


@pytest.mark.parametrize("similarity", [0.0, 0.5, 1.0])
def test_similar_keys_begin_alike(similarity):
    for sample in items(Case("sym_multikey", {"needles": 8, "similarity": similarity})):
        pairs = re.findall(r"SEP (k\d+) (k\d+) (v\d+)", haystack(sample))
        assert len(pairs) == 8
        assert len({second for _, second, _ in pairs}) == 8
        alike = Counter(first for first, _, _ in pairs)
        assert max(alike.values()) == max(1, round(8 * similarity))
        assert len(alike) == 8 - max(0, round(8 * similarity) - 1)
        first, second = re.findall(r"k\d+", question(sample))
        assert {pair[:2]: pair[2] for pair in pairs}[first, second] == sample.answer
        assert sample.facts["alike"] == alike[first] - 1


def test_distractors_of_a_passkey_have_its_form():
    for sample in items(Case("sym_passkey", {"distractors": 6})):
        numbers = re.findall(r"SEP (\w+) (v\d+ v\d+ v\d+)", haystack(sample))
        assert len({name for name, _ in numbers}) == 7
        assert {number for name, number in numbers if name != "NUM"} == set(sample.others)
        assert set(sample.candidates[1:7]) == set(sample.others)


@pytest.mark.parametrize("ask", ["newest", "first"])
@pytest.mark.parametrize("gap", ["same", "different"])
@pytest.mark.parametrize("depth", [None, 0.0, 0.4, 1.0])
def test_overwritten_keys_are_told_in_the_segments_that_are_wanted(ask, gap, depth):
    task = build(Case("sym_overwrite", {"keys": 5, "writes": 3, "ask": ask, "gap": gap, "questions": 2}))
    for index in range(12):
        sample = task.sample(split="training", seed=0, index=index, length=320, depth=depth)
        words = haystack(sample).split()
        told = [(at, words[at + 1], words[at + 2]) for at in range(len(words) - 2) if words[at] == "SEP"]
        for key in {key for _, key, _ in told}:
            segments = {at // SEGMENT for at, name, _ in told if name == key}
            assert len(segments) == (1 if gap == "same" else 3)
        asked = re.findall(r"k\d+", question(sample))[0]
        mine = [(at, value) for at, key, value in told if key == asked]
        place, value = mine[-1] if ask == "newest" else mine[0]
        assert sample.answer == value
        assert sample.needle_start == place
        assert set(sample.others) == {other for _, other in mine} - {value}
        assert sample.facts["age"] == sum(at > place for at, _, _ in told)


def test_a_full_haystack_of_rewrites_can_be_had():
    # 10 segments with room for 6 needles each, and 20 keys in 3 different segments each: no place stays free
    case = Case("sym_overwrite", {"keys": 20, "writes": 3})
    assert len(items(case._replace(length=324))) == 20


def test_gaps_follow_the_power_law():
    # first draw of a sample without replacement: the weights themselves
    size, power = 12, 0.01
    first = [power_law(Draws(f"gap|{number}"), size, 3, power)[0] for number in range(4_000)]
    weights = np.arange(1, size + 1) ** (power - 1)
    assert chisquare(np.bincount(first, minlength=size), 4_000 * weights / weights.sum()).pvalue > 0.01
    assert sorted(power_law(Draws("all"), size, size, power).tolist()) == list(range(size))


def test_mqar_pairs_are_dense_and_asked_at_least_a_segment_later():
    task = build(Case("sym_mqar", {"pairs": 12, "passes": 2, "questions": 12}))
    for index in range(20):
        row = task.training_sample(0, index)
        words = spelled(row.input_ids).split()
        told = " ".join(words[: 2 * 24])
        assert re.fullmatch(r"(k\d+ v\d+ ?){24}", told)
        assert told.split()[:24] == told.split()[24:]
        asked = np.flatnonzero(row.labels != -100)
        assert asked.size == 12
        assert (asked[0] - 1) // SEGMENT > (48 - 1) // SEGMENT


def test_forgotten_values_are_the_others():
    seen = Counter()
    for sample in items(Case("sym_forgetting_mqar", {"questions": 8}), 80):
        key = question(sample)
        told = re.findall(rf"\b{key} (v\d+)", haystack(sample))
        assert sample.answer == told[-1]
        assert list(sample.others) == told[:-1]
        assert sample.facts["rewrites"] == len(told) - 1
        seen[len(told)] += 1
    assert seen == {1: 40, 2: 40}


@pytest.mark.parametrize("order", ["hops", "shuffled"])
def test_variables_are_told_in_the_order_that_is_wanted(order):
    in_order = 0
    for sample in items(Case("sym_vt", {"hops": 3, "chains": 2, "order": order}), 40):
        told = re.findall(r"VAR (k\d+) ([kv]\d+)", haystack(sample))
        source = dict(told)
        chain = [re.findall(r"k\d+", question(sample))[0]]
        while chain[-1] in source:
            chain.append(source[chain[-1]])
        assert len(chain) == 3 + 2
        turn = [name for name, _ in told]
        in_order += [name for name in turn if name in chain] == chain[-2::-1]
    assert in_order == 40 if order == "hops" else in_order < 10


@pytest.mark.parametrize(
    "case", [Case("sym_cwe", {"top": 3}), Case("sym_fwe", {}), Case("sym_fwe", {"top": 1, "skew": 2.0, "words": 5})]
)
def test_counts_have_a_strict_gap(case):
    for sample in items(case):
        counts = Counter(re.findall(r"k\d+", haystack(sample)))
        least = min(counts.pop(word) for word in sample.answers)
        assert least - max(counts.values()) == sample.facts["gap"] >= 1
        assert set(counts) == set(sample.others)


def test_frequent_words_follow_the_zeta_law():
    sample = items(Case("sym_fwe", {"words": 8, "skew": 1.5}, 2_000), 1)[0]
    counts = sorted(Counter(re.findall(r"k\d+", haystack(sample))).values(), reverse=True)
    weights = np.arange(1, 9) ** -1.5
    assert (
        np.abs(np.array(counts) - before_question(sample.question_start, SEGMENT) * weights / weights.sum()).max() <= 1
    )


@pytest.mark.parametrize("points", [2, 3, 5])
def test_composition_is_the_product_of_permutation_matrices(points):
    elements = list(permutations(range(points)))
    matrices = [np.eye(points, dtype=int)[:, list(element)] for element in elements]
    number = {matrix.tobytes(): place for place, matrix in enumerate(matrices)}
    table = composition(points)
    for g in range(0, len(elements), 7):
        for s in range(len(elements)):
            assert table[g][s] == number[(matrices[g] @ matrices[s]).tobytes()]


def test_parity_is_parity():
    for sample in items(Case("sym_parity", {})):
        assert sample.answer == f"v{haystack(sample).split().count('k1') % 2}"


@pytest.mark.parametrize("kind", ["sym_parity", "sym_s3", "sym_s5"])
def test_a_dense_word_fills_all_segments_before_the_question(kind):
    sample = items(Case(kind, {}), 1)[0]
    ids = sample.input_ids
    assert ((ids[:288] >= KEYS.start) & (ids[:288] < VALUES.start)).all()
    assert [tuple(needle) for needle in sample.needles] == [(at, at + SEGMENT) for at in range(0, 288, SEGMENT)]


@pytest.mark.parametrize("supporting", [1, 2, 3])
def test_stories_rest_on_as_many_facts_as_wanted(supporting):
    for sample in items(Case("sym_babi", {"supporting": supporting, "statements": 24}), 10):
        assert len(sample.needles) == supporting
        assert len(re.findall("WENT|TOOK|DROPPED", haystack(sample))) == 24
        assert len(sample.candidates) == 16


@pytest.mark.parametrize(
    "case",
    [
        *(Case("sym_babi", {"supporting": facts, "statements": 30, "people": 3}) for facts in (1, 2, 3)),
        Case("sym_vt", {"hops": 3}),
        Case("sym_multiquery", {}),
    ],
    ids=str,
)
def test_every_single_needle_is_needed(case):
    read = PARSERS[case.kind].answer
    for sample in items(case, 40):
        for needle in sample.needles:
            rest = np.delete(sample.input_ids[: sample.question_start], np.arange(*needle))
            assert read(Excerpt(spelled(rest), question(sample), whole=True)) != sample.answer


def test_what_is_dropped_stays_and_what_is_held_goes_along():
    world = history(
        [Event(0, "went", 4), Event(0, "took", 7), Event(0, "went", 5), Event(0, "dropped", 7), Event(0, "went", 6)]
    )
    assert [puzzle.room for puzzle in world.puzzles(1)] == [6]
    assert [(puzzle.room, puzzle.evidence) for puzzle in world.puzzles(2)] == [(5, (1, 2)), (5, (2, 3))]
    assert [(puzzle.before, puzzle.room, puzzle.evidence) for puzzle in world.puzzles(3)] == [(5, 4, (0, 1, 2))]


@pytest.mark.parametrize(
    ("output", "recall", "precision"),
    [
        ("n1 r2 n3 r4", 1.0, 1.0),
        ("n3 r4 n1 r2", 1.0, 1.0),
        ("n1 r2", 0.5, 1.0),
        ("n1 r2 n3 r2", 0.5, 0.5),
        ("n1 r2 n3 r4 n5 r6 n7 r8", 1.0, 0.5),
        ("n1 r2 n1 r2", 0.5, 1.0),
        ("n1 r4 n3 r2", 0.0, 0.0),
        ("n11 r2 n3 r44", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_summaries_are_scored_fact_by_fact(output, recall, precision):
    assert fact_scores("n1 r2 n3 r4", output)[:2] == (recall, precision)


def test_facts_of_a_summary_say_where_they_were_told():
    for sample in items(Case("sym_summary", {}, 640), 10):
        starts = [int(start) for start in str(sample.facts["starts"]).split()]
        for fact, start in zip(sample.answers, starts, strict=True):
            assert spelled(sample.input_ids[start : start + 3]) == fact.replace(" ", " WENT ")
        numbers = [int(fact.split()[0][1:]) for fact in sample.answers]
        assert numbers == sorted(numbers)
        assert fact_scores(sample.answer, sample.answer).recalled == (True,) * 8


def test_a_wrong_room_of_somebody_else_is_a_binding_error():
    task = build(Case("sym_summary", {"facts": 2}))
    sample = next(
        each for each in items(Case("sym_summary", {"facts": 2})) if len({a.split()[1] for a in each.answers}) == 2
    )
    (first, here), (second, there) = (answer.split() for answer in sample.answers)
    absent = next(f"r{number}" for number in range(16) if f"r{number}" not in (here, there))
    logprobs = np.zeros(len(sample.candidates))

    def classified(text: str) -> str:
        return task.score(sample, Output(text, logprobs)).error_class

    assert classified(f"{first} {here} {second} {there}") == "correct"
    assert classified(f"{first} {there} {second} {there}") == "other_value"
    assert classified(f"{first} {absent} {second} {there}") == "absent_value"
    assert task.score(sample, Output(f"{first} {there} {second} {there}", logprobs)).recall == 0.5


def test_set_answers_may_come_in_any_order():
    task = build(Case("sym_multivalue", {}))
    sample = items(Case("sym_multivalue", {}), 1)[0]
    logprobs = np.zeros(len(sample.candidates))
    right = task.score(sample, Output(" ".join(reversed(sample.answers)), logprobs))
    assert (right.exact, right.recall) == (True, 1.0)
    half = task.score(sample, Output(" ".join([*sample.answers[:2], *sample.others[:2]]), logprobs))
    assert (half.exact, half.recall, half.error_class) == (False, 0.5, "other_value")


def test_the_words_are_512_and_all_different():
    assert len(set(names())) == len(names()) == 512
