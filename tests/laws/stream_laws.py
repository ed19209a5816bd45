"""Laws of what is read and written where: streams, segments, documents, rows. All in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palimpsest.memory import Memory, state_bytes
from palimpsest.testing import assert_close

from . import cases as on
from .cases import Case, State, Stream, with_gradients
from .oracles import Head, oracle


def law_empty_reads_zero(memory: Memory[Any], case: Case) -> None:
    q = case.stream().q
    assert _all_zero(memory.read(case.empty(memory), q)), "an empty memory does not read zero"
    for form, run in on.FORMS.items():
        out, _ = run(memory, *case.stream(), segment_length=case.segment_length)
        assert _all_zero(out[:, :, : case.segment_length]), f"{form}: the first segment does not read zero"


def law_equals_the_equations(memory: Memory[Any], case: Case) -> None:
    """Also where a token that is kept is written with no strength at all."""
    stream, keep, strength = case.stream(), case.mask(), case.strength()
    if strength is not None:
        strength = strength.masked_fill(case.normal(12, *strength.shape) > 1.0, 0.0)
    weights = torch.ones(stream.k.shape[:3]) if strength is None else strength
    expected = np.zeros(stream.v.shape)
    for b in range(case.batch):
        for h in range(case.heads):
            q, k, v, w = (x[b, h].numpy() for x in (*stream, weights))
            expected[b, h] = oracle(memory, Head(q, k, v, keep[b].numpy(), w, case.segment_length, h))
    for form, run in on.FORMS.items():
        out, _ = run(memory, *stream, segment_length=case.segment_length, keep=keep, strength=strength)
        assert_close(f"{form}: out", out, torch.from_numpy(expected))


def law_parallel_equals_scan(memory: Memory[Any], case: Case) -> None:
    expected = with_gradients(on.FORMS["scan"], memory, case)
    got = with_gradients(on.FORMS["parallel"], memory, case)
    for name, reference in expected.items():
        # gradients may cancel to nothing: a memory of one token answers every query alike
        magnitude = 1.0 if name.startswith("gradient") else 0.0
        assert_close(name, got[name], reference, magnitude=magnitude, seed=case.seed)


def law_any_split_equals_the_whole(memory: Memory[Any], case: Case) -> None:
    options = case.plain().options(memory) | {"keep": case.mask(), "strength": case.strength()}
    start = case.written_state(memory) if case.begun else None
    for form, run in on.FORMS.items():
        whole, final = run(memory, *case.stream(), **options | {"state": start})
        for cut in case.boundaries:
            state, outs = start, []
            for part in (slice(None, cut), slice(cut, None)):
                own = {"state": state, "keep": case.mask()[:, part], "strength": _of_tokens(case.strength(), part)}
                out, state = run(memory, *case.stream().tokens(part), **options | own)
                outs.append(out)
            assert_close(f"{form}: out, cut at {cut}", torch.cat(outs, 2), whole)
            assert_states_close(f"{form}: state, cut at {cut}", state, final)


def law_no_token_sees_its_own_segment_or_a_later_one(memory: Memory[Any], case: Case) -> None:
    stream, other, n = case.stream(), case.stream(purpose=3), case.segment_length
    for form, run in on.FORMS.items():
        out, _ = run(memory, *stream, segment_length=n)
        for start in (0, *case.boundaries):
            changed = Stream(
                _spliced(stream.q, other.q, start + n),
                _spliced(stream.k, other.k, start),
                _spliced(stream.v, other.v, start),
            )
            again, _ = run(memory, *changed, segment_length=n)
            seen = slice(None, start + n)
            assert_close(f"{form}: out before {start + n}", again[:, :, seen], out[:, :, seen])


def law_queries_write_nothing(memory: Memory[Any], case: Case) -> None:
    stream, other = case.stream(), case.stream(purpose=3)
    for form, run in on.FORMS.items():
        out, state = run(memory, *stream, segment_length=case.segment_length)
        even = torch.arange(case.length) % 2 == 0
        mixed = torch.where(even[:, None], stream.q, other.q)
        again, same = run(memory, mixed, stream.k, stream.v, segment_length=case.segment_length)
        assert_close(f"{form}: out of the unchanged queries", again[:, :, even], out[:, :, even])
        assert_states_close(f"{form}: state", same, state)


def law_state_does_not_grow(memory: Memory[Any], case: Case) -> None:
    empty = case.empty(memory)
    stream = case.stream()
    for form, run in on.FORMS.items():
        for repeats in (1, 3):
            longer = stream.map(lambda x, n=repeats: x.repeat(1, 1, n, 1))
            _, state = run(memory, *longer, segment_length=case.segment_length)
            assert type(state) is type(empty), f"{form}: a {type(state).__name__} after writing"
            assert state_bytes(state) == state_bytes(empty), f"{form}: state bytes grew"
            for name, leaf in state._asdict().items():
                shape = getattr(empty, name).shape
                assert leaf.shape == shape, f"{form}: {name} became {tuple(leaf.shape)}"
                assert leaf.shape[:2] == (case.batch, case.heads), f"{form}: {name} is not [B, H, ...]"


def law_reading_and_writing_are_pure(memory: Memory[Any], case: Case) -> None:
    (q, k, v), keep, state = case.stream(), case.mask(), case.written_state(memory)
    strength = replace(case, weighted=True).strength()
    assert strength is not None
    inputs = {"q": q, "k": k, "v": v, "keep": keep, "strength": strength, **state._asdict()}
    masks = {"keep": keep, "strength": strength}
    copies = {name: x.clone() for name, x in inputs.items()}
    calls = {
        "read": lambda: memory.read(state, q),
        "write": lambda: memory.write(state, k, v, **masks),
        **{
            form: lambda run=run: run(memory, q, k, v, segment_length=case.segment_length, state=state, **masks)
            for form, run in on.FORMS.items()
        },
    }
    for call, function in calls.items():
        function()
        for name, x in inputs.items():
            assert torch.equal(x, copies[name]), f"{call} changed its input {name}"


def law_reset_equals_a_fresh_memory(memory: Memory[Any], case: Case) -> None:
    stream, n = case.stream(), case.segment_length
    for form, run in on.FORMS.items():
        for cut in case.boundaries:
            ids = (torch.arange(case.length) >= cut).long().expand(case.batch, -1)
            out, state = run(memory, *stream, segment_length=n, document_ids=ids)
            head, _ = run(memory, *stream.tokens(slice(None, cut)), segment_length=n)
            tail, fresh = run(memory, *stream.tokens(slice(cut, None)), segment_length=n)
            assert_close(f"{form}: out, reset at {cut}", out, torch.cat([head, tail], 2))
            assert_states_close(f"{form}: state, reset at {cut}", state, fresh)


def law_packed_documents_equal_each_alone(memory: Memory[Any], case: Case) -> None:
    stream, keep, ids, strength = case.stream(), case.mask(), case.ids(), case.strength()
    start = case.written_state(memory) if case.begun else case.empty(memory)
    options: dict[str, Any] = {"segment_length": case.segment_length, "state": start}
    options |= {"keep": keep, "document_ids": ids, "strength": strength}
    for form, run in on.FORMS.items():
        out, final = run(memory, *stream, **options)
        for b in range(case.batch):
            row = stream.map(lambda x, b=b: x[b : b + 1])
            state = type(start)(*(leaf[b : b + 1] for leaf in start))
            expected = torch.zeros_like(row.v)
            for number, document in enumerate(_documents_of(case.document_ids[b])):
                alone, state = on.FORMS["scan"](
                    memory,
                    *row.tokens(document),
                    segment_length=case.segment_length,
                    state=state if number == 0 else None,
                    keep=keep[b : b + 1, document],
                    strength=None if strength is None else strength[b : b + 1, :, document],
                )
                expected[:, :, document] = alone.detach()
            assert_close(f"{form}: out of row {b}", out[b : b + 1], expected)
            assert_states_close(f"{form}: state of row {b}", type(final)(*(x[b : b + 1] for x in final)), state)


def law_keep_false_writes_nothing(memory: Memory[Any], case: Case) -> None:
    (_, k, v), keep, state = case.stream(), case.mask(), case.written_state(memory)
    nothing = memory.write(state, k, v, keep=torch.zeros_like(keep))
    assert_states_close("state after nothing was kept", nothing, state)
    written = memory.write(state, k, v, keep=keep)
    for b in range(case.batch):
        row, kept = slice(b, b + 1), keep[b]
        alone = memory.write(type(state)(*(x[row] for x in state)), k[row][:, :, kept], v[row][:, :, kept])
        assert_states_close(f"state of row {b}, kept tokens alone", type(state)(*(x[row] for x in written)), alone)


def law_strength_one_is_no_strength(memory: Memory[Any], case: Case) -> None:
    """Written with all its strength, a token is a token as ever: outputs, state, gradients."""
    ones = torch.ones(case.batch, case.heads, case.length, dtype=torch.float64)
    unweighted = replace(case, weighted=False)
    for form, run in on.FORMS.items():

        def at_full_strength(*stream: Any, run: on.Run = run, **options: Any) -> tuple[Tensor, State]:
            return run(*stream, **options | {"strength": ones})

        expected = with_gradients(run, memory, unweighted)
        got = with_gradients(at_full_strength, memory, unweighted)
        for name, reference in expected.items():
            magnitude = 1.0 if name.startswith("gradient") else 0.0
            assert_close(f"{form}: {name}", got[name], reference, magnitude=magnitude)


def law_rows_and_heads_never_touch(memory: Memory[Any], case: Case) -> None:
    """One row, and one head, amid NaN: outputs, state and gradients are those of the clean batch."""
    row, head = case.seed % case.batch, case.seed % case.heads
    parts = {f"row {row}": (slice(row, row + 1),), f"head {head}": (slice(None), slice(head, head + 1))}
    for form, run in on.FORMS.items():
        clean = _run_amid(run, memory, case, None)
        for which, part in parts.items():
            poisoned = _run_amid(run, memory, case, part)
            for name, reference in clean.items():
                assert_close(f"{form}: {name} of {which}, the others NaN", poisoned[name][part], reference[part])


def law_poison_stays_visible(memory: Memory[Any], case: Case) -> None:
    ones = torch.ones(case.batch, case.heads, case.length, dtype=torch.float64)
    for form, run in on.FORMS.items():
        for name in ("k", "v", "strength"):
            stream, strength = case.stream(), ones.clone()
            (strength if name == "strength" else getattr(stream, name))[:, :, 0] = torch.nan
            _, state = run(memory, *stream, segment_length=case.segment_length, strength=strength)
            answer = memory.read(state, stream.q)
            assert bool(answer.isnan().any(-1).all()), f"{form}: NaN was written in {name} and reads as numbers"


def law_what_is_not_written_is_never_read(memory: Memory[Any], case: Case) -> None:
    """Poison in keys and values that are not kept, and in padding, leaves every other number unchanged."""
    ids, keep = case.ids(), case.mask()
    for form, run in on.FORMS.items():
        results = []
        for poison in (0.0, torch.nan):
            padding = (ids < 0)[:, None, :, None]
            unwritten = padding | ~keep[:, None, :, None]
            q, k, v = case.stream()
            stream = Stream(
                q.masked_fill(padding, poison),
                k.masked_fill(unwritten, poison),
                v.masked_fill(unwritten, poison),
            ).map(lambda x: x.requires_grad_())
            strength = case.strength()
            options: dict[str, Any] = {"segment_length": case.segment_length, "keep": keep, "document_ids": ids}
            options["strength"] = None if strength is None else strength.masked_fill(unwritten[..., 0], poison)
            out, state = run(memory, *stream, **options)
            loss = out.sum() + sum(leaf.sum() for leaf in state)
            gradients = [torch.zeros_like(x) for x in stream]
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, list(stream), materialize_grads=True)
            # what flows back into the poisoned places themselves is multiplied by NaN and means nothing
            gradients = [
                g.masked_fill(padding if name == "q" else unwritten, 0.0)
                for name, g in zip(stream._fields, gradients, strict=True)
            ]
            results.append({"out": out, **state._asdict(), **dict(zip(stream._fields, gradients, strict=True))})
        clean, poisoned = results
        for name, reference in clean.items():
            assert_close(f"{form}: {name}", poisoned[name], reference)


STREAM_LAWS = tuple(law for name, law in list(globals().items()) if name.startswith("law_"))


def law_strength_zero_writes_nothing(memory: Memory[Any], case: Case) -> None:
    """Not for memories that age with every kept token: there, a token written with strength zero passes the time."""
    stream, keep = case.stream(), case.mask()
    strength = replace(case, weighted=True).strength()
    assert strength is not None
    dropped = torch.where(keep[:, None], strength, 0.0)
    options = case.options(memory)
    for form, run in on.FORMS.items():
        out, state = run(memory, *stream, **options | {"keep": None, "strength": dropped})
        expected, reference = run(memory, *stream, **options | {"keep": keep, "strength": strength})
        assert_close(f"{form}: out", out, expected, magnitude=1.0)
        assert_states_close(f"{form}: state", state, reference)


def assert_states_close(name: str, got: State, expected: State) -> None:
    for field, leaf in got._asdict().items():
        assert_close(f"{name}: {field}", leaf, getattr(expected, field), magnitude=1.0)


def _run_amid(run: on.Run, memory: Memory[Any], case: Case, part: tuple[slice, ...] | None) -> dict[str, Tensor]:
    """Run a batch with NaN everywhere but in one part of it, or without NaN, and return all results by name."""
    stream, strength = case.stream(), case.strength()
    if part is not None:
        for x in stream if strength is None else (*stream, strength):
            spared = x[part].clone()
            x.fill_(torch.nan)[part] = spared
    stream = stream.map(lambda x: x.requires_grad_())
    out, state = run(memory, *stream, segment_length=case.segment_length, keep=case.mask(), strength=strength)
    # what belongs to one part has no gradient by the others, so that the whole clean batch needs one backward pass
    part = (slice(None),) if part is None else part
    loss = out[part].sum() + sum(leaf[part].sum() for leaf in state)
    gradients = torch.autograd.grad(loss, list(stream), materialize_grads=True)
    named = zip(stream._fields, gradients, strict=True)
    return {"out": out, **state._asdict(), **{f"gradient of {name}": g for name, g in named}}


def _documents_of(ids: tuple[int, ...]) -> list[list[int]]:
    """Return the places of each document in a row: padding is skipped, and an id that changes begins a document."""
    documents: list[list[int]] = []
    current = -1
    for place, document in enumerate(ids):
        if document < 0:
            continue
        if document != current:
            documents.append([])
            current = document
        documents[-1].append(place)
    return documents


def _of_tokens(strength: Tensor | None, part: slice) -> Tensor | None:
    return None if strength is None else strength[:, :, part]


def _spliced(x: Tensor, other: Tensor, start: int) -> Tensor:
    """Return x up to ``start`` and the other from there on."""
    return torch.cat([x[:, :, :start], other[:, :, start:]], 2)


def _all_zero(x: Tensor) -> bool:
    return bool((x == 0).all())
