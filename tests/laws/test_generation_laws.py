"""Laws of generation: what is generated with the bounded cache is what is generated without any."""

import pytest
import torch
from torch import Tensor

from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.testing import assert_close

from .model_cases import SEGMENT, TABLE, in_passes, model_of, run, tokens

EACH = pytest.mark.parametrize("name", TABLE)
NEW = 3 * SEGMENT + 2
"""So many tokens that every row completes at least three segments."""


def generate(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> Tensor:
    """Generate; where tokens are sampled, always with the same random numbers."""
    options = {"do_sample": False, "max_new_tokens": NEW} | options
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return model.generate(x, **options)


@EACH
@pytest.mark.parametrize("length", [1, SEGMENT, 2 * SEGMENT + 3])
def test_greedy_is_the_same_without_a_cache(name: str, length: int) -> None:
    model, x = model_of(name), tokens(2, length)
    out = generate(model, x)
    assert out.shape == (2, length + NEW)
    assert torch.equal(out, generate(model, x, use_cache=False))


@EACH
def test_a_left_padded_batch_generates_every_row_alone(name: str) -> None:
    model, x = model_of(name), tokens(3, 13)
    mask = torch.tensor([run(1, 13), run(0, 9) + run(1, 4), run(0, 6) + run(1, 7)])
    together = generate(model, x.where(mask > 0, 0), attention_mask=mask)[:, 13:]
    for row, here in enumerate(mask > 0):
        alone = generate(model, x[row, here][None])[0, int(here.sum()) :]
        assert torch.equal(together[row], alone)


@EACH
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "top_k": 5},
    ],
    ids=["beams", "beams_returned", "samples", "sampled_beams"],
)
def test_beams_and_samples_are_the_same_without_a_cache(name: str, options: dict) -> None:
    model, x = model_of(name), tokens(2, 6)
    out = generate(model, x, **options)
    assert len(out) == 2 * options.get("num_return_sequences", 1)
    assert torch.equal(out, generate(model, x, use_cache=False, **options))


@EACH
def test_sampled_sequences_part_ways(name: str) -> None:
    out = generate(model_of(name), tokens(1, 6), do_sample=True, num_return_sequences=3)
    assert len(out.unique(dim=0)) == 3


@EACH
def test_rows_that_end_early_do_not_disturb_the_others(name: str) -> None:
    model, x = model_of(name), tokens(3, 6)
    free = generate(model, x)
    end = free[0, 8]
    out = generate(model, x, eos_token_id=int(end), pad_token_id=0)
    for row, whole in zip(out, free, strict=True):
        ended = (whole[6:] == end).nonzero()
        length = 6 + int(ended[0]) + 1 if len(ended) else len(whole)
        assert torch.equal(row[:length], whole[:length])
        assert (row[length:] == 0).all()


@EACH
def test_the_prompt_may_be_read_in_chunks(name: str) -> None:
    model, x = model_of(name), tokens(2, 13)
    assert torch.equal(generate(model, x, prefill_chunk_size=5), generate(model, x))


@EACH
def test_a_prompt_already_read_is_continued(name: str) -> None:
    model, x = model_of(name), tokens(2, 13)
    _, past = in_passes(model, x[:, :9], (9,))
    assert torch.equal(generate(model, x, past_key_values=past), generate(model, x))


@EACH
def test_rows_of_a_cache_are_chosen_repeated_and_forgotten(name: str) -> None:
    model, x = model_of(name), tokens(3, 12)
    mask = torch.tensor([run(1, 12), run(0, 5) + run(1, 7), run(1, 2) + run(0, 4) + run(1, 6)])
    expected = in_passes(model, x, (7, 5), mask)[0][:, 7:]

    def begun() -> PalimpsestCache:
        return in_passes(model, x[:, :7], (7,), mask[:, :7])[1]

    def after(past: PalimpsestCache, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x[rows, 7:], attention_mask=mask[rows], past_key_values=past).logits

    order = torch.tensor([2, 0, 0])
    for choose in (PalimpsestCache.reorder_cache, PalimpsestCache.batch_select_indices):
        past = begun()
        choose(past, order)
        assert_close("chosen", after(past, order), expected[order])
    past, twice = begun(), torch.tensor([0, 0, 1, 1, 2, 2])
    past.batch_repeat_interleave(2)
    assert_close("repeated", after(past, twice), expected[twice])
    past.reset()
    assert past.get_seq_length() == 0
    assert past.bytes() == (0, 0)
    with torch.no_grad():
        again = model(x, attention_mask=mask, past_key_values=past).logits
    assert_close("forgotten", again[:, 7:], expected)


@EACH
def test_a_memory_is_not_rolled_back(name: str) -> None:
    model, x = model_of(name), tokens(1, 6)
    with pytest.raises(ValueError, match="assisted generation"):
        generate(model, x, assistant_model=model)
