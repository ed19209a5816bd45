"""Records on disk: closed, exact through the round trip, compressed or not."""

import math

import pytest

from palimpsest.errors import InputError
from palimpsest.records import LINES, EstimateRecord, StepRecord, read_json, read_jsonl, write_json, write_jsonl

ESTIMATES = [
    EstimateRecord(mean=0.5, low=-math.inf, high=math.inf, n=1, method="t over 1 seed"),
    EstimateRecord(mean=0.1 + 0.2, low=1e-300, high=1.0, n=3, method="größer"),
]


@pytest.mark.parametrize("ending", LINES)
def test_records_come_back_as_they_were(tmp_path, ending):
    name = f"e{ending}"
    write_jsonl(tmp_path / name, ESTIMATES)
    assert list(read_jsonl(tmp_path / name, EstimateRecord)) == ESTIMATES
    first = (tmp_path / name).read_bytes()
    write_jsonl(tmp_path / name, ESTIMATES)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:30] + b"?" * 40])
@pytest.mark.parametrize("ending", LINES[1:])
def test_a_damaged_archive_is_named(tmp_path, ending, damage):
    path = tmp_path / f"e{ending}"
    write_jsonl(path, ESTIMATES * 50)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"e{ending} is damaged|e{ending}, line"):
        list(read_jsonl(path, EstimateRecord))


def test_a_line_of_another_kind_is_named(tmp_path):
    write_jsonl(tmp_path / "e.jsonl", ESTIMATES)
    with pytest.raises(InputError, match=r"e\.jsonl, line 1: not a StepRecord"):
        list(read_jsonl(tmp_path / "e.jsonl", StepRecord))


def test_json_files_are_valid_json_even_for_infinity(tmp_path):
    write_json(tmp_path / "e.json", ESTIMATES[0])
    assert read_json(tmp_path / "e.json")["low"] == "-Infinity"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "bad.json", {"x": math.inf})
    assert not (tmp_path / "bad.json").exists()


def test_a_missing_or_broken_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "broken.json")
