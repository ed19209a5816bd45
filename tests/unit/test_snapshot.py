"""A snapshot continues bit for bit where it was taken, in its own model alone, and what is no snapshot is refused."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from laws.model_cases import ATTENTION, SEGMENT, TABLE, Case, build, in_passes, model_of, run, streams, tokens
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models import snapshot as snapshots
from palimpsest.models.snapshot import AXES, FORMAT, HEADER, SHA256, Snapshot, Source

EACH = pytest.mark.parametrize("name", TABLE)
MODEL = "memory_and_local"
SOURCES = (Source(bytes=11, sha256="ab" * 32),)


def through_a_file(model: PalimpsestForCausalLM, cache: PalimpsestCache) -> PalimpsestCache:
    """Return the cache after it was saved and restored."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        model.snapshot(cache).save(path)
        return model.restore(path)


def follow(model: PalimpsestForCausalLM, cache: PalimpsestCache, x: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
    """Return the logits of the last columns of a stream, in passes of these lengths."""
    outs, begin = [], x.shape[1] - sum(lengths)
    with torch.no_grad():
        for length in lengths:
            end = begin + length
            out = model(x[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            outs.append(out.logits)
            begin = end
    return torch.cat(outs, 1)


def assert_continues(model: PalimpsestForCausalLM, case: Case, after: list[int]) -> None:
    """Read what the case holds, then go on for ``after`` columns with and without a file between."""
    more = Case(case.seed, tuple(row + run(0, sum(after)) for row in case.rows), ())
    x, mask = more.tokens(), more.real().long()
    _, cache = in_passes(model, x[:, : sum(case.cuts)], case.cuts, mask[:, : sum(case.cuts)])
    restored = through_a_file(model, cache)
    assert restored.columns == cache.columns == sum(case.cuts)
    assert torch.equal(restored.seen, cache.seen)
    assert restored.bytes() == cache.bytes()
    got, expected = (follow(model, each, x, mask, after) for each in (restored, cache))
    assert torch.equal(got, expected)


@EACH
@settings(max_examples=5)
@given(case=streams(), after=st.sampled_from([[1, 1, 1], [2 * SEGMENT + 1], [1, SEGMENT, 1]]))
def test_what_follows_a_restored_snapshot_is_what_would_have_followed(name, case, after):
    assert_continues(model_of(name), case, after)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_it_is_in_every_precision(name, dtype):
    model = build(ATTENTION[name]).to(dtype)
    rows = (run(0, 7), run(-1, 3) + run(0, 4), run(0, 2) + run(-1, 5))
    assert_continues(model, Case(1, rows, (5, 2)), [1, 6, 1])


@pytest.mark.parametrize("name", ["ridge", "full"])
def test_a_snapshot_does_not_move_on_with_its_cache(name):
    model, x = model_of(name), tokens(2, 23)
    with torch.no_grad():
        out = model(x[:, :9], use_cache=True)
    taken = model.snapshot(out.past_key_values, logits=out.logits[:, -1])
    expected = follow(model, out.past_key_values, x, torch.ones_like(x), [14])
    for _ in range(2):  # nor with a cache that was restored from it
        assert torch.equal(follow(model, model.restore(taken), x, torch.ones_like(x), [14]), expected)
    assert torch.equal(taken.logits, out.logits[:, -1])


@pytest.fixture
def saved(tmp_path) -> Path:
    model, x = model_of(MODEL), tokens(2, 9)
    with torch.inference_mode():
        out = model(x, use_cache=True)
    path = tmp_path / "folder" / "state.safetensors"
    model.snapshot(out.past_key_values, logits=out.logits[:, -1], sources=SOURCES).save(path)
    return path


def test_a_snapshot_tells_what_was_read(saved):
    read = Snapshot.load(saved)
    assert read.header.tokens == (9, 9)
    assert read.header.columns == 9
    assert read.header.sources == SOURCES
    assert read.header.format == FORMAT
    assert read.header.configuration["attention"]["pattern"] == ATTENTION[MODEL]["pattern"]
    assert read.logits is not None
    assert read.logits.shape == (2, model_of(MODEL).config.vocab_size)
    assert {file.name for file in saved.parent.iterdir()} == {saved.name}


def test_nothing_cannot_be_saved():
    model = model_of(MODEL)
    with pytest.raises(InputError, match="has read no token"):
        model.snapshot(PalimpsestCache(model.config))


# Another model


def nudged() -> PalimpsestForCausalLM:
    """Return a model that differs in the last bit of one weight."""
    model = build(ATTENTION[MODEL])
    weight = model.model.layers[1].mlp.up_proj.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0, dtype=weight.dtype))
    return model


OTHERS = {
    "attention.memory.kind is 'associative', that of this model 'linear'": lambda: build(
        ATTENTION[MODEL] | {"memory": ATTENTION[MODEL]["memory"] | {"kind": "linear"}}
    ),
    "attention.segment_length is 4, that of this model 8": lambda: build(ATTENTION[MODEL] | {"segment_length": 8}),
    "intermediate_size is 32, that of this model 40": lambda: build(ATTENTION[MODEL], intermediate_size=40),
    "rms_norm_eps is 1e-06, that of this model 0.001": lambda: build(ATTENTION[MODEL], rms_norm_eps=1e-3),
    "another precision: float64, and this one is float32": lambda: build(ATTENTION[MODEL]).float(),
    "its configuration is the same, its weights are not": nudged,
}


@pytest.mark.parametrize("words", OTHERS)
def test_a_snapshot_of_another_model_is_refused_with_what_differs(saved, words):
    with pytest.raises(InputError) as refusal:
        OTHERS[words]().restore(saved)
    assert str(refusal.value).startswith(f"{saved} is of ")
    assert words in str(refusal.value)


def test_the_same_model_elsewhere_is_the_same_model(saved):
    again = build(ATTENTION[MODEL], use_cache=False, eos_token_id=3)  # neither changes what it computes
    assert again.restore(saved).columns == 9
    assert again.restore(str(saved)).columns == 9


# Damage


def refusal_of(path: Path) -> str:
    with pytest.raises(InputError) as refusal:
        Snapshot.load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_no_changed_bit_goes_unnoticed(place, bit, data):
    content = bytearray(bytes_of_a_snapshot())
    # as many in the head as in the tensors
    head = 8 + int.from_bytes(content[:8], "little")
    begin, end = (0, head) if data.draw(st.booleans()) else (head, len(content))
    content[begin + int(place * (end - begin))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_bytes(content)
        refusal_of(path)


@functools.cache
def bytes_of_a_snapshot() -> bytes:
    model = model_of(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        model.snapshot(in_passes(model, tokens(1, 6), (6,))[1]).save(Path(folder) / "state")
        return (Path(folder) / "state").read_bytes()


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    assert "is no snapshot, or not all of one" in refusal_of(saved)


def test_files_of_other_kinds(saved, tmp_path):
    assert "There is no snapshot" in refusal_of(tmp_path / "nowhere")
    assert "There is no snapshot" in refusal_of(tmp_path)
    (tmp_path / "book.txt").write_text("It was the best of times. " * 99)
    assert "is no snapshot" in refusal_of(tmp_path / "book.txt")
    save_file(load_file(saved), tmp_path / "weights")
    assert "is a safetensors file but no snapshot" in refusal_of(tmp_path / "weights")


def with_header(path: Path, header: dict) -> None:
    text = json.dumps(header)
    tensors = load_file(path)
    axes = json.dumps({name: list(range(x.dim())) for name, x in tensors.items()})
    save_file(tensors, path, {HEADER: text, AXES: axes, SHA256: snapshots._digest(tensors, text + axes)})


def test_a_format_of_the_future_is_named(saved):
    header = Snapshot.load(saved).header.model_dump(mode="json")
    with_header(saved, header | {"format": FORMAT + 1, "news": True})
    assert f"format {FORMAT + 1}, and this version of palimpsest reads format {FORMAT}" in refusal_of(saved)
    with_header(saved, {key: value for key, value in header.items() if key != "columns"})
    assert "its header is not that of a snapshot" in refusal_of(saved)


def test_an_interrupted_save_leaves_what_was_there(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupted(tensors, path, metadata):
        path.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshots, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Snapshot.load(saved).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_place_that_cannot_be_written_is_named(saved, monkeypatch):
    monkeypatch.setattr(Path, "with_name", lambda path, name: path.parent / "no such folder" / name)
    with pytest.raises(InputError, match=f"The snapshot {saved} cannot be written: "):
        Snapshot.load(saved).save(saved)
