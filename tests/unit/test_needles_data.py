"""Sets of needle prompts in the hub's schema: what is read, what is refused, and their tokens on disk."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from needle_case import needle_tokenizer
from palimpsest.data import needles, tables
from palimpsest.data.needle_tokens import TOKENS, encode_needles, prepare_needles
from palimpsest.data.needles import NeedleRow, NeedleText, StoredNeedles, finished_text, stored_rows
from palimpsest.errors import InputError
from palimpsest.records import write_jsonl
from palimpsest.schema import parse

TOKENIZER = needle_tokenizer()


def text(key: object, *, asked: str = "{key}.") -> str:
    told = f"The sky is blue. The pass key is {key}. Remember it. {key} is the pass key. Here we go. "
    return told + "What is the pass key? The pass key is " + asked.format(key=key)


def hub_row(key: object = 455, **changes: object) -> dict:
    """Return a row with the columns that the public fine-tuning sets have."""
    row = {"id": "cc0e78ca", "prompt": text(key), "answer": key, "context_length": 512, "depth_percent": 5}
    return {**row, **changes}


def stored(path: Path, rows: list[dict]) -> StoredNeedles:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return StoredNeedles(source=str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_local_set_of_the_public_schema_is_read_in_its_order(tmp_path, suffix):
    rows = [hub_row(key, id=str(key), num_tokens=60 + key % 7) for key in (9, 10_000, 455)]
    found = list(stored_rows(stored(tmp_path / f"set{suffix}", rows)))
    assert [row.answer for row in found] == [9, 10_000, 455]
    assert [row.prompt for row in found] == [row["prompt"] for row in rows]
    assert found[0].model_dump() == rows[0]


def test_the_files_of_a_folder_are_read_by_name_and_other_columns_left_alone(tmp_path):
    for number, key in enumerate((31, 32, 33)):
        stored(tmp_path / f"train-0000{2 - number}-of-00003.parquet", [hub_row(key, num_shots=0, passkey=key)])
    (tmp_path / "README.md").write_text("not a set")
    spec = StoredNeedles(source=str(tmp_path))
    assert [row.answer for row in stored_rows(spec)] == [33, 32, 31]
    assert [row.answer for row in stored_rows(spec.model_copy(update={"limit": 2}))] == [33, 32]


def test_what_was_written_is_read(tmp_path):
    rows = [parse(NeedleRow, hub_row(key), "row") for key in (1, 22, 333)]
    write_jsonl(tmp_path / "set.jsonl", rows)
    assert list(stored_rows(StoredNeedles(source=str(tmp_path / "set.jsonl")))) == rows


def test_an_identifier_may_be_a_number(tmp_path):
    assert [row.id for row in stored_rows(stored(tmp_path / "set.jsonl", [hub_row(7, id=3), hub_row(8, id="x")]))] == [
        3,
        "x",
    ]


def test_a_hub_set_is_streamed_at_the_commit_that_was_found(monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "resolve_revision", lambda *arguments: asked.append(arguments) or "c0ffee")

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return [hub_row(7), hub_row(8)]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    spec = StoredNeedles(source="nanotron/needle_in_a_hay_stack_finetune_dataset")
    assert [row.answer for row in stored_rows(spec)] == [7, 8]
    assert asked[0][:3] == (spec.source, "dataset", None)
    assert asked[1] == ((spec.source, None), {"split": "train", "revision": "c0ffee", "streaming": True})


def test_a_hub_that_breaks_off_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tables, "resolve_revision", lambda *arguments: None)

    def load_dataset(*arguments, **options):
        yield hub_row(7)
        raise OSError("the line went dead\nand so on")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"broke off after 1 rows \(the line went dead\)") as error:
        list(stored_rows(StoredNeedles(source="nanotron/needles")))
    assert "\n" not in str(error.value)


def without(column: str) -> dict:
    return {key: value for key, value in hub_row().items() if key != column}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", needles.COLUMNS)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, column, suffix):
    spec = stored(tmp_path / f"set{suffix}", [without(column)])
    with pytest.raises(InputError) as error:
        list(stored_rows(spec))
    assert f"has no column '{column}' (its columns: " in str(error.value)
    assert all(f"'{other}'" in str(error.value) for other in without(column))
    assert "1 is no row of a needle set" in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (hub_row(answer="four"), "'answer'"),
        (hub_row(answer=4.5), "'answer'"),
        (hub_row(answer=True), "'answer'"),
        (hub_row(prompt=""), "'prompt'"),
        (hub_row(prompt=["a"]), "'prompt'"),
        (hub_row(context_length="long"), "'context_length'"),
        (hub_row(depth_percent=None), "missing key 'depth_percent'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_line(tmp_path, row, said):
    spec = stored(tmp_path / "set.jsonl", [hub_row(), row])
    with pytest.raises(InputError) as error:
        list(stored_rows(spec))
    assert str(error.value).startswith(f"{tmp_path / 'set.jsonl'}, line 2: ")
    assert said in str(error.value)


def test_sources_that_hold_no_set_are_refused(tmp_path):
    def refused(source: object, **knobs: object) -> str:
        with pytest.raises(InputError) as error:
            list(stored_rows(StoredNeedles(source=str(source), **knobs)))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not exist" in refused("nowhere")
    assert "holds no file that can be read" in refused(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert "has no rows" in refused(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"prompt": ')
    assert "broken.jsonl, line 1 is not JSON" in refused(tmp_path / "broken.jsonl")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    assert "list.jsonl, line 1 is not a JSON object" in refused(tmp_path / "list.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'"\xe9"\n')
    assert "not UTF-8 text: there is a byte 0xe9" in refused(tmp_path / "latin.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot be read as Parquet" in refused(tmp_path / "broken.parquet")
    assert "The option config is for hub datasets only" in refused(tmp_path / "list.jsonl", config="x")


def finished(prompt: str, key: object = 455, ends: str = "answer") -> NeedleText:
    return finished_text(parse(NeedleRow, hub_row(key, prompt=prompt), "row"), ends, "set, row 3")


@pytest.mark.parametrize("closing", ["{key}.", "{key}", "{key}. \n"])
def test_key_and_answer_are_found_in_a_prompt_that_ends_with_its_answer(closing):
    found = finished(text(455, asked=closing))
    assert found.text[found.asked :] in ("455.", "455")
    assert found.text[: found.told + 1].endswith("The sky is blue. The pass key is 455")


@pytest.mark.parametrize("closing", ["", " "])
def test_the_answer_is_added_to_a_prompt_that_ends_with_the_question(closing):
    found = finished("1455 of 4550. The pass key is 455. The pass key is" + closing, ends="question")
    assert found.text == "1455 of 4550. The pass key is 455. The pass key is 455."
    assert (found.told, found.asked) == (32, 51)
    assert found == finished(found.text)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (text(455, asked=""), "does not end with its answer 455; in a set to test on give ends: question"),
        (text(1455), "does not end with its answer 455"),
        ("What is the pass key? The pass key is 455.", "does not tell it"),
        ("The pass key is 1455 or 4550. The pass key is 455.", "does not tell it"),
    ],
)
def test_a_prompt_without_its_key_is_refused(prompt, said):
    with pytest.raises(InputError) as error:
        finished(prompt)
    assert str(error.value).startswith("set, row 3: ")
    assert said in str(error.value)


def texts() -> list[NeedleText]:
    return [finished(text(key), key) for key in (7, 455, 10_000, 82, 455, 61)]


@pytest.mark.parametrize("end_of_text", [False, True])
def test_tokens_know_where_the_key_is_told_and_asked_for(end_of_text):
    for each, (ids, told, asked) in zip(
        texts(), encode_needles(texts(), TOKENIZER, end_of_text=end_of_text), strict=True
    ):
        key = each.text[each.asked : -1]
        closing = [TOKENIZER.eos_token_id] if end_of_text else []
        assert ids.tolist() == TOKENIZER.encode(each.text, add_special_tokens=False) + closing
        assert TOKENIZER.decode(ids[: told + 1]).endswith(f"The pass key is {key}")
        assert TOKENIZER.decode(ids[: told + 1]).count(key) == 1
        assert TOKENIZER.decode(ids[asked : ids.size - end_of_text]) == f"{key}."


def test_a_text_cannot_forge_a_special_token():
    forged = finished("<|endoftext|>" + text(455))
    ((ids, _, asked),) = encode_needles([forged], TOKENIZER, end_of_text=False)
    assert TOKENIZER.eos_token_id not in ids
    assert TOKENIZER.decode(ids[asked:]) == "455."


def prepared(directory: Path, identity: str = "one", *, made=texts):
    return prepare_needles(directory, identity, made, TOKENIZER, end_of_text=False)


def never():
    raise AssertionError("the set was made again")


def test_a_set_is_tokenised_once(tmp_path):
    one, again = prepared(tmp_path / "set"), prepared(tmp_path / "set", made=never)
    assert one.fingerprint == again.fingerprint
    assert np.array_equal(one.tokens, again.tokens)
    assert np.array_equal(one.places, again.places)
    assert (one.starts[1:] == one.ends[:-1]).all()
    assert (one.starts < one.told).all()
    assert (one.told < one.asked).all()
    assert one.ends[-1] == one.tokens.size
    assert one.longest == max(one.ends - one.starts)


def test_another_set_or_an_unfinished_one_is_made_again(tmp_path):
    fingerprint = prepared(tmp_path / "set").fingerprint
    with pytest.raises(AssertionError, match="made again"):
        prepared(tmp_path / "set", "other", made=never)
    assert prepared(tmp_path / "set").fingerprint == fingerprint
    with open(tmp_path / "set" / TOKENS, "rb+") as tokens:
        tokens.truncate(8)
    assert prepared(tmp_path / "set").fingerprint == fingerprint
    assert prepared(tmp_path / "fewer", made=lambda: texts()[:2]).fingerprint != fingerprint


def test_a_set_that_breaks_off_leaves_nothing_that_counts(tmp_path):
    def broken():
        yield from texts()
        raise InputError("row 7 is bad")

    with pytest.raises(InputError, match="row 7"):
        prepared(tmp_path / "set", made=broken)
    assert len(prepared(tmp_path / "set")) == 6


def test_a_tokenizer_without_places_is_refused():
    class Slow:
        name_or_path = "slow"

    with pytest.raises(InputError, match="'slow' does not know which characters its tokens stand for"):
        list(encode_needles(texts(), Slow(), end_of_text=False))
