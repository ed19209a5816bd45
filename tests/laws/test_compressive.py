"""The Compressive Transformer against its equations, token by token in numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from palimpsest.attention import CompressiveAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.testing import assert_close

from .compressive_cases import CONVOLUTION, LENGTH, block, keep_identity, trained
from .model_cases import HEAD_DIM, HEADS, KEY_HEADS, SEGMENT, build, config, in_passes, logits, single, tokens
from .token_oracle import Array, CaughtLayer, attend, joined

LENGTHS = [(4, 3, 2), (4, 4, 4), (8, 2, 1), (2, 5, 2), (2, 1, 2), (8, 100, 4)]
"""Memory, compressed memory and ratio: a memory shorter than the segment, a compressed one that overflows, or not."""

COMPRESSIONS = ["mean", "max", "convolution"]


class Stream:
    """The memories of one row and head of keys: lists of (key, value), the latest last."""

    def __init__(self, memory: int, compressed: int, ratio: int, compress: Callable[[list[tuple], int], Array]):
        self.longest = memory, compressed
        self.ratio, self.compress = ratio, compress
        self.memory: list[tuple[Array, Array]] = []
        self.compressed: list[tuple[Array, Array]] = []

    def places(self) -> list[int]:
        """Return where the tokens of both memories sit: at the end of theirs."""
        memory, compressed = self.longest
        first = compressed - len(self.compressed)
        then = compressed + memory - len(self.memory)
        return [*range(first, compressed), *range(then, compressed + memory)]

    def write(self, segment: list[tuple[Array, Array]]) -> tuple[list, list]:
        """Push a segment, and return what was evicted, and what that was compressed to."""
        memory, compressed = self.longest
        self.memory += segment
        evicted = self.memory[:-memory]
        self.memory = self.memory[-memory:]
        blocks = [evicted[i : i + self.ratio] for i in range(0, len(evicted), self.ratio)]
        made = [(self.compress(tokens, 0), self.compress(tokens, 1)) for tokens in blocks]
        self.compressed = (self.compressed + made)[-compressed:]
        return evicted, made


def compression(kind: str, attention: CompressiveAttention, head: int) -> Callable[[list[tuple], int], Array]:
    """Return what makes one key (0) or value (1) of a block of tokens."""

    def compress(block: list[tuple], which: int) -> Array:
        x = np.stack([token[which] for token in block])
        if kind == "mean":
            return x.sum(0) / len(x)
        if kind == "max":
            return np.array([max(column) for column in x.T])
        assert attention.convolution is not None
        weights = attention.convolution.key_weight, attention.convolution.value_weight
        matrices = weights[which].detach().numpy()[head]
        return np.sum([x[j] @ matrices[j] for j in range(len(x))], axis=0)

    return compress


def defined(layer: CaughtLayer) -> tuple[Array, float]:
    """Return the output ``[B, H, T, D]`` and the reconstruction loss by the equations."""
    attention = layer.attention
    assert isinstance(attention, CompressiveAttention)
    chosen = attention.block
    assert chosen.cache_length is not None
    assert chosen.compressed_length is not None
    q, k, v = (layer.heads(name) for name in ("q", "k", "v"))
    out = np.full(q.shape, np.nan)
    row_losses = []
    for row in range(len(q)):
        errors: dict[int, list[Array]] = {}
        for head in range(KEY_HEADS):
            compress = compression(chosen.compression, attention, head)
            stream = Stream(chosen.cache_length, chosen.compressed_length, chosen.ratio, compress)
            queries = range(head * layer.group, (head + 1) * layer.group)
            for start in range(0, q.shape[2], SEGMENT):
                segment = list(zip(k[row, head, start:][:SEGMENT], v[row, head, start:][:SEGMENT], strict=True))
                earlier = stream.compressed + stream.memory
                places = stream.places() + [sum(stream.longest) + slot for slot in range(SEGMENT)]
                for slot in range(len(segment)):
                    seen = earlier + segment[: slot + 1]
                    keys = [layer.rotated(key, place) for (key, _), place in zip(seen, places, strict=False)]
                    for h in queries:
                        query = layer.rotated(q[row, h, start + slot], sum(stream.longest) + slot)
                        out[row, h, start + slot] = attend(query, keys, [value for _, value in seen])
                if len(segment) < SEGMENT:
                    break
                evicted, made = stream.write(segment)
                for h in queries if evicted else ():
                    for query in q[row, h, start : start + SEGMENT]:
                        exact, compressed = (attend(query, *map(list, zip(*x, strict=True))) for x in (evicted, made))
                        errors.setdefault(start, []).append((compressed - exact) ** 2)
        row_losses.append(np.mean([np.mean(error) for error in errors.values()]) if errors else 0.0)
    return out, (chosen.reconstruction or 0.0) * float(np.mean(row_losses))


# The definition


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_a_layer_is_its_definition(lengths: tuple[int, int, int], kind: str) -> None:
    weight = {"reconstruction": 0.7} if kind == "convolution" else {}
    model = single(block(*lengths, compression=kind, **weight))
    layer = CaughtLayer(model)
    loss = trained(model, tokens(2, LENGTH)).auxiliary_loss
    expected, expected_loss = defined(layer)
    assert_close("out", layer.out, joined(expected))
    if kind == "convolution":
        assert loss is not None
        assert expected_loss > 1e-4 or lengths[2] == 1
        assert_close("loss", loss, torch.tensor(expected_loss, dtype=torch.float64))
    else:
        assert loss is None


def test_without_a_block_the_lengths_are_those_of_the_segment() -> None:
    x = tokens(2, LENGTH)
    plain, given = build({"pattern": "compressive"}), build(block(SEGMENT, SEGMENT, 4))
    assert torch.equal(logits(plain, x), logits(given, x))


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("memory", [1, 4, 6])
def test_one_to_one_it_is_transformer_xl(kind: str, memory: int) -> None:
    model = build(block(memory, 5, 1, compression=kind))
    longer = build({"pattern": "transformer_xl", "transformer_xl": {"cache_length": memory + 5}})
    if kind == "convolution":
        keep_identity(model)
    longer.load_state_dict(model.state_dict(), strict=False)
    x = tokens(2, LENGTH)
    assert_close("whole", logits(model, x), logits(longer, x))
    assert_close("in passes", in_passes(model, x, (6, 1, 1, 23))[0], logits(longer, x))


def test_a_new_convolution_is_the_mean() -> None:
    fresh = PalimpsestForCausalLM(config(block(4, 3, 2))).double().eval()
    mean = PalimpsestForCausalLM(config(block(4, 3, 2, compression="mean"))).double().eval()
    kept = {name: weight for name, weight in fresh.state_dict().items() if CONVOLUTION not in name}
    assert len(fresh.state_dict()) - len(kept) == 4
    mean.load_state_dict(kept)
    assert_close("logits", logits(fresh, tokens(2, LENGTH)), logits(mean, tokens(2, LENGTH)))


def test_what_was_evicted_is_still_seen_through_the_compressed_memory_alone() -> None:
    model = single(block(4, 3, 2))
    x = tokens(1, 17)
    changed = x.repeat(16, 1)
    changed.fill_diagonal_(60)  # another token at place t in row t
    effect = (logits(model, changed)[:, 16] - logits(model, x)[:, 16]).abs().amax(1)
    assert (effect[6:16] > 1e-9).all()  # 3 compressed tokens of 2 each, and 4 of the memory, before the segment
    assert (effect[:6] < 1e-13).all()
    assert CompressiveAttention.exact_from(model.config.attention_spec, 16) == 12


# Its cost, and what cannot work


@pytest.mark.parametrize("length", [1, 8, 30, 97])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_operations_are_counted_as_by_hand(length: int, lengths: tuple[int, int, int]) -> None:
    total = 0.0
    stream = Stream(*lengths, compress=lambda tokens, which: np.zeros(1))
    for start in range(0, length, SEGMENT):
        here = min(SEGMENT, length - start)
        for slot in range(here):
            total += HEADS * 4 * HEAD_DIM * (len(stream.compressed) + len(stream.memory) + slot + 1)
        if here == SEGMENT:
            evicted, _ = stream.write([(np.zeros(1), np.zeros(1))] * SEGMENT)
            total += len(evicted) * 2 * KEY_HEADS * 2 * HEAD_DIM**2  # a matrix for the key, and one for the value
    learned, mean = (config(block(*lengths, compression=kind)) for kind in ("convolution", "mean"))
    counted = CompressiveAttention.flops(Sizes.of(learned), learned.attention_spec, length)
    assert counted == pytest.approx(total / length)
    without = CompressiveAttention.flops(Sizes.of(mean), mean.attention_spec, length)
    assert (without < counted) == (length // SEGMENT * SEGMENT > lengths[0])


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"ratio": 3}, "'segment_length' (4) must be a multiple of 'compressive.ratio' (3)"),
        ({"cache_length": 3, "ratio": 2}, "'compressive.cache_length' (3) must be a multiple"),
        ({"ratio": 0}, "'compressive.ratio': should be greater than or equal to 1 (got 0)"),
        ({"compression": "avg"}, "unknown value 'avg' of 'compressive.compression'"),
        ({"reconstruction": -1.0}, "'compressive.reconstruction': should be greater than or equal to 0 (got -1.0)"),
    ],
)
def test_what_cannot_work_is_refused(chosen: dict, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        config({"pattern": "compressive", "compressive": chosen})
    assert sentence in str(caught.value)
