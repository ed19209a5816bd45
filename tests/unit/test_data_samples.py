from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.data import IGNORED, Document, TextSamples, TokenSplit
from palimpsest.data.writer import SplitWriter
from palimpsest.errors import InputError

END = 0
GOLDEN_ORDER = [146, 839, 641, 542, 386, 287, 9]


def write_split(directory: Path, lengths: list[int], shard_tokens: int = 100) -> TokenSplit:
    """Write documents of distinct tokens 1, 2, 3, ... (each closed by 0), over several small shards."""
    with SplitWriter(directory, "train", np.dtype("<u4"), END, shard_tokens) as writer:
        first = 1
        for number, length in enumerate(lengths):
            writer.add(Document(f"document {number}", "x" * length), range(first, first + length))
            first += length
        entry = writer.finish()
    return TokenSplit(directory, "train", entry, "<u4")


def stream_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The token stream that ``write_split`` writes, and the number of the document of every token."""
    numbers = iter(range(1, sum(lengths) + 1))
    stream = [[next(numbers) for _ in range(length)] + [END] for length in lengths]
    owners = [np.full(length + 1, number) for number, length in enumerate(lengths)]
    return np.concatenate(stream), np.concatenate(owners)


@pytest.fixture(scope="module")
def new_directory(tmp_path_factory):
    return lambda: tmp_path_factory.mktemp("split")


@given(data=st.data(), lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), shard=st.integers(4, 40))
def test_any_slice_over_any_shards_is_the_slice_of_the_stream(new_directory, data, lengths, shard):
    split = write_split(new_directory(), lengths, shard)
    stream, owners = stream_of(lengths)
    assert len(split) == len(stream)
    start = data.draw(st.integers(0, len(stream) - 1))
    stop = data.draw(st.integers(start + 1, len(stream)))
    tokens = split.read(start, stop)
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, stream[start:stop])
    begins = np.flatnonzero(np.diff(owners, prepend=-1))
    np.testing.assert_array_equal(split.document_starts(start, stop), begins[(begins >= start) & (begins < stop)])
    least = data.draw(st.integers(0, 10))
    expected = [(f"document {n}", stream[owners == n].tolist()) for n, k in enumerate(lengths) if k + 1 >= least]
    assert [(name, tokens.tolist()) for name, tokens in split.documents(least)] == expected


@given(
    lengths=st.lists(st.integers(1, 9), max_size=12),
    length=st.integers(2, 12),
    seed=st.integers(0, 2**40),
    epoch=st.sampled_from([0, 1, 5, 10**9]),
)
def test_an_epoch_cuts_the_ring_of_documents_into_windows_that_do_not_overlap(
    new_directory, lengths, length, seed, epoch
):
    lengths = [20, *lengths]
    stream, owners = stream_of(lengths)
    samples = TextSamples(write_split(new_directory(), lengths), length, seed)
    assert len(samples) == len(stream) // length
    begins = np.flatnonzero(np.diff(owners, prepend=-1))
    # Two tokens in a row tell their place: all but END occur once, and no two END follow each other.
    windows = {tuple(np.roll(stream, -p)[:length].tolist()): p for p in range(len(stream))}
    seen = np.zeros(len(stream), dtype=int)
    for index in range(epoch * len(samples), (epoch + 1) * len(samples)):
        sample = samples.sample(index)
        assert all(field.dtype == np.int64 and field.shape == (length,) for field in sample)
        ring = (windows[tuple(sample.input_ids.tolist())] + np.arange(length)) % len(stream)
        seen[ring] += 1
        first = np.isin(ring, begins)
        first[0] = True
        np.testing.assert_array_equal(sample.labels, np.where(first, IGNORED, sample.input_ids))
        first[0] = False
        np.testing.assert_array_equal(sample.document_ids, np.cumsum(first))
    assert seen.max() == 1
    assert seen.sum() == len(samples) * length


def test_the_drawing_in_the_documentation(tmp_path):
    samples = TextSamples(write_split(tmp_path, [3, 2, 3]), 5, seed=0)  # 1 2 3 . 4 5 . 6 7 8 .
    row = next(s for s in map(samples.sample, range(200)) if s.input_ids.tolist() == [2, 3, END, 4, 5])
    assert row.labels.tolist() == [IGNORED, 3, END, IGNORED, 5]
    assert row.document_ids.tolist() == [0, 0, 0, 1, 1]


def test_the_ring_closes_at_a_document_boundary(tmp_path):
    samples = TextSamples(write_split(tmp_path, [3, 2, 3]), 4, seed=0)
    row = next(s for s in map(samples.sample, range(200)) if s.input_ids.tolist() == [8, END, 1, 2])
    assert row.labels.tolist() == [IGNORED, END, IGNORED, 2]
    assert row.document_ids.tolist() == [0, 0, 1, 1]


def test_a_sample_depends_on_nothing_but_seed_and_number(tmp_path):
    split = write_split(tmp_path, [13] * 30)
    ordered = [TextSamples(split, 16, 3).sample(i) for i in range(200)]
    jumping = TextSamples(split, 16, 3)
    for index in np.random.default_rng(0).permutation(200):
        for ours, theirs in zip(jumping.sample(int(index)), ordered[index], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for ranks in (2, 3, 8):
        readers = [TextSamples(split, 16, 3) for _ in range(ranks)]
        dealt = [readers[i % ranks].sample(i).input_ids for i in range(200)]
        np.testing.assert_array_equal(dealt, [sample.input_ids for sample in ordered])


def test_epochs_and_seeds_differ_in_order_and_in_where_they_cut(tmp_path):
    split = write_split(tmp_path, [997])
    firsts = {}
    for seed in (0, 1):
        samples = TextSamples(split, 16, seed)
        for epoch in range(3):
            rows = range(epoch * len(samples), (epoch + 1) * len(samples))
            firsts[seed, epoch] = [int(samples.sample(i).input_ids[0]) for i in rows]
    assert len({tuple(order) for order in firsts.values()}) == 6
    assert len({order[0] % 16 for order in firsts.values()}) > 2
    assert all(order != sorted(order) for order in firsts.values())


def test_every_window_is_equally_likely_to_come_first(tmp_path):
    samples = TextSamples(write_split(tmp_path, [5] * 10), 12, seed=0)  # 60 tokens, 5 windows
    epochs = 3000
    counts = np.zeros(60)
    for epoch in range(epochs):
        row = samples.sample(epoch * len(samples)).input_ids
        place = np.flatnonzero(row != END)[0]
        token = int(row[place])
        counts[(token - 1 + (token - 1) // 5 - place) % 60] += 1
    expected = epochs / 60
    assert ((counts - expected) ** 2 / expected).sum() < 98.3  # chi-squared, 59 degrees of freedom, p = 0.001


def test_the_order_of_samples_never_changes(tmp_path):
    samples = TextSamples(write_split(tmp_path, [99] * 10), 100, seed=7)
    assert [int(samples.sample(i).input_ids[50]) for i in (0, 1, 2, 3, 10, 11, 10**12)] == GOLDEN_ORDER


def test_what_cannot_be_sampled_is_refused(tmp_path):
    split = write_split(tmp_path, [9])
    assert len(TextSamples(split, 10, seed=0)) == 1
    with pytest.raises(InputError, match="has 10 tokens, fewer than one sample of 11"):
        TextSamples(split, 11, seed=0)
    with pytest.raises(InputError, match="nothing to predict"):
        TextSamples(split, 1, seed=0)
    with pytest.raises(IndexError):
        TextSamples(split, 4, seed=0).sample(-1)
