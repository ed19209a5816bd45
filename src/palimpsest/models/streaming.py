"""Read a context of any length in whole segments, then continue it token by token.

Layers of kind ``segment_local`` and ``memory`` hold a state of fixed size, so that nothing here grows with the context;
the keys and values of ``full`` layers do, as they must.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palimpsest.errors import InputError
from palimpsest.models.cache import PalimpsestCache
from palimpsest.models.modeling import PalimpsestForCausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_TOKENS = 4096
STREAM_TOKENS = 1024
"""Fewer than of a text in memory: by what one pass holds for itself, and little more, allocators let a process grow."""
UNFINISHED = "\ufffd"
NO_TOKEN = "The prompt is empty: it must have at least one token."


@torch.inference_mode()
def prefill(
    model: PalimpsestForCausalLM,
    input_ids: Tensor,
    cache: PalimpsestCache,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    listen: Callable[[int], None] | None = None,
) -> Tensor:
    """Read tokens into a cache, a chunk of whole segments at a time: the same numbers as one pass over all of them.

    Args:
        model: the model.
        input_ids: ``[B, T]``, T >= 1, without padding.
        cache: what was read before, updated in place.
        chunk_tokens: tokens per chunk, rounded down to whole segments (at least one).
        listen: told after every chunk how many of the T tokens have been read.

    Returns:
        The logits ``[B, vocabulary]`` after the last token.

    Raises:
        InputError: there is no token to read.
    """
    tokens = input_ids.shape[1]
    if tokens == 0:
        raise InputError(NO_TOKEN)
    segment = model.config.attention_spec.segment_length
    chunk = max(1, chunk_tokens // segment) * segment
    first = min(tokens, chunk - cache.columns % segment)  # from here on chunks begin where segments do
    chunks = (input_ids[:, :first], *input_ids[:, first:].split(chunk, 1)) if first < tokens else (input_ids,)
    read, logits = 0, input_ids.new_empty(0)
    for part in chunks:
        logits = model(part.to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        read += part.shape[1]
        if listen is not None:
            listen(read)
    return logits


def prefill_stream(
    model: PalimpsestForCausalLM,
    pieces: Iterable[Sequence[int]],
    cache: PalimpsestCache,
    *,
    chunk_tokens: int = STREAM_TOKENS,
    listen: Callable[[int], None] | None = None,
) -> Tensor:
    """Read one row of tokens that comes in pieces, as ``prefill`` does, holding no more than a chunk and a piece.

    Args:
        model: the model.
        pieces: the tokens, cut anywhere.
        cache: what was read before, of one row, updated in place.
        chunk_tokens: tokens per pass, rounded as for ``prefill``.
        listen: told after every chunk how many tokens have been read.

    Returns:
        The logits ``[1, vocabulary]`` after the last token.

    Raises:
        InputError: there is no token to read.
    """
    segment = model.config.attention_spec.segment_length
    chunk = max(1, chunk_tokens // segment) * segment
    read, logits = 0, None
    for tokens in _regroup(pieces, chunk - cache.columns % segment, chunk):
        logits = prefill(model, torch.tensor([tokens], dtype=torch.long), cache, chunk_tokens=chunk)
        read += len(tokens)
        if listen is not None:
            listen(read)
    if logits is None:
        raise InputError(NO_TOKEN)
    return logits


def _regroup(pieces: Iterable[Sequence[int]], first: int, size: int) -> Iterator[list[int]]:
    """Yield the same tokens in lists of ``first``, then ``size``, the last one shorter."""
    held: list[int] = []
    for piece in pieces:
        held.extend(piece)
        while len(held) >= first:
            yield held[:first]
            del held[:first]
            first = size
    if held:
        yield held


def prefill_windows(
    model: PalimpsestForCausalLM,
    window: Callable[[int, int], Tensor],
    end: int,
    cache: PalimpsestCache,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    listen: Callable[[int], None] | None = None,
) -> Tensor:
    """Read rows of tokens that are made as they are asked for, as ``prefill`` does, holding no more than a chunk.

    Reading begins at the column where the cache is, so that it can go on from a snapshot, with the same passes.

    Args:
        model: the model.
        window: returns the columns from its first argument to before its second, ``[B, columns]``, without padding.
        end: the column to stop before.
        cache: what was read before, updated in place.
        chunk_tokens: columns per pass, rounded as for ``prefill``.
        listen: told after every pass how many columns it read.

    Returns:
        The logits ``[B, vocabulary]`` after the last token.

    Raises:
        InputError: there is no token to read.
    """
    segment = model.config.attention_spec.segment_length
    chunk = max(1, chunk_tokens // segment) * segment
    logits = None
    while (start := cache.columns) < end:
        stop = min(end, start + chunk - start % segment)
        logits = prefill(model, window(start, stop), cache, chunk_tokens=chunk)
        if listen is not None:
            listen(stop - start)
    if logits is None:
        raise InputError(NO_TOKEN)
    return logits


@torch.inference_mode()
def continue_from(
    model: PalimpsestForCausalLM,
    logits: Tensor,
    cache: PalimpsestCache,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Yield the tokens that follow a context of one row, each as soon as it is known.

    Args:
        model: the model.
        logits: ``[1, vocabulary]``, those after the context, as ``prefill`` returns them.
        cache: the context, updated in place.
        max_new_tokens: how many tokens to yield at most.
        temperature: divides the logits before a token is drawn; 0 takes the likeliest.
        generator: where draws come from, on the CPU.
        stop: tokens that end the text; they are not yielded.
    """
    for left in reversed(range(max_new_tokens)):
        token = _draw(logits[0].float().cpu(), temperature, generator)
        if token in stop:
            return
        yield token
        if left:
            last = torch.tensor([[token]], device=model.device)
            logits = model(last, past_key_values=cache, use_cache=True).logits[:, -1]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


def text_pieces(tokenizer: "PreTrainedTokenizerBase", tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text of a stream of tokens piece by piece, never half a character.

    What a token means can depend on the one before it (a leading space, the bytes of one character), so every piece is
    the difference that its tokens make to the text of the piece before.
    """

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    held: list[int] = []
    known = 0  # the first tokens of `held`, whose text has been yielded
    for token in tokens:
        held.append(token)
        if not text(held).endswith(UNFINISHED):
            yield text(held).removeprefix(text(held[:known]))
            held, known = held[known:], len(held) - known
    if known < len(held):
        yield text(held).removeprefix(text(held[:known]))
