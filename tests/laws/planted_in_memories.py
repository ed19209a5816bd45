"""Bugs in what a memory reads and writes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.memory import (
    AssociativeMemory,
    DeltaMemory,
    FastWeights,
    LinearMemory,
    LinearState,
    RidgeMemory,
    RidgeRootMemory,
    RidgeRootState,
    RidgeState,
    TokenDeltaMemory,
    associative,
    linear,
    ridge,
    token_delta,
    token_rules,
)
from palimpsest.memory.features import Mapped, mapped

from . import memory_laws as only
from . import number_laws as numbers
from . import stream_laws as streams
from .planted import CASE, LONG, PACKED, SMALL, WEIGHTED, Patch, killed_by


@killed_by(streams.law_reading_and_writing_are_pure, "linear")
def write_in_place(patch: Patch) -> None:
    def write(
        self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        phi_k, _, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        return LinearState(state.matrix.add_(phi_k.mT @ v), state.normaliser + phi_k.sum(-2))

    patch.setattr(LinearMemory, "write", write)


@killed_by(streams.law_state_does_not_grow, "linear")
def write_appends(patch: Patch) -> None:
    def write(
        self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        phi_k, _, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        return LinearState(torch.cat([state.matrix, v], 2), torch.cat([state.normaliser, phi_k.sum(-1)], 2))

    patch.setattr(LinearMemory, "write", write)
    patch.setattr(LinearMemory, "read", lambda self, state, q: q[..., :1].expand(*q.shape[:3], state.matrix.shape[-1]))


@killed_by(streams.law_rows_and_heads_never_touch, "linear")
def write_mixes_rows(patch: Patch) -> None:
    def write(
        self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        phi_k, _, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        return LinearState(state.matrix + (phi_k.mT @ v).flip(0), state.normaliser + phi_k.sum(-2))

    patch.setattr(LinearMemory, "write", write)


@killed_by(only.law_order_of_writes_is_irrelevant, "linear")
def write_fades_within_the_segment(patch: Patch) -> None:
    def faded(features: Any, k: Tensor, v: Tensor, *options: Any) -> Mapped:
        phi_k = features.apply(k)
        return Mapped(phi_k, phi_k, v * 0.9 ** torch.arange(v.shape[-2], dtype=v.dtype)[:, None])

    patch.setattr(linear, "mapped", faded)


@killed_by(streams.law_keep_false_writes_nothing, "ridge")
def keep_is_ignored(patch: Patch) -> None:
    patch.setattr(ridge, "mapped", lambda features, k, v, keep, *options: mapped(features, k, v, None, *options))


@killed_by(streams.law_what_is_not_written_is_never_read, "ridge")
def keep_is_a_product(patch: Patch) -> None:
    def product(features: Any, k: Tensor, v: Tensor, keep: Any, strength: Any, dtype: torch.dtype) -> Mapped:
        kept = 1.0 if keep is None else keep[:, None, ..., None].to(dtype)
        phi_k = features.apply(k.to(dtype)) * kept
        return Mapped(phi_k, phi_k, v.to(dtype) * kept)

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
    def rounded(features: Any, k: Tensor, v: Tensor, keep: Any, strength: Any, dtype: torch.dtype) -> Mapped:
        phi_k, weighted, v = mapped(features, k, v, keep, strength, dtype)
        return Mapped(phi_k, weighted.bfloat16().to(dtype) if dtype == torch.float32 else weighted, v)

    patch.setattr(linear, "mapped", rounded)


@killed_by(numbers.law_low_precision_errs_at_most_twice_plain_torch, "linear", LONG)
def sums_in_the_dtype_of_the_inputs(patch: Patch) -> None:
    def write(
        self: LinearMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
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

    def inclusive(
        self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        return write(replace(self, normaliser="inclusive"), state, k, v, keep=keep, strength=strength)

    patch.setattr(DeltaMemory, "write", inclusive)


@killed_by(only.law_write_is_a_contraction, "delta-inclusive", replace(CASE, document_ids=((0,) * 20,)))
def inclusive_delta_is_normalised_exclusively(patch: Patch) -> None:
    write = DeltaMemory.write

    def exclusive(
        self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        return write(replace(self, normaliser="exclusive"), state, k, v, keep=keep, strength=strength)

    patch.setattr(DeltaMemory, "write", exclusive)


@killed_by(only.law_first_segment_equals_linear, "delta-exclusive")
def delta_compares_keys_with_themselves(patch: Patch) -> None:
    def write(
        self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
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
    def write(
        self: RidgeMemory, state: RidgeState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> RidgeState:
        phi_k, _, v = mapped(self.features, k, v, keep, strength, state.gram.dtype)
        return RidgeState(phi_k.mT @ phi_k, state.matrix + phi_k.mT @ v)

    patch.setattr(RidgeMemory, "write", write)


def weigh_twice(features: Any, k: Tensor, v: Tensor, *options: Any) -> Mapped:
    phi_k, weighted, v = mapped(features, k, v, *options)
    return Mapped(phi_k, weighted, v) if weighted is phi_k else Mapped(weighted, weighted, v)


@killed_by(streams.law_equals_the_equations, "ridge", WEIGHTED)
def ridge_weighs_both_factors(patch: Patch) -> None:
    patch.setattr(ridge, "mapped", weigh_twice)


@killed_by(streams.law_strength_one_is_no_strength, "linear")
def strength_is_squashed_again(patch: Patch) -> None:
    def squashed(features: Any, k: Tensor, v: Tensor, keep: Any, strength: Any, dtype: torch.dtype) -> Mapped:
        return mapped(features, k, v, keep, None if strength is None else strength.sigmoid(), dtype)

    patch.setattr(linear, "mapped", squashed)


@killed_by(streams.law_strength_zero_writes_nothing, "delta-exclusive")
def delta_normalises_without_strength(patch: Patch) -> None:
    def write(
        self: DeltaMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        novel = v - linear.normalised_read(state, phi_k)
        return LinearState(state.matrix + weighted.mT @ novel, state.normaliser + phi_k.sum(-2))

    patch.setattr(DeltaMemory, "write", write)


@killed_by(only.law_root_equals_normal_equations, "ridge-root", WEIGHTED)
def root_takes_strength_for_its_root(patch: Patch) -> None:
    patch.setattr(ridge, "_root", lambda weights: weights)


@killed_by(only.law_root_equals_normal_equations, "ridge-root")
def root_does_not_rotate_its_target(patch: Patch) -> None:
    def write(
        self: RidgeRootMemory, state: RidgeRootState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> RidgeRootState:
        phi_k, _, v = mapped(self.features, k, v, keep, strength, state.root.dtype)
        orthogonal, root = torch.linalg.qr(torch.cat([state.root, phi_k], -2))
        return RidgeRootState(root, state.target + orthogonal[..., state.root.shape[-1] :, :].mT @ v)

    patch.setattr(RidgeRootMemory, "write", write)


@killed_by(only.law_rounded_sums_still_answer, "ridge")
def ridge_trusts_its_sums(patch: Patch) -> None:
    patch.setattr(ridge, "ACCUMULATED_ROUNDING", 0.0)


@killed_by(only.law_segments_may_be_cut_anywhere, "token-delta")
def tokens_of_a_segment_are_blind_to_each_other(patch: Patch) -> None:
    patch.setattr(token_rules, "_added", lambda k, novel, strength, worth: strength.unsqueeze(-1) * novel)


@killed_by(only.law_orthonormal_keys_are_recalled, "token-delta")
def token_delta_writes_less_than_all(patch: Patch) -> None:
    added = token_rules._added
    patch.setattr(token_rules, "_added", lambda k, novel, strength, worth: added(k, novel, 0.999 * strength, worth))


@killed_by(only.law_a_rewrite_replaces_the_old_value, "token-delta")
def token_delta_erases_nothing(patch: Patch) -> None:
    def write(state: FastWeights, phi: Tensor, v: Tensor, *options: Any, keep: Any) -> FastWeights:
        return FastWeights(state.matrix + phi.mT @ v)

    patch.setattr(token_delta, "delta_write", write)


@killed_by(streams.law_keep_false_writes_nothing, "token-delta-decay")
def tokens_that_are_not_kept_age_the_memory(patch: Patch) -> None:
    kept = token_rules._kept
    patch.setattr(token_rules, "_kept", lambda x, keep, features=True: kept(x, keep) if features else x)


@killed_by(streams.law_parallel_equals_scan, "token-delta-decay")
def transitions_do_not_age(patch: Patch) -> None:
    transition = token_delta.delta_transition

    def ageless(phi: Tensor, v: Tensor, strength: Any, log_decay: Any, *, keep: Any) -> tuple[Tensor, Tensor]:
        return transition(phi, v, strength, keep=keep)

    patch.setattr(token_delta, "delta_transition", ageless)


@killed_by(streams.law_equals_the_equations, "token-delta-decay")
def token_delta_takes_the_decay_of_the_other_head(patch: Patch) -> None:
    decays = TokenDeltaMemory._decays

    def flipped(self: TokenDeltaMemory, phi: Tensor) -> Tensor | None:
        found = decays(self, phi)
        return None if found is None else found.flip(1)

    patch.setattr(TokenDeltaMemory, "_decays", flipped)


@killed_by(only.law_a_known_key_is_not_counted_again, "associative")
def every_key_is_counted(patch: Patch) -> None:
    patch.setattr(associative, "_new_keys", lambda phi, normaliser: phi.sum(-2))


@killed_by(streams.law_parallel_equals_scan, "associative", PACKED)
def counted_keys_outlive_their_document(patch: Patch) -> None:
    normalisers = associative._normalisers
    patch.setattr(associative, "_normalisers", lambda initial, phi, reset: normalisers(initial, phi, None))


@killed_by(streams.law_equals_the_equations, "associative", WEIGHTED)
def strength_scales_what_is_counted(patch: Patch) -> None:
    write = AssociativeMemory.write

    def scaled(
        self: AssociativeMemory, state: LinearState, k: Tensor, v: Tensor, *, keep: Any = None, strength: Any = None
    ) -> LinearState:
        _, weighted, _ = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        counted = state.normaliser + associative._new_keys(weighted, state.normaliser)
        return write(self, state, k, v, keep=keep, strength=strength)._replace(normaliser=counted)

    patch.setattr(AssociativeMemory, "write", scaled)


@killed_by(numbers.law_gradients_equal_finite_differences, "associative", SMALL)
def no_gradient_flows_through_gamma(patch: Patch) -> None:
    new_keys = associative._new_keys

    def detached(phi: Tensor, normaliser: Tensor) -> Tensor:
        gamma = [new_keys(token.detach(), normaliser.detach()) / token.detach().sum(-2) for token in phi.split(1, -2)]
        return (torch.stack(gamma, -2).nan_to_num() * phi).sum(-2)

    patch.setattr(associative, "_new_keys", detached)


@killed_by(streams.law_poison_stays_visible, "associative", replace(SMALL, heads=1, d_k=2, seed=0))
def disjoint_features_hide_poison(patch: Patch) -> None:
    def divide(a: Tensor, b: Tensor) -> Tensor:
        empty = b <= linear.NEGLIGIBLE
        return torch.where(empty, 0.0, a / torch.where(empty, 1.0, b))

    patch.setattr(linear, "safe_divide", divide)
