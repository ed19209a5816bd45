"""The last keys and values of a stream, exactly: a first-in first-out store of fixed length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Recent(NamedTuple):
    """The last M tokens, the latest in the last place.

    ``keys`` and ``values`` are ``[B, H_kv, M, D]``, zero where there was no token yet; ``held`` is ``[B]``, how many
    places are filled.
    """

    keys: Tensor
    values: Tensor
    held: Tensor

    @classmethod
    def empty(
        cls, batch: int, heads: int, length: int, size: int, *, dtype: torch.dtype, device: torch.device
    ) -> "Recent":
        """Return a store of ``length`` places without a token."""
        keys = torch.zeros(batch, heads, length, size, dtype=dtype, device=device)
        return cls(keys, torch.zeros_like(keys), torch.zeros(batch, dtype=torch.long, device=device))

    @property
    def length(self) -> int:
        """M."""
        return self.keys.shape[2]

    def filled(self) -> Tensor:
        """Return ``[B, M]`` bool, the places that hold a token."""
        place = torch.arange(self.length, device=self.keys.device)
        return place >= self.length - self.held[:, None]

    def push(self, k: Tensor, v: Tensor, tokens: Tensor, length: int | None = None) -> "Recent":
        """Return the store after more tokens.

        Args:
            k: keys ``[B, H_kv, N, D]``.
            v: values, likewise.
            tokens: ``[B]``, how many of them each row takes, from the first on.
            length: how many places there are afterwards, at least as many as now; None: as many.
        """
        length = self.length if length is None else length
        more = (0, 0, length - self.length, 0)
        keys = torch.cat([F.pad(self.keys, more), k.to(self.keys.dtype)], 2)
        values = torch.cat([F.pad(self.values, more), v.to(self.values.dtype)], 2)
        place = torch.arange(length, device=k.device)
        index = (place + tokens[:, None])[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        held = (self.held + tokens).clamp_max(length)
        return Recent(keys.gather(2, index), values.gather(2, index), held)
