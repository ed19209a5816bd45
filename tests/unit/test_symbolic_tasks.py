"""What single symbolic tasks promise beyond the laws that hold for all of them."""

import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from palimpsest.tasks import Output
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.parsing import Excerpt
from palimpsest.tasks.symbolic.haystack import before_question
from palimpsest.tasks.symbolic.mqar import power_law
from palimpsest.tasks.symbolic.states import composition
from palimpsest.tasks.symbolic.stories import Event, history
from palimpsest.tasks.symbolic.summary import fact_scores
from palimpsest.tasks.symbolic.vocabulary import KEYS, VALUES, spelled
from palimpsest.tasks.toys import PARSERS
from symbolic_case import SEGMENT, Case, build, haystack, items, question


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
