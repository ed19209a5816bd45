"""Bugs in features, in the Hebbian memory and in sums that fade."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.memory import FEATURE_MAPS, DecayedRidgeMemory, FastWeights, HebbianMemory, RidgeMemory, decayed_ridge

from . import memory_laws as only
from . import number_laws as numbers
from . import stream_laws as streams
from .planted import CASE, PACKED, WEIGHTED, Patch, killed_by


def patch_features(patch: Patch, name: str, apply: Callable[[Tensor], Tensor]) -> None:
    """Let a feature map compute something else."""
    patch.setitem(FEATURE_MAPS, name, FEATURE_MAPS[name]._replace(apply=apply))


@killed_by(streams.law_equals_the_equations, "linear-dpfp2")
def dpfp_forgets_the_negative_half(patch: Patch) -> None:
    def halved(x: Tensor) -> Tensor:
        r = torch.cat([x.relu(), x.relu()], -1)
        return torch.cat([r * r.roll(-1, -1), r * r.roll(-2, -1)], -1)

    patch_features(patch, "dpfp2", halved)


@killed_by(streams.law_keep_false_writes_nothing, "linear-softmax")
def softmax_is_over_the_tokens(patch: Patch) -> None:
    patch_features(patch, "softmax", lambda x: x.softmax(-2))


@killed_by(streams.law_keep_false_writes_nothing, "ridge-elu1_centred")
def centred_over_the_tokens(patch: Patch) -> None:
    elu1 = FEATURE_MAPS["elu1"].apply
    patch_features(patch, "elu1_centred", lambda x: elu1(x) - elu1(x).mean(-2, keepdim=True))


@killed_by(numbers.law_gradients_are_finite, "hebbian")
def norm_of_a_zero_vector_is_not_guarded(patch: Patch) -> None:
    patch_features(patch, "identity_l2", lambda x: x * x.square().sum(-1, keepdim=True).rsqrt())


@killed_by(streams.law_equals_the_equations, "hebbian")
def hebbian_divides_by_a_sum(patch: Patch) -> None:
    read = HebbianMemory.read

    def divided(self: HebbianMemory, state: FastWeights, q: Tensor) -> Tensor:
        return read(self, state, q) / (1.0 + self.features.apply(q).abs().sum(-1, keepdim=True))

    patch.setattr(HebbianMemory, "read", divided)


def patch_segment(patch: Patch, change: Callable[..., tuple[Any, ...]]) -> None:
    """Let a decayed ridge memory see other tokens: ``change`` returns keys, values, keep and strength."""
    segment: Callable[..., Any] = DecayedRidgeMemory._segment

    def changed(self: DecayedRidgeMemory, *tokens_and_dtype: Any) -> Any:
        *tokens, dtype = tokens_and_dtype
        return segment(self, *change(*tokens), dtype)

    patch.setattr(DecayedRidgeMemory, "_segment", changed)


@killed_by(streams.law_keep_false_writes_nothing, "decayed-ridge")
def what_is_not_kept_ages(patch: Patch) -> None:
    def counted(k: Tensor, v: Tensor, keep: Any, strength: Any) -> tuple[Any, ...]:
        return k, v, None, strength if keep is None else keep[:, None].expand(k.shape[:-1])

    patch_segment(patch, counted)


@killed_by(streams.law_equals_the_equations, "decayed-ridge", replace(CASE, weighted=True))
def what_has_no_strength_does_not_age(patch: Patch) -> None:
    def skipped(k: Tensor, v: Tensor, keep: Any, strength: Any) -> tuple[Any, ...]:
        written = None if strength is None else (strength > 0.0).all(1)
        return k, v, written if keep is None or written is None else keep & written, strength

    patch_segment(patch, skipped)


def patch_ages(patch: Patch, change: Callable[[Tensor], Tensor]) -> None:
    faded = DecayedRidgeMemory._faded
    patch.setattr(DecayedRidgeMemory, "_faded", lambda self, age: faded(self, change(age)))


@killed_by(only.law_segments_may_be_cut_anywhere, "decayed-ridge")
def time_is_counted_in_segments(patch: Patch) -> None:
    patch_ages(patch, lambda age: age.clamp_max(1.0) if age.shape[-1] == 1 else torch.zeros_like(age))


@killed_by(streams.law_equals_the_equations, "decayed-ridge")
def the_latest_token_has_aged_already(patch: Patch) -> None:
    patch_ages(patch, lambda age: age + 1.0)


@killed_by(streams.law_parallel_equals_scan, "decayed-ridge", PACKED)
def prefixes_do_not_fade(patch: Patch) -> None:
    prefixes = decayed_ridge.fading_prefixes
    patch.setattr(decayed_ridge, "fading_prefixes", lambda x, factors, *rest: prefixes(x, factors**0, *rest))


@killed_by(numbers.law_gradients_equal_finite_differences, "decayed-ridge", WEIGHTED)
def no_gradient_flows_to_the_decay(patch: Patch) -> None:
    faded = DecayedRidgeMemory._faded
    patch.setattr(DecayedRidgeMemory, "_faded", lambda self, age: faded(self, age).detach())


@killed_by(only.law_a_rewrite_fades_the_old_value, "decayed-ridge")
def only_the_gram_matrix_fades(patch: Patch) -> None:
    write = DecayedRidgeMemory.write

    def unfaded(self: DecayedRidgeMemory, state: Any, k: Tensor, v: Tensor, **options: Any) -> Any:
        ageless = replace(self, log_decay=0.0)
        written = write(ageless, state, k, v, **options)
        return written._replace(gram=write(self, state, k, v, **options).gram)

    patch.setattr(DecayedRidgeMemory, "write", unfaded)


@killed_by(only.law_without_decay_equals_ridge, "decayed-ridge")
def lambda_fades_too(patch: Patch) -> None:
    patch.setattr(DecayedRidgeMemory, "_ridge", lambda self: RidgeMemory(self.features, 0.9 * self.ridge))
