"""The gate g that mixes a memory read with local attention: g * memory + (1 - g) * local."""

import torch
from torch import Tensor, nn

from palimpsest.attention.spec import GateSpec


class Gate(nn.Module):
    """One logit per head, learned, or computed from every token.

    ``bias`` ``[H]`` is the logit; the kind ``token`` adds ``weight`` ``[H, hidden]`` times the token.
    """

    def __init__(self, spec: GateSpec, heads: int, hidden_size: int):
        super().__init__()
        self.spec = spec
        self.bias = nn.Parameter(torch.empty(heads))
        self.weight = nn.Parameter(torch.empty(heads, hidden_size)) if spec.kind == "token" else None

    def initial_values(self) -> dict[str, Tensor]:
        """Return gates that are alike for all heads and tokens."""
        values = {"bias": torch.tensor(self.spec.init)}
        return values if self.weight is None else values | {"weight": torch.tensor(0.0)}

    def forward(self, hidden: Tensor) -> Tensor:
        """Return g in [0, 1], broadcastable to ``[B, H, T, 1]``, for tokens ``[B, T, hidden]``."""
        logit = self.bias.to(torch.promote_types(self.bias.dtype, torch.float32))[None, :, None, None]
        if self.weight is not None:
            logit = logit + nn.functional.linear(hidden, self.weight).mT.unsqueeze(-1)
        return self.values(logit)

    def values(self, logit: Tensor) -> Tensor:
        """Return the gates for these logits."""
        if self.spec.kind == "hard_sigmoid":
            return (0.2 * logit + 0.5).clamp(0.0, 1.0)
        return logit.sigmoid()
