"""Bugs in what a memory reads and writes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.memory import (
    DeltaMemory,
    LinearMemory,
    LinearState,
    RidgeMemory,
    RidgeRootMemory,
    RidgeRootState,
    RidgeState,
    linear,
    ridge,
)

from . import memory_laws as only
from . import number_laws as numbers
from . import stream_laws as streams
from .planted import CASE, LONG, Patch, killed_by


@killed_by(streams.law_reading_and_writing_are_pure, "linear")
def write_in_place(patch: Patch) -> None:
    def write(self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        phi_k, v = linear.mapped(self.features, k, v, keep, state.matrix.dtype)
        return LinearState(state.matrix.add_(phi_k.mT @ v), state.normaliser + phi_k.sum(-2))

    patch.setattr(LinearMemory, "write", write)


@killed_by(streams.law_state_does_not_grow, "linear")
def write_appends(patch: Patch) -> None:
    def write(self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        phi_k, v = linear.mapped(self.features, k, v, keep, state.matrix.dtype)
        return LinearState(torch.cat([state.matrix, v], 2), torch.cat([state.normaliser, phi_k.sum(-1)], 2))

    patch.setattr(LinearMemory, "write", write)
    patch.setattr(LinearMemory, "read", lambda self, state, q: q[..., :1].expand(*q.shape[:3], state.matrix.shape[-1]))


@killed_by(streams.law_rows_and_heads_never_touch, "linear")
def write_mixes_rows(patch: Patch) -> None:
    def write(self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        phi_k, v = linear.mapped(self.features, k, v, keep, state.matrix.dtype)
        return LinearState(state.matrix + (phi_k.mT @ v).flip(0), state.normaliser + phi_k.sum(-2))

    patch.setattr(LinearMemory, "write", write)


@killed_by(only.law_order_of_writes_is_irrelevant, "linear")
def write_fades_within_the_segment(patch: Patch) -> None:
    def faded(features: Any, k: Tensor, v: Tensor, keep: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return features.apply(k), v * 0.9 ** torch.arange(v.shape[-2], dtype=v.dtype)[:, None]

    patch.setattr(linear, "mapped", faded)


@killed_by(streams.law_keep_false_writes_nothing, "ridge")
def keep_is_ignored(patch: Patch) -> None:
    mapped = linear.mapped
    patch.setattr(ridge, "mapped", lambda features, k, v, keep, dtype: mapped(features, k, v, None, dtype))


@killed_by(streams.law_what_is_not_written_is_never_read, "ridge")
def keep_is_a_product(patch: Patch) -> None:
    def product(features: Any, k: Tensor, v: Tensor, keep: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        kept = 1.0 if keep is None else keep[:, None, ..., None].to(dtype)
        return features.apply(k.to(dtype)) * kept, v.to(dtype) * kept

    patch.setattr(ridge, "mapped", product)


@killed_by(streams.law_empty_reads_zero, "linear")
def division_is_not_guarded(patch: Patch) -> None:
    patch.setattr(linear, "safe_divide", torch.div)


@killed_by(numbers.law_gradients_are_finite, "linear")
def division_is_guarded_only_outside(patch: Patch) -> None:
    patch.setattr(linear, "safe_divide", lambda a, b: torch.where(b <= linear.NEGLIGIBLE, 0.0, a / b))


@killed_by(streams.law_poison_stays_visible, "linear")
def guard_hides_poison(patch: Patch) -> None:
    patch.setattr(linear, "safe_divide", lambda a, b: torch.where(b > linear.NEGLIGIBLE, a / b, 0.0))


@killed_by(numbers.law_float32_is_close_to_float64, "linear")
def features_rounded_to_bfloat16(patch: Patch) -> None:
    mapped = linear.mapped

    def rounded(features: Any, k: Tensor, v: Tensor, keep: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        phi_k, v = mapped(features, k, v, keep, dtype)
        return (phi_k.bfloat16().to(dtype) if dtype == torch.float32 else phi_k), v

    patch.setattr(linear, "mapped", rounded)


@killed_by(numbers.law_low_precision_errs_at_most_twice_plain_torch, "linear", LONG)
def sums_in_the_dtype_of_the_inputs(patch: Patch) -> None:
    def write(self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        phi_k = self.features.apply(k)
        matrix, normaliser = state.matrix.to(k.dtype), state.normaliser.to(k.dtype)
        for t in range(k.shape[2]):
            matrix = matrix + phi_k[:, :, t, :, None] * v[:, :, t, None]
            normaliser = normaliser + phi_k[:, :, t]
        return LinearState(matrix.to(state.matrix.dtype), normaliser.to(state.matrix.dtype))

    patch.setattr(LinearMemory, "write", write)


@killed_by(streams.law_equals_the_equations, "delta-exclusive")
def delta_term_is_missing(patch: Patch) -> None:
    patch.setattr(DeltaMemory, "write", LinearMemory.write)


@killed_by(streams.law_equals_the_equations, "delta-exclusive")
def exclusive_delta_is_normalised_inclusively(patch: Patch) -> None:
    write = DeltaMemory.write

    def inclusive(self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        return write(replace(self, normaliser="inclusive"), state, k, v, keep=keep)

    patch.setattr(DeltaMemory, "write", inclusive)


@killed_by(only.law_write_is_a_contraction, "delta-inclusive", replace(CASE, document_ids=((0,) * 20,)))
def inclusive_delta_is_normalised_exclusively(patch: Patch) -> None:
    write = DeltaMemory.write

    def exclusive(self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        return write(replace(self, normaliser="exclusive"), state, k, v, keep=keep)

    patch.setattr(DeltaMemory, "write", exclusive)


@killed_by(only.law_first_segment_equals_linear, "delta-exclusive")
def delta_compares_keys_with_themselves(patch: Patch) -> None:
    def write(self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None) -> LinearState:
        known = LinearMemory(self.features).write(state, k, v, keep=keep)
        novel = v - LinearMemory(self.features).read(known, k)
        return LinearMemory(self.features).write(state, k, novel, keep=keep)

    patch.setattr(DeltaMemory, "write", write)


def patch_solution(patch: Patch, added: Callable[[Tensor], Tensor | float]) -> None:
    """Read with (H + X)^-1 M, where X is what ``added`` makes of lambda."""

    def weights(self: RidgeMemory, state: RidgeState) -> Tensor:
        identity = torch.eye(state.gram.shape[-1], dtype=state.gram.dtype)
        return torch.linalg.solve(state.gram + added(ridge.per_head(self.ridge, state.gram)) * identity, state.matrix)

    patch.setattr(RidgeMemory, "weights", weights)


@killed_by(streams.law_equals_the_equations, "ridge")
def ridge_forgets_lambda(patch: Patch) -> None:
    patch_solution(patch, lambda _: 1e-9)


@killed_by(streams.law_equals_the_equations, "ridge")
def ridge_subtracts_lambda(patch: Patch) -> None:
    patch_solution(patch, lambda value: -value)


@killed_by(streams.law_equals_the_equations, "ridge")
def ridge_takes_lambda_of_the_other_head(patch: Patch) -> None:
    patch_solution(patch, lambda value: value.flip(0))


@killed_by(only.law_independent_keys_are_recalled, "ridge")
def ridge_bounds_lambda_from_below(patch: Patch) -> None:
    patch_solution(patch, lambda value: value.clamp_min(1e-3))


@killed_by(streams.law_equals_the_equations, "ridge")
def ridge_keeps_only_the_last_gram(patch: Patch) -> None:
    def write(self: RidgeMemory, state: RidgeState, k: Tensor, v: Tensor, *, keep: Any = None) -> RidgeState:
        phi_k, v = linear.mapped(self.features, k, v, keep, state.gram.dtype)
        return RidgeState(phi_k.mT @ phi_k, state.matrix + phi_k.mT @ v)

    patch.setattr(RidgeMemory, "write", write)


@killed_by(only.law_root_equals_normal_equations, "ridge-root")
def root_does_not_rotate_its_target(patch: Patch) -> None:
    def write(
        self: RidgeRootMemory, state: RidgeRootState, k: Tensor, v: Tensor, *, keep: Any = None
    ) -> RidgeRootState:
        phi_k, v = linear.mapped(self.features, k, v, keep, state.root.dtype)
        orthogonal, root = torch.linalg.qr(torch.cat([state.root, phi_k], -2))
        return RidgeRootState(root, state.target + orthogonal[..., state.root.shape[-1] :, :].mT @ v)

    patch.setattr(RidgeRootMemory, "write", write)


@killed_by(only.law_rounded_sums_still_answer, "ridge")
def ridge_trusts_its_sums(patch: Patch) -> None:
    patch.setattr(ridge, "ACCUMULATED_ROUNDING", 0.0)
