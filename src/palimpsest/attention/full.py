"""Full causal attention, as in LLaMA; its cache grows with the context."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from palimpsest.attention.base import Attention, expand_heads, rotate
from palimpsest.attention.stream import Stream


class FullCacheLayer(DynamicLayer):
    """Rotated keys and values of every column so far, with the columns that are tokens and not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.real: Tensor | None = None

    def extend(self, real: Tensor) -> Tensor:
        """Append the mask ``[B, T]`` of new columns and return that of all columns ``[B, P + T]``."""
        self.real = real if self.real is None else torch.cat([self.real, real], 1)
        return self.real

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the memory, which there is none of, and of keys and values."""
        return 0, sum(x.numel() * x.element_size() for x in (self.keys, self.values) if x is not None)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.real = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several return sequences."""
        super().batch_repeat_interleave(repeats)
        if self.real is not None:
            self.real = self.real.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        if self.real is not None:
            self.real = self.real.index_select(0, indices.to(self.real.device))


class FullAttention(Attention):
    """softmax(q k^T / sqrt(d)) v over all earlier tokens of the document."""

    def attend(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None) -> Tensor:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        rotary = (stream.rotary[0].unsqueeze(1), stream.rotary[1].unsqueeze(1))
        q, k = rotate(q, rotary), rotate(k, rotary)
        mask = None
        if isinstance(cache, FullCacheLayer):
            earlier = cache.get_seq_length()
            k, v = cache.update(k, v)
            mask = _cached_mask(stream, cache, q.shape[0], earlier)
        elif stream.documents is not None:
            mask = _document_mask(stream.documents)
        k, v = expand_heads(k, self.heads), expand_heads(v, self.heads)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def _document_mask(documents: Tensor) -> Tensor:
    """Return ``[B, 1, T, T]``: the key is earlier and of the same document; padding sees padding, no row is empty."""
    tokens = documents.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=documents.device).tril()
    same = documents[:, :, None] == documents[:, None, :]
    return (causal & same).unsqueeze(1)


def _cached_mask(stream: Stream, cache: FullCacheLayer, batch: int, earlier: int) -> Tensor | None:
    """Return ``[B, 1, T, P + T]``: the key is earlier and no padding; None where plain causal attention is the same."""
    tokens = stream.layout.tokens
    device = stream.rotary[0].device
    real = torch.ones(batch, tokens, dtype=torch.bool, device=device) if stream.real is None else stream.real
    real = cache.extend(real)
    if earlier == 0 and stream.real is None:
        return None
    causal = torch.ones(tokens, earlier + tokens, dtype=torch.bool, device=device).tril(earlier)
    itself = torch.eye(tokens, dtype=torch.bool, device=device)
    itself = F.pad(itself, (earlier, 0))
    return ((causal & real[:, None, :]) | itself).unsqueeze(1)
