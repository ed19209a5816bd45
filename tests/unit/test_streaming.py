"""Reading in chunks is reading at once; continuing is what ``generate`` does; text comes in whole characters."""

import gc
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.data import train_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.streaming import continue_from, prefill, prefill_stream, text_pieces
from palimpsest.testing import assert_close

SEGMENT = 8
ATTENTION = {
    "linear": {"pattern": ["memory"], "memory": {"kind": "linear"}},
    "delta": {"pattern": ["memory"], "memory": {"kind": "delta"}},
    "ridge": {"pattern": ["memory"], "memory": {"kind": "ridge"}},
    "segment_local": {"pattern": ["segment_local"]},
    "hybrid": {"pattern": ["memory", "full"], "memory": {"kind": "ridge"}},
}


def small_model(kind: str) -> PalimpsestForCausalLM:
    config = PalimpsestConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
        attention={**ATTENTION[kind], "segment_length": SEGMENT},
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return PalimpsestForCausalLM(config).double().eval()


def tokens_of(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(64, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ATTENTION)
@settings(max_examples=10)
@given(length=st.integers(1, 70), before=st.integers(0, 20), chunk=st.integers(1, 40))
def test_reading_in_chunks_equals_one_pass(kind, length, before, chunk):
    model, tokens = small_model(kind), tokens_of(before + length)
    whole = PalimpsestCache(model.config)
    with torch.inference_mode():
        expected = model(tokens, past_key_values=whole, use_cache=True).logits[:, -1]
    cache = PalimpsestCache(model.config)
    if before:
        prefill(model, tokens[:, :before], cache)
    told = []
    got = prefill(model, tokens[:, before:], cache, chunk_tokens=chunk, listen=told.append)
    assert_close("logits", got, expected)
    assert cache.columns == before + length
    # the caches are one: what follows is the same too
    following = tokens_of(3 * SEGMENT, seed=1)
    assert_close("next logits", prefill(model, following, cache), prefill(model, following, whole))
    assert told[-1] == length
    assert told == sorted(set(told))


def test_chunks_are_whole_segments_after_the_first():
    model, tokens = small_model("ridge"), tokens_of(50)
    cache = PalimpsestCache(model.config)
    prefill(model, tokens[:, :3], cache)
    told = []
    prefill(model, tokens[:, 3:], cache, chunk_tokens=20, listen=told.append)
    assert [read + 3 for read in told] == [16, 32, 48, 50]


@pytest.mark.parametrize("kind", ["linear", "delta", "ridge", "segment_local"])
def test_the_cache_does_not_grow_with_the_context(kind):
    model = small_model(kind)
    sizes = []
    for length in (2 * SEGMENT, 40 * SEGMENT):
        cache = PalimpsestCache(model.config)
        prefill(model, tokens_of(length), cache, chunk_tokens=SEGMENT)
        sizes.append(cache.bytes())
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) > 0


def test_no_pass_is_longer_than_a_chunk(monkeypatch):
    model, seen = small_model("ridge"), []
    forward = model.model.forward

    def spy(*args, **kwargs):
        seen.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", spy)
    prefill(model, tokens_of(1000), PalimpsestCache(model.config), chunk_tokens=4 * SEGMENT)
    assert max(seen) == 4 * SEGMENT
    assert sum(seen) == 1000


def test_an_empty_prompt_is_refused():
    model = small_model("ridge")
    with pytest.raises(InputError, match="prompt is empty"):
        prefill(model, tokens_of(0), PalimpsestCache(model.config))


@pytest.mark.parametrize("kind", ATTENTION)
@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(0, 30), max_size=6).filter(any), before=st.integers(0, 20), chunk=st.integers(1, 40)
)
def test_reading_in_pieces_equals_reading_at_once(kind, lengths, before, chunk):
    model, tokens = small_model(kind), tokens_of(before + sum(lengths))
    caches = [PalimpsestCache(model.config) for _ in range(2)]
    for cache in caches if before else ():
        prefill(model, tokens[:, :before], cache)
    pieces = [piece.tolist() for piece in tokens[0, before:].split(lengths)]
    told, expected_told = [], []
    got = prefill_stream(model, iter(pieces), caches[0], chunk_tokens=chunk, listen=told.append)
    expected = prefill(model, tokens[:, before:], caches[1], chunk_tokens=chunk, listen=expected_told.append)
    assert torch.equal(got, expected)  # the same passes, so the same bits
    assert told == expected_told
    assert caches[0].columns == caches[1].columns == before + sum(lengths)
    following = tokens_of(3 * SEGMENT, seed=1)
    assert torch.equal(prefill(model, following, caches[0]), prefill(model, following, caches[1]))


@pytest.mark.parametrize("pieces", [[], [[], []]])
def test_a_stream_without_a_token_is_refused(pieces):
    model = small_model("ridge")
    with pytest.raises(InputError, match="prompt is empty"):
        prefill_stream(model, pieces, PalimpsestCache(model.config))


@pytest.mark.parametrize("kind", ["ridge", "segment_local"])
def test_nothing_of_what_was_read_is_held(kind):
    model = small_model(kind)

    def read(tokens: int) -> tuple[int, tuple[int, int]]:
        """Return the most that Python held meanwhile, and the bytes of the cache."""
        pieces = (tokens_of(250, seed).tolist()[0] for seed in range(tokens // 250))
        cache = PalimpsestCache(model.config)
        gc.freeze()  # so that collecting after every chunk is quick; without, the interpreter's free lists would count
        tracemalloc.start()
        try:
            prefill_stream(model, pieces, cache, chunk_tokens=500, listen=lambda _: gc.collect())
            return tracemalloc.get_traced_memory()[1], cache.bytes()
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    read(2_000)
    (short, state), (long, state_then) = read(2_000), read(20_000)
    assert state == state_then
    assert long < short + 20_000  # all tokens in a list would be 150,000 bytes and more


def begin(model, tokens):
    cache = PalimpsestCache(model.config)
    return prefill(model, tokens, cache, chunk_tokens=SEGMENT), cache


@pytest.mark.parametrize("kind", ATTENTION)
def test_the_likeliest_continuation_is_that_of_generate(kind):
    model, tokens = small_model(kind), tokens_of(21)
    all_real = torch.ones_like(tokens)
    expected = model.generate(tokens, attention_mask=all_real, max_new_tokens=30, do_sample=False, eos_token_id=None)
    logits, cache = begin(model, tokens)
    got = list(continue_from(model, logits, cache, max_new_tokens=30))
    assert got == expected[0, tokens.shape[1] :].tolist()


def test_draws_follow_the_seed_and_stop_at_stop_tokens():
    model, tokens = small_model("ridge"), tokens_of(21)

    def draw(seed, stop=()):
        logits, cache = begin(model, tokens)
        generator = torch.Generator().manual_seed(seed)
        return list(
            continue_from(model, logits, cache, max_new_tokens=40, temperature=1.0, generator=generator, stop=stop)
        )

    first = draw(1)
    assert len(first) == 40
    assert first == draw(1)
    assert first != draw(2)
    assert draw(1, stop=(first[7],)) == first[: first.index(first[7])]


def test_no_token_is_drawn_for_nothing():
    model, tokens = small_model("ridge"), tokens_of(21)
    logits, cache = begin(model, tokens)
    assert list(continue_from(model, logits, cache, max_new_tokens=0)) == []
    list(continue_from(model, logits, cache, max_new_tokens=5))
    assert cache.columns == 21 + 4  # the last token has no successor


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The grass is green. The sky is blue. 0123456789"], 300)


@settings(max_examples=20)
@given(text=st.text(max_size=30))
def test_pieces_join_to_the_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(text_pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_piece_is_never_half_a_character(tokenizer):
    ids = tokenizer.encode("naïve 猫 🙂!", add_special_tokens=False)
    assert len(ids) > len("naïve 猫 🙂!")
    pieces = list(text_pieces(tokenizer, ids))
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == "naïve 猫 🙂!"
    assert len(pieces) > 3
    # a stream that ends in the middle of a character still gives all it has
    assert "".join(text_pieces(tokenizer, ids[:3])) == tokenizer.decode(ids[:3])
