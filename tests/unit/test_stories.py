"""Stories: the fact table is what the narrative says, and the gold summary says all of it and nothing else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import InputError
from palimpsest.tasks.stories import (
    OBJECTS,
    OUTCOMES,
    PEOPLE,
    ROOMS,
    SALIENCE,
    Fact,
    Story,
    StorySpec,
    facts_of,
    write_story,
)

specs = st.builds(
    StorySpec,
    people=st.integers(2, len(PEOPLE)),
    rooms=st.integers(2, len(ROOMS)),
    objects=st.integers(2, len(OBJECTS)),
    event_share=st.sampled_from([0.05, 0.3, 1.0]),
)


def story(words: int = 400, index: int = 0, spec: StorySpec | None = None) -> Story:
    return write_story(spec or StorySpec(), split="evaluation", seed=10_000, index=index, words=words)


@given(specs, st.integers(0, 2**31), st.integers(150, 1500))
def test_narrative_and_gold_summary_both_say_the_fact_table_at_any_length(spec, index, words):
    made = story(words, index, spec)
    assert facts_of(made.summary) == made.facts
    assert facts_of(made.text) == made.facts
    assert words <= made.words < words + max(len(s.split()) for s in made.sentences)
    assert len({(f.subject, f.relation) for f in made.facts}) == len(made.facts)
    assert len(made.facts) >= spec.people + spec.objects


@given(st.integers(0, 2**31))
def test_facts_are_told_where_it_says_and_nowhere_later(index):
    made = story(index=index)
    words = made.text.split()
    for fact, start in zip(made.facts, made.told, strict=True):
        before, after = " ".join(words[:start]), " ".join(words[start:])
        sentence = after[: after.index(".") + 1]
        assert facts_of(sentence) == (fact,)
        later = facts_of(after[len(sentence) :])
        assert (fact.subject, fact.relation) not in {(f.subject, f.relation) for f in later}
        assert before == "" or before.endswith(".")


@given(st.integers(0, 2**31))
def test_the_world_is_consistent(index):
    """Simulated again, from the sentences alone: nobody is given what the giver lacks, or meets who is elsewhere."""
    made = story(600, index)
    room, place = {}, {}
    for sentence in made.sentences:
        words = sentence.rstrip(".").split()
        held = place.get(words[3] if len(words) > 3 else "")
        if "gave" in words:
            assert held == words[0]
            assert room[words[0]] == room[words[5]]
        elif "left" in words:
            assert held == words[0]
            assert words[6] == room[words[0]]
        elif "picked" in words:
            assert place[words[4]] == room[words[0]]
        elif words[1] in OUTCOMES:
            assert held == words[0]
        for fact in facts_of(sentence):
            if fact.relation == "room":
                room[fact.subject] = fact.value
            elif fact.relation == "place":
                place[fact.subject] = fact.value


def test_all_kinds_of_facts_occur_and_have_a_salience():
    facts = [fact for index in range(20) for fact in story(index=index).facts]
    assert {fact.relation for fact in facts} == set(SALIENCE)
    assert Fact("clock", "outcome", "broken by Ada").salience > Fact("clock", "place", "Ada").salience


def test_cloze_items_have_one_right_answer_among_candidates():
    for index in range(20):
        made = story(index=index)
        for fact, item in zip(made.facts, made.questions, strict=True):
            assert item.question.count("____") == 1
            assert item.candidates[0] == item.answer
            assert len(set(item.candidates)) == len(item.candidates) >= 2
            filled = item.question.replace("____", item.answer)
            if fact.relation == "outcome":
                assert fact.value.startswith(item.answer)
            else:
                assert facts_of(filled) == (fact,)
                assert all(facts_of(item.question.replace("____", c)) != (fact,) for c in item.candidates[1:])


def test_a_later_statement_replaces_an_earlier_one_and_other_text_states_nothing():
    assert facts_of("Ada went to the attic. Ada went to the cellar.") == (Fact("Ada", "room", "cellar"),)
    assert facts_of("Ada gave the clock to Ben. The clock was broken by Clara.") == (
        Fact("clock", "outcome", "broken by Clara"),
        Fact("clock", "place", "Ben"),
    )
    assert facts_of("Adam went to the attics. Someone broke the clock. Ada likes the hall.") == ()


def test_stories_are_the_same_everywhere_and_differ_by_every_coordinate():
    made = story()
    digest = hashlib.sha256(made.text.encode()).hexdigest()[:16]
    assert (digest, made.words) == ("79db2028c996c175", 400)
    others = [
        story(index=1),
        write_story(StorySpec(), split="training", seed=10_000, index=0, words=400),
        write_story(StorySpec(), split="evaluation", seed=10_001, index=0, words=400),
        story(spec=StorySpec(people=5)),
    ]
    assert len({other.text for other in [made, *others]}) == 5
    assert story(2000).sentences[: len(made.sentences)] == made.sentences


@pytest.mark.parametrize("wrong", [{"people": 1}, {"objects": 99}, {"rooms": 0}, {"event_share": 0.0}])
def test_impossible_casts_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        StorySpec(**wrong)


def test_a_story_too_short_for_its_cast_is_refused():
    with pytest.raises(InputError, match="more than 20; ask for longer stories"):
        story(20)
