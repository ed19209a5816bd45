"""Laws of numbers: dtypes, rounding, gradients, and what the backward pass costs."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.memory import Memory
from palimpsest.testing import assert_close

from . import cases as on
from .cases import Case, State, learned

LOW_PRECISIONS = (torch.bfloat16, torch.float16)


def law_state_is_float32_or_float64(memory: Memory[Any], case: Case) -> None:
    """Inputs of a lower precision leave the state that the same numbers leave in float32."""
    options = case.plain().options(memory)
    for form, run in on.FORMS.items():
        _, state = run(memory, *case.stream(), **options)
        assert all(leaf.dtype == torch.float64 for leaf in state), f"{form}: a float64 stream, another state"
        for dtype in (*LOW_PRECISIONS, torch.float32):
            stream = case.stream().to(dtype)
            out, state = run(memory, *stream, **options)
            assert out.dtype == dtype, f"{form}: {dtype} in, {out.dtype} out"
            _, expected = run(memory, *stream.to(torch.float32), **options)
            for name, leaf in state._asdict().items():
                assert leaf.dtype == torch.float32, f"{form}: {name} is {leaf.dtype} for {dtype} inputs"
                assert_close(f"{form}: {name} from {dtype}", leaf, getattr(expected, name), magnitude=1.0)


def law_float32_is_close_to_float64(memory: Memory[Any], case: Case) -> None:
    options = case.plain().options(memory)
    stream = case.stream().to(torch.float32)
    for form, run in on.FORMS.items():
        expected, reference = run(memory, *stream.to(torch.float64), **options)
        out, state = run(memory, *stream, **options)
        assert_close(f"{form}: out", out, expected, magnitude=1.0)
        for name, leaf in state._asdict().items():
            assert_close(f"{form}: {name}", leaf, getattr(reference, name), magnitude=1.0)


def law_low_precision_errs_at_most_twice_plain_torch(memory: Memory[Any], case: Case) -> None:
    """The control is the same memory with a state in the dtype of its inputs, as a plain torch loop would keep it."""
    options = case.plain().options(memory)
    for dtype in LOW_PRECISIONS:
        stream = case.stream().to(dtype)
        expected, _ = on.FORMS["scan"](memory, *stream.to(torch.float64), **options)
        control, _ = on.FORMS["scan"](_Rounded(memory, dtype), *stream, **options)
        for form, run in on.FORMS.items():
            out, _ = run(memory, *stream, **options)
            assert_close(f"{form}: out in {dtype}", out, expected, control=control)


def law_gradients_are_finite(memory: Memory[Any], case: Case) -> None:
    """Also where nothing was written yet, where keys are huge, and where all features of a key vanish."""
    q, k, v = case.stream().to(torch.float32)
    extremes = {"N(0, 1)": k, "N(0, 30^2)": 30.0 * k, "N(-30, 1)": k - 30.0, "N(-200, 1)": k - 200.0, "zero": 0.0 * k}
    shift = torch.cat([extreme - k for extreme in extremes.values()])
    q, k, v = (x.repeat(len(extremes), 1, 1, 1) for x in (q, k, v))
    for form, run in on.FORMS.items():
        leaves = {"q": (q + shift).requires_grad_(), "k": (k + shift).requires_grad_(), "v": v.requires_grad_()}
        out, state = run(memory, *leaves.values(), **case.plain().options(memory))
        loss = out.square().sum() + sum(leaf.square().sum() for leaf in state)
        named = {**leaves, **learned(memory)}
        gradients = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        for name, gradient in zip(named, gradients, strict=True):
            groups = gradient.chunk(len(extremes)) if name in leaves else [gradient]
            finite = [bool(group.isfinite().all()) for group in groups]
            broken = [keys for keys, fine in zip(extremes, finite, strict=False) if not fine]
            assert not broken, f"{form}: gradient of {name} is not finite for keys {', '.join(broken)}"


def law_gradients_equal_finite_differences(memory: Memory[Any], case: Case) -> None:
    """Of outputs and state, by keys, values, queries, strengths and what the memory learns."""
    names = list(learned(memory))
    options = case.options(memory)
    strength = [] if options["strength"] is None else [options.pop("strength")]
    leaves = [x.requires_grad_() for x in (*case.stream(), *strength, *learned(memory).values())]
    for form, run in on.FORMS.items():

        def function(q: Tensor, k: Tensor, v: Tensor, *values: Tensor, run: on.Run = run) -> tuple[Tensor, ...]:
            weights, own = values[: len(strength)], values[len(strength) :]
            with_values = type(memory)(**{**vars(memory), **dict(zip(names, own, strict=True))})
            out, state = run(with_values, q, k, v, **options, **dict(zip(("strength",), weights, strict=False)))
            return out, *state

        try:
            gradcheck(function, leaves, fast_mode=True)
        except GradcheckError as error:
            raise AssertionError(f"{form}: {error}") from error


def law_backward_cost_is_linear(memory: Memory[Any], case: Case) -> None:
    """Twice the stream writes at most twice the numbers, forward and backward.

    Not a matter of time: all elements that any operation writes are counted. A loop that takes its segments as slices
    of one long tensor, or puts them into one, has a backward pass that writes a full-length gradient per segment:
    the same number of operations, but quadratic in elements.
    """
    for form, run in on.FORMS.items():
        for packed in (False, True):
            short, long = (_elements_written(run, memory, case, segments, packed) for segments in (16, 32))
            assert long <= 2.2 * short, (
                f"{form}, packed={packed}: {short} elements for 16 segments, {long} for 32, {long / short:.2f} times"
            )


NUMBER_LAWS = (
    law_state_is_float32_or_float64,
    law_float32_is_close_to_float64,
    law_low_precision_errs_at_most_twice_plain_torch,
    law_gradients_are_finite,
)
"""Laws that take any case; the other two choose their sizes."""


class _Rounded(NamedTuple):
    """A memory that computes in float32 and rounds its state and its answers to the dtype of its inputs."""

    memory: Memory[Any]
    dtype: torch.dtype

    def init(self, batch: int, heads: int, d_k: int, d_v: int, **options: Any) -> State:
        return self._rounded(self.memory.init(batch, heads, d_k, d_v, **options))

    def read(self, state: State, q: Tensor) -> Tensor:
        return self.memory.read(_float(state), q.float()).to(self.dtype)

    def write(
        self, state: State, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> State:
        return self._rounded(self.memory.write(_float(state), k.float(), v.float(), keep=keep, strength=strength))

    def _rounded(self, state: State) -> State:
        return type(state)(*(leaf.to(self.dtype) for leaf in state))


def _float(state: State) -> State:
    return type(state)(*(leaf.float() for leaf in state))


class _ElementCounter(TorchDispatchMode):
    """Counts the elements that operations write; views write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            outputs = result if isinstance(result, tuple | list) else (result,)
            self.elements += sum(x.numel() for x in outputs if isinstance(x, Tensor))
        return result


def _elements_written(run: on.Run, memory: Memory[Any], case: Case, segments: int, packed: bool) -> int:
    """Count what a forward and a backward pass over so many segments write; packed: two segments a document."""
    n = case.segment_length
    ids = tuple(t // (2 * n) for t in range(segments * n))
    longer = replace(case, document_ids=(ids,) * case.batch)
    stream = longer.stream().map(lambda x: x.requires_grad_())
    with _ElementCounter() as counter:
        out, state = run(memory, *stream, segment_length=n, document_ids=longer.ids() if packed else None)
        (out.sum() + sum(leaf.sum() for leaf in state)).backward()
    return counter.elements
