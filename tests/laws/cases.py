"""What a law is tried on: a small stream, described by a few numbers that hypothesis draws and shrinks."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from palimpsest.memory import Memory, parallel, scan

from .table import RIDGE

State = Any  # some NamedTuple of tensors
Run = Callable[..., tuple[Tensor, State]]
FORMS: dict[str, Run] = {"scan": scan, "parallel": parallel}


class Stream(NamedTuple):
    """Queries and keys ``[B, H, T, K]``, values ``[B, H, T, V]``."""

    q: Tensor
    k: Tensor
    v: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Stream":
        return Stream(*(function(x) for x in self))

    def to(self, dtype: torch.dtype) -> "Stream":
        return self.map(lambda x: x.to(dtype))

    def tokens(self, index: slice | list[int]) -> "Stream":
        return self.map(lambda x: x[:, :, index])


@dataclass(frozen=True)
class Case:
    """A stream and what comes with it. All random numbers follow from ``seed``.

    ``document_ids`` holds one id per row and token. ``packed``, ``masked``, ``begun`` and ``weighted`` say whether a
    law that leaves it open passes document ids, a ``keep`` mask, a state in which something is already written, and a
    write strength per token.
    """

    seed: int
    heads: int
    segment_length: int
    d_k: int
    d_v: int
    document_ids: tuple[tuple[int, ...], ...]
    packed: bool = False
    masked: bool = False
    begun: bool = False
    weighted: bool = False

    @property
    def batch(self) -> int:
        return len(self.document_ids)

    @property
    def length(self) -> int:
        return len(self.document_ids[0])

    @property
    def boundaries(self) -> list[int]:
        """Return first tokens of segments: of the second, one in the middle, and the last."""
        starts = range(self.segment_length, self.length, self.segment_length)
        return sorted({starts[0], starts[len(starts) // 2], starts[-1]}) if starts else []

    def plain(self) -> "Case":
        """Return this case without documents, mask, earlier state and strength."""
        return replace(self, packed=False, masked=False, begun=False, weighted=False)

    def generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + purpose)

    def normal(self, purpose: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator(purpose), dtype=torch.float64)

    def stream(self, purpose: int = 0) -> Stream:
        """Return a float64 stream; another purpose gives an independent one."""
        shape = (self.batch, self.heads, self.length)
        q = self.normal(purpose, *shape, self.d_k)
        k = self.normal(purpose + 1, *shape, self.d_k)
        return Stream(q, k, self.normal(purpose + 2, *shape, self.d_v))

    def mask(self) -> Tensor:
        """Return a ``keep`` mask ``[B, T]`` that drops about a third of the tokens."""
        return torch.rand(self.batch, self.length, generator=self.generator(10)) > 0.35

    def strength(self) -> Tensor | None:
        """Return strengths ``[B, H, T]`` between 0.1 and 1, or None in a case that is not weighted."""
        if not self.weighted:
            return None
        drawn = torch.rand(self.batch, self.heads, self.length, generator=self.generator(11), dtype=torch.float64)
        return 0.1 + 0.9 * drawn

    def ids(self) -> Tensor:
        return torch.tensor(self.document_ids)

    def earlier_tokens(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of three tokens that were written before the stream."""
        shape = (self.batch, self.heads, 3)
        return self.normal(20, *shape, self.d_k), self.normal(21, *shape, self.d_v)

    def written_state(self, memory: Memory[Any]) -> State:
        """Return a state in which the earlier tokens are written, without a graph."""
        state = memory.write(self.empty(memory), *self.earlier_tokens())
        return type(state)(*(leaf.detach() for leaf in state))

    def empty(self, memory: Memory[Any], dtype: torch.dtype = torch.float64) -> State:
        return memory.init(self.batch, self.heads, self.d_k, self.d_v, dtype=dtype)

    def options(self, memory: Memory[Any]) -> dict[str, Any]:
        """Return the keyword arguments of ``scan`` for this case."""
        return {
            "segment_length": self.segment_length,
            "state": self.written_state(memory) if self.begun else None,
            "keep": self.mask() if self.masked else None,
            "document_ids": self.ids() if self.packed else None,
            "strength": self.strength(),
        }


def learned(memory: Memory[Any]) -> dict[str, Tensor]:
    """Return the learned quantities of a memory by name."""
    named = {field.name: getattr(memory, field.name) for field in fields(memory)}  # pyright: ignore[reportArgumentType]
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def with_gradients(run: Run, memory: Memory[Any], case: Case) -> dict[str, Tensor]:
    """Run a case and return outputs, final state and every gradient of a random weighting of both, by name."""
    options = case.options(memory)
    stream = case.stream().map(lambda x: x.requires_grad_())
    inputs = {**stream._asdict(), **learned(memory)}
    if options["strength"] is not None:
        inputs["strength"] = options["strength"].requires_grad_()
    if case.begun:
        # not the gradient of the state itself: some of its elements (below the diagonal of R) are no variables
        k, v = (x.requires_grad_() for x in case.earlier_tokens())
        options["state"] = memory.write(case.empty(memory), k, v)
        inputs |= {"earlier k": k, "earlier v": v}
    out, state = run(memory, *stream, **options)
    results = {"out": out, **{f"final {name}": leaf for name, leaf in state._asdict().items()}}
    weighted = [(x * case.normal(30 + i, *x.shape)).sum() for i, x in enumerate(results.values()) if x.requires_grad]
    if weighted:
        gradients = torch.autograd.grad(torch.stack(weighted).sum(), list(inputs.values()), materialize_grads=True)
    else:  # nothing but padding
        gradients = [torch.zeros_like(x) for x in inputs.values()]
    return {**results, **{f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True)}}


@st.composite
def cases(draw: st.DrawFn, max_length: int = 20) -> Case:
    """Draw ragged streams: T = 1, T < segment, K != V, documents cut anywhere, padding on every side."""
    length = draw(st.integers(1, max_length))
    return Case(
        seed=draw(st.integers(0, 99)),
        heads=draw(st.integers(1, len(RIDGE))),
        segment_length=draw(st.integers(1, 7)),
        d_k=draw(st.integers(1, 4)),
        d_v=draw(st.integers(1, 4)),
        document_ids=tuple(draw(_packed_row(length)) for _ in range(draw(st.integers(1, 3)))),
        packed=draw(st.booleans()),
        masked=draw(st.booleans()),
        begun=draw(st.booleans()),
        weighted=draw(st.booleans()),
    )


@st.composite
def _packed_row(draw: st.DrawFn, length: int) -> tuple[int, ...]:
    """Draw document ids for one row: runs of one id each, where -1 is padding and equal neighbours are one document."""
    row: list[int] = []
    while len(row) < length:
        row += [draw(st.integers(-1, 2))] * draw(st.integers(1, length - len(row)))
    return tuple(row)
