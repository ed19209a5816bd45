"""A short causal convolution over a stream that comes in chunks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = SiLU(sum_j w_j x_{t - W + j}), j = 1 .. W, each channel for itself; x is zero before the first token.

    ``weight`` is ``[G, W, D]``, for G heads of D channels; as in torch's ``Conv1d`` the last of W belongs to the token
    itself. The convolution goes on where the last chunk ended.
    """

    def __init__(self, heads: int, length: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, length, size))

    def initial_values(self) -> dict[str, Tensor]:
        """Draw new weights as ``Conv1d`` draws its own, which Mamba-2 leaves as they are."""
        bound = self.weight.shape[1] ** -0.5
        return {"weight": torch.empty_like(self.weight).uniform_(-bound, bound)}

    def forward(self, x: Tensor, earlier: Tensor, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return y ``[B, G, n, D]`` in ``dtype``, and what the next chunk needs as ``earlier``.

        Args:
            x: inputs ``[B, G, n, D]``.
            earlier: the last W - 1 inputs before them ``[B, G, W - 1, D]``, zero where there were none.
            tokens: ``[B]``, how many of the n inputs each row goes on from; the y of the others are of no use.
            dtype: in which to compute; what is kept of the inputs stays as it is.
        """
        length, chunk = self.weight.shape[1], x.shape[2]
        inputs = torch.cat([earlier.to(x.dtype), x], 2)
        weights = self.weight.to(dtype).unbind(1)
        terms = [w.unsqueeze(1) * inputs[:, :, j : j + chunk].to(dtype) for j, w in enumerate(weights)]
        place = torch.arange(length - 1, device=x.device) + tokens[:, None]
        last = inputs.gather(2, place[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        return F.silu(torch.stack(terms).sum(0)), last
