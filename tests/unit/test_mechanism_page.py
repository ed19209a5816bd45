"""The page of the mechanism tests, the read-outs behind it, and the command that writes it."""

import math
from pathlib import Path
from typing import Any

import pytest
from page_case import Page, assert_harmless

from cli_case import refused, run
from palimpsest.errors import InputError
from palimpsest.probes.mechanism import TESTS, run_mechanism
from palimpsest.probes.mechanism.subjects import KINDS, subjects
from palimpsest.records import MechanismRecord, read_jsonl, write_jsonl
from palimpsest.report.document import POLICY
from palimpsest.report.mechanism import RECORDS, mechanism_page, write_mechanism_report
from palimpsest.report.mechanism_readouts import bfloat16_harm, half_load, overwrite_margin


def record(**given: Any) -> MechanismRecord:
    plain = {
        "test": "capacity", "kind": "linear", "memory": "linear", "features": "elu1", "keys": "N(0,1)", "size": 64,
        "segment_length": 32, "load": 16, "codes": 1024, "decoding": "raw", "measure": "accuracy", "mean": 0.5,
        "low": 0.4, "high": 0.6, "n": 100, "draws": (0.5, 0.5), "method": "Wilson",
    }  # fmt: skip
    return MechanismRecord(**{**plain, **given})


def curve(shares: dict[int, tuple[float, ...]], theory: dict[int, float] | None = None) -> list[MechanismRecord]:
    theory = theory or {}
    return [
        record(load=load, draws=draws, mean=sum(draws) / len(draws), theory=theory.get(load))
        for load, draws in shares.items()
    ]


@pytest.fixture(scope="module")
def records() -> list[MechanismRecord]:
    quick = [test for test in TESTS if test != "interference"]
    return [
        *run_mechanism(quick, sizes=[8], quick=True),
        *run_mechanism(["interference"], ["linear"], sizes=[8], quick=True),
    ]


@pytest.fixture(scope="module")
def page(records: list[MechanismRecord]) -> Page:
    return Page(mechanism_page(records, "mechanism.jsonl"))


def test_the_page_runs_and_loads_nothing(page: Page) -> None:
    assert_harmless(page)
    assert POLICY in page.values("meta", "content")
    assert all(attributes["href"].startswith("#") for _, attributes in page.tags if "href" in attributes)


def test_the_page_shows_every_memory_and_every_test(page: Page, records: list[MechanismRecord]) -> None:
    for subject in subjects():
        assert f"{subject.name}, {subject.features}" in page.text
    assert {r.kind for r in records} - {""} == set(KINDS)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    anchors = set(ids)
    assert {"capacity", "features", "interference", "overwriting", "age", "compressions", "filler"} <= anchors
    assert {"precision", "bytes"} <= anchors
    assert len(ids) == len(anchors)


def test_a_page_of_one_test_has_one_section() -> None:
    found = run_mechanism(["bytes"], ["linear"], sizes=[4, 8], quick=True)
    shown = Page(mechanism_page(found, "mechanism.jsonl"))
    assert "What it costs" in shown.text
    assert "How many pairs" not in shown.text
    assert "6 of 6 counts equal their formula" in shown.text


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    records = run_mechanism(["age", "bytes"], ["linear", "token_delta"], sizes=[4], quick=True)
    write_jsonl(tmp_path / RECORDS, records)
    first = write_mechanism_report(tmp_path / RECORDS, tmp_path).read_bytes()
    assert write_mechanism_report(tmp_path / RECORDS, tmp_path).read_bytes() == first
    assert list(read_jsonl(tmp_path / RECORDS, MechanismRecord)) == records


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(InputError, match="has no records"):
        write_mechanism_report(tmp_path / "none.jsonl", tmp_path)


def test_half_load_is_read_between_loads_on_a_logarithmic_axis() -> None:
    found = half_load(curve({16: (0.9, 0.9), 64: (0.3, 0.3)}, {16: 1.0, 64: 0.5, 256: 0.0}), "linear")
    assert found.measured.mean == pytest.approx(16 * 4 ** (0.4 / 0.6))
    assert (found.measured.low, found.measured.high) == pytest.approx((found.measured.mean,) * 2)
    assert found.theory == math.inf  # at 64 it is a half, not below
    assert found.ratio is None


def test_half_load_of_a_curve_that_begins_below_a_half_or_never_falls() -> None:
    assert half_load(curve({16: (0.2, 0.2)}), "linear").measured.mean == pytest.approx(16 ** (0.5 / 0.8))
    high = half_load(curve({16: (0.9, 1.0), 64: (0.6, 0.7)}), "linear").measured
    assert (high.mean, high.high) == (math.inf, math.inf)


def test_half_load_is_where_a_curve_falls_for_good() -> None:
    """Two pairs are read badly once their mean is taken away: that is not the end of a memory."""
    found = half_load(curve({2: (0.2, 0.2), 16: (0.9, 0.9), 64: (0.3, 0.3)}), "linear")
    assert found.measured.mean == pytest.approx(16 * 4 ** (0.4 / 0.6))


def test_half_load_is_as_uncertain_as_its_draws() -> None:
    shares = {16: (0.95, 0.9, 0.99, 0.97), 64: (0.7, 0.3, 0.5, 0.6), 256: (0.1, 0.0, 0.2, 0.1)}
    found = half_load(curve(shares, {16: 1.0, 64: 0.6, 256: 0.1}), "linear")
    assert 16 < found.measured.low < found.measured.mean < found.measured.high < 256
    assert found.ratio is not None
    assert found.theory is not None
    assert found.ratio.high == pytest.approx(found.measured.high / found.theory)


def test_a_curve_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"No mechanism record of ridge has test capacity.* size 64"):
        half_load(curve({16: (0.9, 0.9)}), "ridge")


def overwritten(new: tuple[float, ...], old: tuple[float, ...]) -> list[MechanismRecord]:
    where = {"test": "overwriting", "segment_length": 1, "decoding": "centred"}
    return [record(**where, measure="P(new)", draws=new), record(**where, measure="P(old)", draws=old)]


def test_the_margin_of_a_rewrite_is_paired_by_draw() -> None:
    # the shares vary by a tenth, the difference by a hundredth
    found = overwrite_margin(overwritten((0.9, 0.8, 0.95), (0.1, 0.0, 0.16)), "linear")
    assert found.mean == pytest.approx(0.8, abs=0.01)
    assert 0.75 < found.low < found.high < 0.85
    assert overwrite_margin(overwritten((0.9, 0.5, 0.7), (0.0, 0.4, 0.1)), "linear").low < 0.5


def test_draws_that_all_agree_still_have_an_interval() -> None:
    found = overwrite_margin(overwritten((1.0, 1.0), (0.0, 0.0)), "linear")
    assert found.mean == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 100))
    assert found.high == 1.0


def test_the_harm_of_bfloat16_is_paired_by_draw() -> None:
    where = {"test": "precision", "updates": 1000}
    cells = [record(**where, draws=(0.9, 0.8, 1.0)), record(**where, draws=(0.7, 0.7, 0.7), state="bfloat16")]
    found = bfloat16_harm(cells, "linear")
    assert found.mean == pytest.approx(0.2)
    assert found.level == 0.9


def test_the_command_writes_records_and_a_page(tmp_path: Path) -> None:
    words = ("--kinds", "linear,token_delta", "--sizes", "8", "--tests", "capacity,overwriting,precision", "--quick")
    shown = run("probe", "memory", *words, "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "n50" in shown.stdout
    assert "token_delta" in shown.stdout
    records = list(read_jsonl(tmp_path / RECORDS, MechanismRecord))
    assert {r.kind for r in records} == {"linear", "token_delta"}
    assert (tmp_path / "index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--kinds", "lineer"), "Unknown kind of memory 'lineer'. Did you mean 'linear'?"),
        (("--tests", "agge"), "Unknown mechanism test 'agge'. Did you mean 'age'?"),
        (("--features", "dpfp4"), "Unknown feature map 'dpfp4'."),
        (("--sizes", "1"), "The size 1 is too small: keys and values need at least 2 numbers, such as 64."),
        (("--sizes", "a"), "--sizes 'a': expected whole numbers separated by commas, such as 160,288."),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, str], sentence: str) -> None:
    assert refused("probe", "memory", *words).startswith(sentence)
