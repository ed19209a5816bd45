"""Full causal attention, as in LLaMA; its cache grows with the context."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from palimpsest.attention.base import Attention, Facts, causal_pairs, expand_heads, rotate, softmax_flops
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
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

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the layer holds, by name; ``load`` takes it back."""
        held = {"keys": self.keys, "values": self.values, "real": self.real}
        return {name: x for name, x in held.items() if x is not None}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Hold these tensors, named as ``tensors`` names them.

        Raises:
            ValueError: a tensor is missing, or there is one that the layer has no place for.
        """
        if tensors and set(tensors) != {"keys", "values", "real"}:
            raise ValueError(f"expected the tensors ['keys', 'values', 'real'], got {sorted(tensors)}")
        self.keys, self.values, self.real = (tensors.get(name) for name in ("keys", "values", "real"))
        self.is_initialized = bool(tensors)
        if self.keys is not None:
            self.dtype, self.device = self.keys.dtype, self.keys.device

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the state, which there is none of, and of keys and values."""
        return 0, sum(x.numel() * x.element_size() for x in (self.keys, self.values) if x is not None)

    def reset(self) -> None:
        """Forget everything."""
        self.load({})

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several return sequences."""
        self.load({name: x.repeat_interleave(repeats, 0) for name, x in self.tensors().items()})

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.load({name: x.index_select(0, indices.to(x.device)) for name, x in self.tensors().items()})


class FullAttention(Attention):
    """softmax(q k^T / sqrt(d)) v over all earlier tokens of the document."""

    rotates_by_document = True
    facts = Facts("2 G d T", "everything", "to every token", "grows with T")

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        rotary = stream.document_rotary()
        q, k = rotate(q, rotary), rotate(k, rotary)
        mask = None
        if isinstance(cache, FullCacheLayer):
            earlier = cache.get_seq_length()
            k, v = cache.update(k, v)
            mask = _cached_mask(stream, cache, earlier)
        elif stream.documents is not None:
            mask = _document_mask(stream.documents)
        k, v = expand_heads(k, self.heads), expand_heads(v, self.heads)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None), None

    @classmethod
    def cache_layer(cls, sizes: Sizes, spec: AttentionSpec) -> FullCacheLayer:
        """Return an empty cache for a layer of this kind."""
        return FullCacheLayer()

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token."""
        return 0

    @classmethod
    def bytes_per_token(cls, sizes: Sizes, element: int) -> int:
        """Return the bytes of one token's keys and values."""
        return 2 * sizes.key_heads * sizes.head * element

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 2 d (T + 1) per head: a query meets (T + 1) / 2 keys on average."""
        return softmax_flops(sizes, causal_pairs(tokens, tokens))


def _document_mask(documents: Tensor) -> Tensor:
    """Return ``[B, 1, T, T]``: the key is earlier and of the same document; padding sees padding, no row is empty."""
    tokens = documents.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=documents.device).tril()
    same = documents[:, :, None] == documents[:, None, :]
    return (causal & same).unsqueeze(1)


def _cached_mask(stream: Stream, cache: FullCacheLayer, earlier: int) -> Tensor | None:
    """Return ``[B, 1, T, P + T]``: the key is earlier and no padding; None where plain causal attention is the same."""
    tokens, device = stream.layout.tokens, stream.device
    real = torch.ones(stream.batch, tokens, dtype=torch.bool, device=device) if stream.real is None else stream.real
    real = cache.extend(real)
    if earlier == 0 and stream.real is None:
        return None
    causal = torch.ones(tokens, earlier + tokens, dtype=torch.bool, device=device).tril(earlier)
    itself = torch.eye(tokens, dtype=torch.bool, device=device)
    itself = F.pad(itself, (earlier, 0))
    return ((causal & real[:, None, :]) | itself).unsqueeze(1)
