"""What single tasks in text promise beyond the laws that hold for all of them, RULER's mended defects among it."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare

from palimpsest.errors import InputError
from palimpsest.tasks import Output, Sample, task_spec
from palimpsest.tasks.catalogue import describe
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.text.babilong import ROOMS, tell
from palimpsest.tasks.text.catalogue import TEXT_TASKS
from palimpsest.tasks.text.niah import RULER, ruler
from text_case import Case, articles_task, build, decode, haystack, items, question

# Catalogue


def test_every_task_says_in_one_line_what_it_is():
    lines = [describe(kind) for kind in TEXT_TASKS]
    assert len(set(lines)) == len(lines)
    assert all(20 < len(line) <= 120 for line in lines)


def test_knobs_are_found_by_kind_and_closed():
    for kind, task in TEXT_TASKS.items():
        knobs = {"kind": kind, "file": "x.json"} if kind == "qa" else {"kind": kind}
        assert task_spec(knobs).kind == kind == task.name
        with pytest.raises(ValidationError, match="Extra inputs"):
            task_spec({**knobs, "neddles": 4})


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"kind": "niah", "haystack": "needles", "queries": 2}, "one value per key and one query"),
        ({"kind": "niah", "needles": 2, "questions": 3}, "need as many needles"),
        ({"kind": "niah", "questions": 2, "values_per_key": 2}, "ask for one value each"),
        ({"kind": "rosetta", "needles": 2, "questions": 3}, "cannot be asked"),
        ({"kind": "rosetta", "cue": "ROSETTA", "questions": 2}, "cue drawn"),
        ({"kind": "overwrite", "needles": 1, "questions": 2}, "cannot be asked"),
        ({"kind": "cwe", "repeats": 3, "rest": 3}, "must occur more often"),
        ({"kind": "fwe", "words": 3, "frequent": 3}, "need more than 3 words"),
        ({"kind": "babilong", "question": "qa3", "events": 4}, "needs at least 8 events"),
        ({"kind": "vt", "min_length": 9, "max_length": 8}, "min_length 9 exceeds max_length 8"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(knobs, words):
    with pytest.raises(ValidationError, match=words):
        task_spec(knobs)


def test_presets_have_rulers_names_and_numbers():
    specs = {name: ruler(name) for name in RULER}
    assert len(specs) == 8
    assert {name for name, spec in specs.items() if spec.haystack == "needles"} == {
        "niah_multikey_2",
        "niah_multikey_3",
    }
    assert {name for name, spec in specs.items() if spec.values == "uuids"} == {"niah_single_3", "niah_multikey_3"}
    assert [specs[f"niah_multi{what}"].values_per_key for what in ("value", "query")] == [4, 1]
    assert ruler("niah_multiquery", {"prose": "grammar"}).queries == 4
    with pytest.raises(InputError, match="Did you mean 'niah_single_1'"):
        ruler("niah_singel_1")


# RULER's defects (evaluation of its commit c3f5e3b), each mended


def test_defect_1_the_order_is_drawn_per_item():
    """RULER shuffles with a fresh ``Random(42)`` per item, so that everything keeps its place."""
    places = {tuple(np.array(sample.needles).ravel()) for sample in items(Case("niah", {"needles": 4}, 700), 10)}
    assert len(places) == 10
    slots = []
    for sample in items(Case("cwe", {"common": 2, "repeats": 20})):
        words = re.findall(r"[0-9]+\. ([a-z]+)", haystack(sample))
        slots.append(tuple(at for at, word in enumerate(words) if word in sample.answers))
    assert len(set(slots)) == len(slots)


def test_defect_1_the_document_that_answers_lies_anywhere(tmp_path):
    task = articles_task(tmp_path)
    samples = [task.sample(split="training", seed=0, index=index, length=700, depth=None) for index in range(60)]
    before = Counter(decode(sample.input_ids[: sample.needle_start]).count(" Document:") for sample in samples)
    assert len(before) >= 6
    assert chisquare([before.get(count, 0) for count in range(1, 7)]).pvalue > 1e-3


def test_defect_2_a_haystack_that_does_not_fit_is_refused_at_once():
    """RULER's bare ``except`` loops for ever."""
    with pytest.raises(InputError, match="no niah item of exactly 90 tokens"):
        build(Case("niah", {"prose": "sotu", "sentences": 64})).sample(
            split="evaluation", seed=0, index=0, length=90, depth=None
        )


@pytest.mark.parametrize("keys", ["words", "numbers", "uuids"])
def test_defect_3_keys_never_collide(keys):
    for sample in items(Case("niah", {"haystack": "needles", "keys": keys, "values": "numbers"}, 1_500), 6):
        told = re.findall(r"numbers for (\S+) is: ([0-9]+)\.", haystack(sample))
        assert len({key for key, _ in told}) == len({value for _, value in told}) == len(told) > 10
        assert not {key for key, _ in told} & {value for _, value in told}


def test_defect_4_to_repeat_the_text_is_not_exact():
    (sample,) = items(Case("niah", {"needles": 6, "queries": 2}), 1)
    score = build(Case("niah", {"needles": 6, "queries": 2})).score(
        sample, Output(haystack(sample), np.zeros(len(sample.candidates)))
    )
    assert (score.contains, score.recall, score.exact) == (True, 1.0, False)


def test_defect_6_the_gap_below_the_frequent_words_is_strict():
    for words, alpha, frequent in ((8, 0.7, 3), (52, 2.0, 3), (20, 4.0, 5), (200, 1.0, 3)):
        task = build(Case("fwe", {"words": words, "alpha": alpha, "frequent": frequent}))
        for scale in (1, 2, 7, 50, 400):
            *counts, dots = task.counts(scale).tolist()
            assert all(count > later for count, later in itertools.pairwise(counts[: frequent + 1]))
            assert max(counts[frequent:]) == counts[frequent]
            assert min(dots, *counts) >= 1
    for sample in items(Case("fwe", {})):
        counts = Counter(re.findall(r"(?<= )[a-z]{6}(?= )", haystack(sample).partition("coded words.")[2]))
        (*top, last) = [count for _, count in counts.most_common(4)]
        assert min(top) > last
        assert sample.facts["gap"] == min(top) - last
        assert [word for word, _ in counts.most_common(3)] == list(sample.answers)


# Single tasks


def test_passkeys_with_other_distractors_are_paired():
    cases = [Case("text_passkey", {"distractors": count}, 1_500) for count in (0, 4, 16)]
    for few, more, many in zip(*(items(case, 5, depth=0.4) for case in cases), strict=True):
        assert few.answer == more.answer == many.answer
        assert len({few.id, more.id, many.id}) == len({few.cluster, more.cluster, many.cluster}) == 3
        starts = [sample.needle_start / sample.question_start for sample in (few, more, many)]
        assert max(starts) - min(starts) < 0.1
        told = re.findall(r"The (\w+ \w+) is ([0-9]{5})\.", haystack(many))
        assert len(told) == len(dict(told)) == 17
        assert sorted(many.others) == sorted(value for name, value in told if name != "pass key")


def test_the_newest_code_is_the_one_told_last_and_the_first_is_told_first():
    for ask, place, depth in (("newest", -1, 0.5), ("first", 0, 0.5), ("newest", -1, None), ("first", 0, None)):
        for sample in items(Case("overwrite", {"writes": 4, "ask": ask, "questions": 3}), 6, depth=depth):
            door = re.search(r"of the (\w+ \w+)\?", question(sample))
            assert door is not None
            codes = re.findall(rf"code of the {door.group(1)} is now ([0-9]+)", haystack(sample))
            assert len(set(codes)) == 4
            assert codes[place] == sample.answer
            assert set(codes) - {sample.answer} <= set(sample.others)


def test_a_json_object_is_one():
    for sample in items(Case("key_value", {}, 1_400), 4):
        text = haystack(sample)
        told = json.loads(text[text.index("{") :])
        asked = re.search(r'Key: "([^"]+)"', question(sample))
        assert asked is not None
        assert told[asked.group(1)] == sample.answer
        assert len(told) == sample.facts["needles"] >= 8


def test_a_phone_book_shows_two_of_its_entries():
    for sample in items(Case("phone_book", {})):
        *shown, asked = re.findall(r"(\w+ \w+):", question(sample))
        book = dict(re.findall(r"(\w+ \w+): ([0-9]{10})\.", haystack(sample)))
        assert len(shown) == 2
        assert asked not in shown
        assert book[asked] == sample.answer
        assert all(f" {name}: {book[name]}." in question(sample) for name in shown)


def test_the_word_rosetta_is_asked_for_where_it_should_be():
    asked = {question(sample) for sample in items(Case("rosetta", {"cue": "ROSETTA"}))}
    assert asked == {
        " What is the passkey associated with the word ROSETTA? The passkey associated with the word ROSETTA is "
    }
    assert len({question(sample) for sample in items(Case("rosetta", {}))}) > 8


def test_chains_are_told_in_order_or_shuffled():
    def in_order(sample: Sample) -> bool:
        names = re.findall(r"VAR ([A-Z]{5}) =", haystack(sample))
        return [name for name in names if name in sample.answers] == list(sample.answers)

    assert all(map(in_order, items(Case("vt", {"chains": 2}))))
    assert not all(map(in_order, items(Case("vt", {"chains": 2, "order": "shuffled"}))))


def test_lists_end_before_the_segment_of_the_question():
    for kind in ("cwe", "fwe"):
        knobs = {"common": 2, "repeats": 20} if kind == "cwe" else {}
        assert not any(sample.locally_reachable for sample in items(Case(kind, knobs)))
        near = build(Case(kind, {**knobs, "apart": False}), segment=512)
        sample = near.sample(split="evaluation", seed=0, index=0, length=1_000, depth=None)
        assert sample.locally_reachable


def told_again(facts: list[str], asked: str) -> str | None:
    """Answer bAbI's questions from the facts alone, event by event: an independent reading."""
    at: dict[str, str] = {}
    with_whom: dict[str, str] = {}
    where: dict[str, list[str]] = {"apple": [], "football": [], "milk": []}
    for fact in facts:
        who, *_, last = fact.rstrip(".").split()
        if last in ROOMS:
            at[who] = last
        elif any(word in fact for word in (" took ", " got ", " picked up ", " grabbed ")):
            with_whom[last] = who
        else:
            with_whom.pop(last, None)
        for thing, holder in with_whom.items():
            if holder in at and where[thing][-1:] != [at[holder]]:
                where[thing].append(at[holder])
    words = asked.rstrip("?").split()
    if "before" in words:
        rooms = where[words[3]]
        assert rooms.count(words[-1]) == 1
        return rooms[rooms.index(words[-1]) - 1]
    return at.get(words[-1]) or where[words[-1]][-1]


@pytest.mark.parametrize("kind", ["qa1", "qa2", "qa3"])
def test_stories_are_consistent_and_only_their_support_tells_the_answer(kind):
    answers = Counter()
    for number in range(300):
        story = tell(Draws(f"{kind}|{number}"), kind, {"qa1": 6, "qa2": 12, "qa3": 20}[kind])
        assert told_again(story.facts, story.question) == story.answer
        assert told_again([story.facts[at] for at in story.support], story.question) == story.answer
        answers[story.answer] += 1
    assert chisquare([answers[room] for room in ROOMS]).pvalue > 1e-3


def test_not_enough_keys_is_one_sentence():
    crowded = build(Case("overwrite", {"needles": 256, "writes": 8}))
    with pytest.raises(InputError, match=r"are needed, and the evaluation split has [0-9]+ of this kind"):
        crowded.sample(split="evaluation", seed=0, index=0, length=60_000, depth=None)
    with pytest.raises(InputError, match=r"phone_book: 60000 tokens have room for more than the"):
        build(Case("phone_book", {"shown": 0})).sample(split="evaluation", seed=0, index=0, length=60_000, depth=None)
