import gzip
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_case import Page, assert_harmless
from synthetic_scorecard import ARMS, make_card, make_items, make_words, write_card

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, ShownItemRecord, read_jsonl, write_jsonl
from palimpsest.report.scorecard import write_scorecard
from palimpsest.report.scorecard_items import chosen, excerpt, load_asked, shown_item

WORDS = [f"w{i}" for i in range(100)]


def test_a_prompt_is_cut_between_its_needles_and_its_question():
    parts = excerpt(WORDS, [(30, 32), (60, 61)], 97, around=2)
    assert [(part.kind, part.text) for part in parts] == [
        ("gap", "28 tokens"), ("text", "w28 w29"), ("needle", "w30 w31"), ("text", "w32 w33"), ("gap", "24 tokens"),
        ("text", "w58 w59"), ("needle", "w60"), ("text", "w61 w62"), ("gap", "32 tokens"), ("text", "w95 w96"),
        ("question", "w97 w98 w99"),
    ]  # fmt: skip


def test_needles_side_by_side_stay_two_and_near_ones_are_not_cut():
    parts = excerpt(WORDS[:12], [(2, 4), (4, 6)], 10, around=3)
    assert [part.kind for part in parts] == ["text", "needle", "needle", "text", "question"]


def test_tokens_that_bring_their_own_blanks_are_joined_without():
    parts = excerpt(["The", " key", " is", " 7", ".", " Key", "?"], [(1, 4)], 5, separator="")
    assert [part.text for part in parts] == ["The", " key is 7", ".", " Key?"]


@given(
    st.integers(0, 60).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.tuples(st.integers(0, n), st.integers(0, n)).map(lambda e: (min(e), max(e))), max_size=4),
            st.integers(0, n),
        )
    ),
    st.integers(0, 8),
)
def test_nothing_is_lost_but_what_the_gaps_count(drawn: tuple[int, list[tuple[int, int]], int], around: int):
    size, needles, question = drawn
    words = [f"w{i}" for i in range(size)]
    parts = excerpt(words, needles, question, around)
    count, shown = 0, []
    for part in parts:
        if part.kind == "gap":
            count += int(part.text.split()[0])
        else:
            shown += part.text.split()
            count += len(part.text.split())
    assert count == size
    assert shown == sorted(shown, key=words.index)
    kept = {i for a, b in [*needles, (question, size)] for i in range(max(0, a - around), min(size, b + around))}
    assert shown == [words[i] for i in sorted(kept)]


@pytest.mark.parametrize(("needles", "question"), [([(5, 101)], 97), ([(7, 5)], 97), ([(-1, 2)], 97), ([], 101)])
def test_a_needle_outside_the_prompt_is_refused(needles: list[tuple[int, int]], question: int):
    with pytest.raises(InputError, match=r"(of|inside) a prompt of 100 token"):
        excerpt(WORDS, needles, question)


def test_all_kinds_of_all_arms_are_shown_and_no_more_than_asked_for():
    items = make_items(60)
    shown = chosen(items, 50)
    assert len(shown) == 50
    intact = {(item.arm, item.error_class) for item in items if item.intervention == "none"}
    assert {(item.arm, item.error_class) for item in shown} == intact
    assert {item.intervention for item in shown} == {"none"}
    assert len({(item.arm, item.seed, item.item_id) for item in shown}) == 50
    assert list(dict.fromkeys(item.arm for item in shown)) == list(ARMS)


def test_every_kind_is_shown_even_beyond_the_cap():
    items = make_items(60)
    shown = chosen(items, 1)
    groups = {(item.arm, item.error_class) for item in items if item.intervention == "none"}
    assert len(shown) == len(groups) > 10


def test_the_most_compressions_come_first_and_numbers_of_compressions_take_turns():
    items = [item for item in make_items(60, ("full",)) if item.exact]
    counts = [item.compressions for item in chosen(items, 12)]
    assert counts[0] == max(item.compressions for item in items)
    assert counts == sorted(set(counts), reverse=True)


def test_the_choice_does_not_depend_on_the_order_of_items():
    items = make_items(40, ("ridge",))
    mixed = list(items)
    random.Random(0).shuffle(mixed)
    assert chosen(mixed, 20) == chosen(items, 20)


def test_without_answers_nothing_is_chosen():
    assert chosen([]) == []


def test_interventions_stand_beside_the_intact_answer():
    answers = make_items(1, ("ridge",))
    shown = shown_item(answers, make_words(answers[0]))
    assert [output.intervention for output in shown.outputs] == ["none", "swap"]
    assert "".join(part.text for part in shown.parts if part.kind == "needle") == "key k3 is v12"
    assert shown.knobs == {"distractors": 4.0}


def test_answers_of_two_models_are_not_shown_as_one():
    answers = make_items(1, ("ridge", "linear"))
    with pytest.raises(InputError, match="one model to one item"):
        shown_item(answers, make_words(answers[0]))
    with pytest.raises(InputError, match="no answer of the intact model"):
        shown_item(answers[:1], make_words(answers[0]))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(tmp_path_factory.mktemp("card") / "records", make_card(()))


@pytest.fixture(scope="module")
def page(records: Path) -> Page:
    index = write_scorecard(records, records.parent / "report")
    return Page((index.parent / "items" / "passkey.html").read_text(encoding="utf-8"))


def test_the_browser_is_a_closed_page_and_its_links_arrive(page: Page, records: Path):
    assert_harmless(page)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = page.values("a", "href")
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    for target in (target for target in targets if not target.startswith("#")):
        assert (records.parent / "report" / "items" / target).resolve().is_file(), target


def test_every_chosen_item_is_shown_with_all_its_outputs(page: Page, records: Path):
    shown = list(read_jsonl(records / "items" / "passkey.samples.jsonl", ShownItemRecord))
    assert sum(tag == "article" for tag, _ in page.tags) == len(shown) == 60
    assert sum(tag == "mark" for tag, _ in page.tags) == 60 + 1
    assert page.text.count("intact") >= 60
    assert page.text.count("swap") >= 60


def test_all_answers_are_counted_not_only_those_shown(page: Page, records: Path):
    items = list(read_jsonl(records / "items" / "passkey.jsonl.gz", ItemRecord))
    right = sum(item.exact for item in items if item.arm == "ridge" and item.intervention == "none")
    assert f"60 items shown of {len(items):,} answers" in page.text
    assert re.search(rf"ridgeintact{round(100 * right / 40)} % \[[^\]]*\] n 40{right}", page.text)


def test_an_ask_without_samples_says_so(records: Path):
    text = Page((records.parent / "report" / "items" / "where.html").read_text(encoding="utf-8")).text
    assert "0 items shown of 3 answers" in text
    assert "No items were chosen to be shown." in text


def test_damaged_doubled_and_headless_items_are_named(tmp_path: Path):
    answers = make_items(1, ("ridge",))
    shown = shown_item(answers, make_words(answers[0]))
    path = tmp_path / "a.samples.jsonl"
    write_jsonl(path, [shown, shown])
    with pytest.raises(InputError, match="is there twice"):
        load_asked(tmp_path)
    write_jsonl(path, [shown.model_copy(update={"outputs": shown.outputs[1:]})])
    with pytest.raises(InputError, match="must be that of the intact model"):
        load_asked(tmp_path)
    path.unlink()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}" * 999)[:30])
    with pytest.raises(InputError, match="damaged"):
        load_asked(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", answers)
    with pytest.raises(InputError, match="hold the same records"):
        load_asked(tmp_path)
