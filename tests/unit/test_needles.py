"""The two forms of needle prompts: each switch of the published one against a slow reading of what it says."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from needle_case import CYCLE_TOKENS, encode, needle_tokenizer
from palimpsest.errors import InputError
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.needles import (
    ASKED,
    CYCLE,
    TOLD,
    WORDINGS,
    IntendedNeedles,
    PublishedNeedles,
    needle_prompts,
)
from palimpsest.tasks.templates import INTRODUCTION, QUESTION

TOKENIZER = needle_tokenizer()
SEGMENT = 64
DEPTHS = (0.0, 5.0, 45.0, 50.0, 95.0, 100.0)


def prompts(spec, *, split="training", segment_length=SEGMENT):
    return needle_prompts(spec, TOKENIZER, split=split, segment_length=segment_length)


def one(depth: float, **knobs):
    spec = PublishedNeedles(**{"lengths": (1260,), "depths": (depth,), **knobs})
    return prompts(spec).prompt(3)


def parts(prompt, wording: str = "pass_key") -> tuple[str, str]:
    """Return what stands between instruction and question, and the needle as it should stand in it."""
    form = WORDINGS[wording]
    end = f"{form.before_question}{ASKED}{prompt.key}."
    assert prompt.text.startswith(form.introduction + " ")
    assert prompt.text.endswith(end)
    context = prompt.text.removeprefix(form.introduction + " ").removesuffix(end)
    return context, form.before_needle + TOLD.format(key=prompt.key)


def test_the_filler_is_that_of_the_papers():
    assert len(CYCLE) == 90
    assert len(encode(CYCLE)) == CYCLE_TOKENS


def test_two_rows_of_the_public_set_have_this_shape():
    """As shown in nanotron's notebook of 2024: at a depth of 5 % the place falls to the very start."""
    early = one(5.0, lengths=(1079,)).text
    key = re.search(r"\d+", early).group()
    assert f"later on. . The pass key is {key}. Remember it. {key} is the pass key.  The grass is green. The" in early
    assert early.endswith(f"Here we go. There and back again. \n\nWhat is the pass key? The pass key is {key}.")
    assert any(
        re.search(r"The sun\. The pass key is (\d+)\. Remember it\. \1 is the pass key\.  is yellow\.", one(depth).text)
        for depth in range(0, 100)
    )


@pytest.mark.parametrize("wording", sorted(WORDINGS))
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("length", [90, 700, 1260])
def test_a_split_needle_is_placed_in_tokens_and_searched_for_in_characters(length, depth, wording):
    prompt = one(depth, lengths=(length,), wording=wording)
    context, needle = parts(prompt, wording)
    filler = (CYCLE * 15)[:length]
    ids, inserted = encode(filler), encode(needle)
    if depth == 100:
        expected = ids[: max(len(ids) - len(inserted), 0)] + inserted
    else:
        place = int(len(ids) * depth / 100)
        while filler[place] != "." and place > 0:
            place -= 1
        expected = ids[:place] + inserted + ids[place:]
    assert context == TOKENIZER.decode(expected)


@pytest.mark.parametrize("wording", sorted(WORDINGS))
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_needle_before_a_stop_is_followed_by_it(depth, wording):
    context, needle = parts(one(depth, needle="stop", wording=wording), wording)
    before, after = context.split(needle)
    filler = (CYCLE * 15)[:1260]
    if depth == 100:
        assert after == ""
        assert before == filler[: 1260 - len(needle)]
    else:
        assert before + after == filler
        assert not before or after[0] == "."
        assert len(before) <= 12.6 * depth
        assert "." not in filler[len(before) + 1 : int(12.6 * depth) + 1]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("length", [90, 700, 1260])
def test_a_whole_needle_splits_no_sentence(length, depth):
    prompt = one(depth, needle="whole", lengths=(length,))
    context = prompt.text.removeprefix(WORDINGS["pass_key"].introduction + " ").split(" \n\n")[0]
    needle = TOLD.format(key=prompt.key).strip()
    sentences = {sentence.strip() for sentence in CLASSIC_SENTENCES}
    before, after = context.split(needle)
    for part in (before, after):
        assert set(re.findall(r"[^.]+\.", part.strip().replace(". ", "."))) <= {s.replace(". ", ".") for s in sentences}
    filler = f"{before}{after}".replace("  ", " ").strip()
    assert (CYCLE * 15).strip().startswith(filler)
    assert length - 23 < len(filler) + 1 <= length
    assert abs(len(before) - depth / 100 * len(filler)) <= 12


@pytest.mark.parametrize("needle", ["split", "stop"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("length", [200, 257, 1024])
def test_a_length_in_tokens_is_exact(length, depth, needle):
    prompt = one(depth, units="tokens", lengths=(length,), needle=needle)
    assert len(encode(prompt.text)) == length
    assert f". The pass key is {prompt.key}. Remember it." in prompt.text


@given(length=st.integers(90, 2000), percent=st.integers(0, 20), index=st.integers(0, 10**6))
def test_a_length_in_characters_is_that_of_the_filler(length, percent, index):
    spec = PublishedNeedles(lengths=(length,), depths=(5.0 * percent,))
    prompt = prompts(spec).prompt(index)
    context, needle = parts(prompt)
    taken = len(TOKENIZER.decode(encode((CYCLE * 23)[:length])[-len(encode(needle)) :])) if percent == 20 else 0
    assert len(context) == length + len(needle) - min(taken, length)
    assert prompt.context_length == length


def test_keys_without_a_width_are_uniform_from_one_to_ten_thousand():
    spec = PublishedNeedles(lengths=(90,), number=3000)
    form = prompts(spec)
    keys = np.array([int(form.prompt(index).key) for index in range(3000)])
    assert keys.min() >= 1
    assert keys.max() <= 10_000
    assert abs(keys.mean() - 5000.5) < 5 * 10_000 / np.sqrt(12 * 3000)
    assert set(map(len, map(str, keys))) >= {2, 3, 4}
    short = (keys < 1000).mean()
    assert abs(short - 0.0999) < 5 * np.sqrt(0.09 / 3000)


@pytest.mark.parametrize("width", [1, 4, 7])
def test_keys_of_a_width_have_it(width):
    spec = PublishedNeedles(lengths=(90,), key_digits=width)
    assert {len(prompts(spec).prompt(index).key) for index in range(50)} == {width}


@pytest.mark.parametrize(
    "spec", [PublishedNeedles(lengths=(300, 500)), IntendedNeedles(lengths=(200, 301))], ids=lambda spec: spec.kind
)
def test_prompts_are_pure_and_the_seed_matters(spec):
    several = [prompts(spec).prompt(index) for index in (5, 6, 5)]
    assert several[0] == several[2] != several[1]
    other = prompts(spec.model_copy(update={"seed": 1})).prompt(5)
    assert other.key != several[0].key
    assert other[2:] == several[0][2:]


def test_a_set_visits_its_lengths_and_depths_equally():
    spec = IntendedNeedles(lengths=(200, 300, 400), depths=(0, 50))
    cells = Counter(spec.cell(index) for index in range(60))
    assert len(cells) == 6
    assert set(cells.values()) == {10}


@pytest.mark.parametrize("needle", ["repeat", "short"])
def test_an_intended_prompt_has_its_tokens_and_a_whole_needle_inside_one_segment(needle):
    spec = IntendedNeedles(lengths=(200, 301, 512), depths=(0, 35, 100), needle=needle)
    form = prompts(spec)
    for index in range(18):
        prompt = form.prompt(index)
        assert len(encode(prompt.text)) == prompt.context_length
        assert prompt.text.startswith(INTRODUCTION)
        assert prompt.text.endswith(QUESTION.format(key=prompt.key))
        begin = prompt.text.index(" The pass key is")
        end = prompt.text.index(f"{prompt.key} is the pass key." if needle == "repeat" else f"{prompt.key}.")
        first, last = (len(encode(prompt.text[:place])) for place in (begin, end))
        assert first // SEGMENT == last // SEGMENT
        assert prompt.text[:begin].endswith(".")
        assert len(prompt.key) == 5


def test_training_and_evaluation_share_no_key_in_the_intended_form():
    spec = IntendedNeedles(lengths=(160,), key_digits=3)
    forms = {split: prompts(spec, split=split) for split in ("training", "evaluation")}
    keys = {split: {int(form.prompt(index).key) for index in range(400)} for split, form in forms.items()}
    assert not keys["training"] & keys["evaluation"]
    assert len(keys["training"]) > 200
    assert is_evaluation_key(np.array(sorted(keys["evaluation"]))).all()


def test_the_published_sets_of_two_seeds_do_share_keys():
    one, other = (PublishedNeedles(lengths=(90,), seed=seed) for seed in (0, 1))
    keys = [{prompts(spec).prompt(index).key for index in range(500)} for spec in (one, other)]
    assert keys[0] & keys[1]


FORMS = TypeAdapter(PublishedNeedles | IntendedNeedles)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "published", "lengths": [200], "units": "tokens", "needle": "whole"}, "is kind: intended"),
        ({"kind": "published", "lengths": [300, 89]}, "89 characters of filler"),
        ({"kind": "published", "lengths": []}, "at least 1 item"),
        ({"kind": "published", "lengths": [300], "depths": [101]}, "less than or equal to 100"),
        ({"kind": "published", "lengths": [300], "needle": "hidden"}, "'split', 'stop' or 'whole'"),
        ({"kind": "intended", "lengths": [300], "key_digits": 2}, "greater than or equal to 3"),
        ({"kind": "intended", "lengths": [300], "units": "tokens"}, "Extra inputs"),
    ],
)
def test_wrong_switches_are_refused(values, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        (PublishedNeedles if values["kind"] == "published" else IntendedNeedles).model_validate(values)


def test_a_length_that_cannot_be_had_is_refused():
    with pytest.raises(InputError, match="no published needle prompt of exactly 40 tokens"):
        one(50.0, units="tokens", lengths=(40,))
    with pytest.raises(InputError, match="shorter than the task's fixed text"):
        prompts(IntendedNeedles(lengths=(20,))).prompt(0)


@pytest.mark.parametrize(
    "spec", [PublishedNeedles(lengths=(300,), wording="important_info"), IntendedNeedles(lengths=(200,))]
)
def test_a_form_survives_being_written_down(spec):
    assert FORMS.validate_json(spec.model_dump_json()) == spec
