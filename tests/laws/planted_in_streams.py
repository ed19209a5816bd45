"""Bugs in ``scan``, ``parallel`` and the layout of segments."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.memory.base import Tokens
from palimpsest.memory.layout import Layout

from . import number_laws as numbers
from . import stream_laws as streams
from .planted import PACKED, SMALL, WEIGHTED, Patch, killed_by

# by name, since palimpsest.memory.parallel is also the name of a function
base, layout, linear, parallel, recurrence = (
    importlib.import_module(f"palimpsest.memory.{name}")
    for name in ("base", "layout", "linear", "parallel", "recurrence")
)


def patch_loop(patch: Patch, step: Callable[..., tuple[Tensor, Any]]) -> None:
    """Replace the body of the scan: ``step(memory, state, tokens)`` returns what is read and the next state."""

    def loop(memory: Any, tokens: Tokens, n: int, state: Any) -> tuple[Tensor, Any]:
        outs = []
        for segment in tokens.split(n):
            out, state = step(memory, state, segment)
            outs.append(out)
        return torch.cat(outs, 2), state

    patch.setattr(base, "_scan_document", loop)


def write(memory: Any, state: Any, tokens: Tokens) -> Any:
    return memory.write(state, tokens.k, tokens.v, keep=tokens.keep, strength=tokens.strength)


@killed_by(streams.law_no_token_sees_its_own_segment_or_a_later_one, "linear")
def scan_writes_before_it_reads(patch: Patch) -> None:
    def step(memory: Any, state: Any, tokens: Tokens) -> tuple[Tensor, Any]:
        state = write(memory, state, tokens)
        return memory.read(state, tokens.q), state

    patch_loop(patch, step)


@killed_by(numbers.law_gradients_equal_finite_differences, "linear", SMALL)
def scan_detaches_between_segments(patch: Patch) -> None:
    def step(memory: Any, state: Any, tokens: Tokens) -> tuple[Tensor, Any]:
        written = write(memory, state, tokens)
        return memory.read(state, tokens.q), type(written)(*(leaf.detach() for leaf in written))

    patch_loop(patch, step)


@killed_by(numbers.law_gradients_equal_finite_differences, "delta-inclusive", WEIGHTED)
def scan_detaches_the_strength(patch: Patch) -> None:
    def step(memory: Any, state: Any, tokens: Tokens) -> tuple[Tensor, Any]:
        strength = None if tokens.strength is None else tokens.strength.detach()
        return memory.read(state, tokens.q), write(memory, state, tokens._replace(strength=strength))

    patch_loop(patch, step)


@killed_by(streams.law_queries_write_nothing, "linear")
def scan_writes_queries_as_keys(patch: Patch) -> None:
    def step(memory: Any, state: Any, tokens: Tokens) -> tuple[Tensor, Any]:
        return memory.read(state, tokens.q), write(memory, state, tokens._replace(k=tokens.q))

    patch_loop(patch, step)


@killed_by(streams.law_any_split_equals_the_whole, "linear")
def scan_ignores_the_state_it_is_given(patch: Patch) -> None:
    loop = base._scan_document

    def fresh(memory: Any, tokens: Tokens, n: int, state: Any) -> Any:
        return loop(memory, tokens, n, base.init_like(memory, tokens.q, tokens.v))

    patch.setattr(base, "_scan_document", fresh)


@killed_by(numbers.law_backward_cost_is_linear, "linear")
def scan_slices_one_long_tensor(patch: Patch) -> None:
    def loop(memory: Any, tokens: Tokens, n: int, state: Any) -> Any:
        outs = []
        for a in range(0, tokens.q.shape[2], n):
            outs.append(memory.read(state, tokens.q[:, :, a : a + n]))
            state = memory.write(state, tokens.k[:, :, a : a + n], tokens.v[:, :, a : a + n])
        return torch.cat(outs, 2), state

    patch.setattr(base, "_scan_document", loop)


@killed_by(numbers.law_backward_cost_is_linear, "linear")
def scan_fills_one_long_output(patch: Patch) -> None:
    def loop(memory: Any, tokens: Tokens, n: int, state: Any) -> Any:
        out = torch.zeros_like(tokens.v)
        for i, segment in enumerate(tokens.split(n)):
            out[:, :, i * n : i * n + segment.q.shape[2]] = memory.read(state, segment.q)
            state = write(memory, state, segment)
        return out, state

    patch.setattr(base, "_scan_document", loop)


@killed_by(streams.law_reset_equals_a_fresh_memory, "linear")
def scan_never_resets(patch: Patch) -> None:
    documents = base._documents

    def one_document(ids: list[int]) -> tuple[list[int], list[int]]:
        places, _ = documents(ids)
        return places, [len(places)]

    patch.setattr(base, "_documents", one_document)


@killed_by(streams.law_packed_documents_equal_each_alone, "linear")
def scan_gives_padding_a_place(patch: Patch) -> None:
    documents = base._documents

    def padding_included(ids: list[int]) -> tuple[list[int], list[int]]:
        filled = list(ids)
        for place in range(1, len(filled)):
            if filled[place] < 0:
                filled[place] = filled[place - 1]
        return documents(filled)

    patch.setattr(base, "_documents", padding_included)


@killed_by(numbers.law_state_is_float32_or_float64, "linear")
def state_in_the_dtype_of_the_inputs(patch: Patch) -> None:
    patch.setattr(base, "state_dtype", lambda dtype: dtype)


@killed_by(streams.law_parallel_equals_scan, "linear")
def parallel_prefix_includes_its_own_segment(patch: Patch) -> None:
    def inclusive(initial: Tensor, increments: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        before, after = recurrence.additive_prefixes(initial, increments, reset)
        return before + increments, after

    patch.setattr(linear, "additive_prefixes", inclusive)


@killed_by(streams.law_parallel_equals_scan, "linear")
def parallel_final_state_lacks_the_last_segment(patch: Patch) -> None:
    def early(initial: Tensor, increments: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        before, _ = recurrence.additive_prefixes(initial, increments, reset)
        return before, before[:, :, -1]

    patch.setattr(linear, "additive_prefixes", early)


@killed_by(streams.law_parallel_equals_scan, "linear", PACKED)
def parallel_never_resets(patch: Patch) -> None:
    patch.setattr(
        linear,
        "additive_prefixes",
        lambda initial, increments, reset: recurrence.additive_prefixes(initial, increments, None),
    )


@killed_by(streams.law_reset_equals_a_fresh_memory, "linear")
def parallel_resets_all_but_the_normaliser(patch: Patch) -> None:
    def only_matrix(initial: Tensor, increments: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        return recurrence.additive_prefixes(initial, increments, reset if initial.dim() == 4 else None)

    patch.setattr(linear, "additive_prefixes", only_matrix)


@killed_by(streams.law_parallel_equals_scan, "delta-inclusive")
def recurrence_multiplies_pairs_in_the_wrong_order(patch: Patch) -> None:
    apply = recurrence._apply

    def swapped(transition: Tensor, value: Tensor, product: bool) -> Tensor:
        both_transitions = product and value.shape[-1] == value.shape[-2]
        return apply(value, transition, product) if both_transitions else apply(transition, value, product)

    patch.setattr(recurrence, "_apply", swapped)


@killed_by(streams.law_parallel_equals_scan, "ridge")
def parallel_drops_a_ragged_tail(patch: Patch) -> None:
    def whole_segments_only(self: Layout, x: Tensor) -> Tensor:
        whole = self.tokens // self.segment_length * self.segment_length
        padded = F.pad(x[:, :, :whole], (0, 0, 0, self.segments * self.segment_length - whole))
        return padded.unflatten(2, (self.segments, self.segment_length))

    patch.setattr(Layout, "fold", whole_segments_only)


@killed_by(streams.law_packed_documents_equal_each_alone, "delta-exclusive")
def parallel_gives_padding_a_slot(patch: Patch) -> None:
    def padding_included(document_ids: Tensor, segment_length: int) -> Layout:
        filled = torch.where(document_ids < 0, document_ids[:, 4:5], document_ids)
        return layout.segment_layout(filled, segment_length)

    patch.setattr(parallel, "segment_layout", padding_included)


@killed_by(streams.law_parallel_equals_scan, "ridge", WEIGHTED)
def parallel_ignores_the_strength(patch: Patch) -> None:
    def unweighted(memory: Any, *stream: Any) -> Any:
        return memory.prefixes(*stream[:-1], None)

    patch.setattr(parallel, "segment_states", unweighted)
