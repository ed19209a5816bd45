"""What single tasks in text promise beyond the laws that hold for all of them, RULER's mended defects among it."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare
from tests.text_case import Case, build, decode, encode, tokenizer, write_articles

from palimpsest.errors import InputError
from palimpsest.tasks import Output, Sample, build_task, task_spec
from palimpsest.tasks.catalogue import describe
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import rank_of_first
from palimpsest.tasks.text.babilong import ROOMS, tell
from palimpsest.tasks.text.catalogue import TEXT_TASKS
from palimpsest.tasks.text.niah import RULER, ruler
from palimpsest.tasks.text.squad import read_articles, split_of
from palimpsest.tasks.words import score_items, score_labels, score_passage


def items(case: Case, count: int = 12, depth: float | None = None) -> list[Sample]:
    task = build(case)
    return [
        task.sample(split="evaluation", seed=2, index=index, length=case.length, depth=depth) for index in range(count)
    ]


def haystack(sample: Sample) -> str:
    return decode(sample.input_ids[: sample.question_start])


def question(sample: Sample) -> str:
    return decode(sample.input_ids[sample.question_start : sample.prompt_length])


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


# QA


def articles_task(tmp_path, **knobs):
    file = write_articles(tmp_path / "articles.json")
    return build_task(task_spec({"kind": "qa", "file": str(file), **knobs}), tokenizer(), segment_length=128)


def test_questions_about_articles_are_items_like_all_others(tmp_path):
    task = articles_task(tmp_path)
    for index in range(8):
        sample = task.sample(
            split="evaluation", seed=0, index=index, length=700, depth=[None, 0.0, 0.5, 1.0][index % 4]
        )
        ids = sample.input_ids.tolist()
        assert sample.length == 700
        assert encode(decode(ids)) == ids
        (needle,) = sample.needles
        sentence = decode(ids[needle.start : needle.end])
        town = re.search(r"flag of (\w+) show\?", question(sample))
        assert town is not None
        bird = re.fullmatch(rf" The flag of {town.group(1)} shows a (\w+) bird on \w+ ground\.", sentence)
        assert bird is not None
        assert bird.group(1) == sample.answer
        assert needle.start // 128 == (needle.end - 1) // 128
        assert len(re.findall(sample.answer, haystack(sample))) == 1
        assert len(set(sample.candidates)) == 16
        assert set(sample.facts["accepted"].split("\n")) == {sample.answer, f"a {sample.answer} bird"}
        logprobs = np.zeros(16)
        assert task.score(sample, Output(f" A {sample.answer} bird.", logprobs)).exact
        wrong = task.score(sample, Output(f" {sample.others[0]}", logprobs))
        assert (wrong.exact, wrong.contains, wrong.error_class) == (False, False, "other_value")
    row = task.training_sample(0, 0)
    assert (row.labels[row.labels != -100] == row.input_ids[row.labels != -100]).all()


def test_splits_share_no_article(tmp_path):
    articles = read_articles(write_articles(tmp_path / "a.json"))
    task = articles_task(tmp_path)
    for split in ("training", "evaluation"):
        mine = {paragraph.text for paragraph in articles.paragraphs if split_of(paragraph.title) == split}
        text = haystack(task.sample(split=split, seed=0, index=0, length=900, depth=None))
        told = list(re.findall(r"(Town\w+) lies", text))
        assert told
        assert all(any(found.startswith(f"{town} lies") for found in mine) for town in told)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_all_layouts_of_squad_read_alike(tmp_path, suffix):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = write_articles(tmp_path / "a.json", articles=3)
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [answer["text"] for answer in asked["answers"]], "answer_start": [0, 0]},
        }
        for article in json.loads(source.read_text())["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_articles(path) == read_articles(source)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "cannot be read"),
        ("broken.json", "{", "is not in SQuAD's schema"),
        ("other.json", '{"rows": []}', "is not in SQuAD's schema"),
        ("empty.json", '{"data": []}', "has no question whose answer occurs in just one sentence"),
        ("other.jsonl", '{"title": "a"}', "is not in SQuAD's schema"),
    ],
)
def test_files_that_are_no_squad_are_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        build_task(task_spec({"kind": "qa", "file": str(tmp_path / name)}), tokenizer(), segment_length=128)


# Scores


def sample_with(answers: tuple[str, ...], others: tuple[str, ...] = ()) -> Sample:
    (sample,) = items(Case("niah", {"needles": 2}, 400), 1)
    candidates = (", ".join(answers), "nothing")
    return replace(sample, answers=answers, others=others, candidates=candidates)


@pytest.mark.parametrize(
    ("text", "exact", "recall", "error"),
    [
        (" 1234567", True, 1.0, "correct"),
        (": 1234567.", True, 1.0, "correct"),
        (" 7654321", False, 0.0, "other_value"),
        (" 7654321 or 1234567", False, 1.0, "other_value"),
        (" 1111111", False, 0.0, "absent_value"),
        (" 12345678", False, 1.0, "absent_value"),
        (" none", False, 0.0, "no_number"),
    ],
)
def test_one_number_is_compared_whole(text, exact, recall, error):
    score = score_items(sample_with(("1234567",), ("7654321",)), Output(text, [0.0, -1.0]), rank_of_first)
    assert (score.exact, score.recall, score.error_class) == (exact, recall, error)
    assert score.contains == (recall == 1.0)


@pytest.mark.parametrize(
    ("text", "exact", "recall", "error"),
    [
        ("red-fox, blue-owl and tiny-elk", True, 1.0, "correct"),
        ("Blue-Owl, tiny-elk, red-fox, old-cat", True, 1.0, "correct"),
        ("red-fox, red-fox, blue-owl, tiny-elk", False, 1.0, "absent_value"),
        ("red-fox, old-cat, blue-owl, tiny-elk", False, 1.0, "other_value"),
        ("red-fox, blue-owl", False, 2 / 3, "absent_value"),
        ("red fox", False, 0.0, "absent_value"),
    ],
)
def test_several_words_may_come_in_any_order(text, exact, recall, error):
    sample = sample_with(("red-fox", "blue-owl", "tiny-elk"), ("old-cat",))
    score = score_items(sample, Output(text, [0.0, -1.0]), rank_of_first)
    assert (score.exact, score.recall, score.error_class) == (exact, pytest.approx(recall), error)


@pytest.mark.parametrize(
    ("text", "exact", "error"),
    [
        (" garden", True, "correct"),
        (" The Garden. Not the kitchen.", True, "correct"),
        (" garden or kitchen", False, "other_value"),
        (" kitchen", False, "other_value"),
        (" office", False, "absent_value"),
        (" before the bathroom it was in the garden", True, "correct"),
        (" gardens", False, "absent_value"),
        ("", False, "absent_value"),
    ],
)
def test_exactly_one_label_counts(text, exact, error):
    sample = sample_with(("garden",), ("kitchen",))
    score = score_labels(sample, Output(text, [0.0, -1.0]), rank_of_first, labels=ROOMS, asked_with={"bathroom"})
    assert (score.exact, score.error_class) == (exact, error)


@pytest.mark.parametrize(
    ("text", "exact", "contains", "recall"),
    [
        (" the Denver Broncos!", True, True, 1.0),
        (" Broncos", True, True, 1.0),
        (" It was the Denver Broncos", False, True, 1.0),
        (" Denver", False, False, 0.5),
        (" Panthers", False, False, 0.0),
    ],
)
def test_any_accepted_wording_will_do(text, exact, contains, recall):
    sample = sample_with(("Broncos",), ("Panthers",))
    score = score_passage(sample, Output(text, [0.0, -1.0]), rank_of_first, accepted=["Broncos", "Denver Broncos"])
    assert (score.exact, score.contains, score.recall) == (exact, contains, pytest.approx(recall))


def test_what_is_not_finite_is_never_right():
    sample = sample_with(("1234567",))
    score = score_items(sample, Output("1234567", [float("nan"), 0.0]), rank_of_first)
    assert (score.exact, score.error_class, score.rank) == (False, "not_finite", 2)
    with pytest.raises(ValueError, match="2 candidates need as many"):
        score_items(sample, Output("1234567", [0.0]), rank_of_first)
