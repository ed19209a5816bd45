"""Benchmarks: named cases that first prove that what they time is right, and then time it.

A case whose numbers are wrong reports no time.
"""

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.errors import InputError, nearest
from palimpsest.memory import DeltaMemory, LinearMemory, Memory, RidgeMemory, parallel, scan
from palimpsest.records import Measurement, Record
from palimpsest.testing import relative_rms
from palimpsest.training.provenance import measurement

TOLERANCE = 1e-9
"""Largest relative RMS error in float64 between two forms that are meant to be equal."""
LINEAR = 4.4
"""Largest ratio of the time at four times the tokens that counts as linear cost."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65536
"""Parameters of glibc's ``mallopt`` (malloc.h), and what they are unless set."""
TOKENS = (8192, 32768)
REPEATS = 7
MEMORIES: dict[str, Memory] = {"linear": LinearMemory(), "delta": DeltaMemory(), "ridge": RidgeMemory()}
FORMS = {"parallel": parallel, "scan": scan}


class Shape(Record):
    """Sizes of a stream ``[batch, heads, tokens, head_dim]`` in segments."""

    batch: int = 1
    heads: int = 4
    head_dim: int = 32
    segment_length: int = 256


class Equality(Record):
    """The largest relative RMS error of ``parallel`` against ``scan`` over outputs, state and gradients, in float64."""

    memory: str
    tokens: int
    error: float
    worst: str

    @property
    def holds(self) -> bool:
        """Whether the error is one of rounding."""
        return self.error < TOLERANCE


class Timing(Record):
    """Forward and backward of one form, every run, by number of tokens.

    Attributes:
        seconds: elapsed time, which on a shared machine counts the waiting for a core too.
        cpu_seconds: the time this process was computing, which is the cost.
    """

    memory: str
    form: str
    seconds: dict[int, list[float]]
    cpu_seconds: dict[int, list[float]]

    @property
    def median_seconds(self) -> dict[int, float]:
        """The median elapsed time for each number of tokens."""
        return {tokens: statistics.median(runs) for tokens, runs in self.seconds.items()}

    @property
    def median_cpu_seconds(self) -> dict[int, float]:
        """The median cost for each number of tokens."""
        return {tokens: statistics.median(runs) for tokens, runs in self.cpu_seconds.items()}

    @property
    def ratio(self) -> float:
        """The median cost at the most tokens divided by that at the fewest."""
        medians = self.median_cpu_seconds
        return medians[max(medians)] / medians[min(medians)]


class BenchRecord(Measurement):
    """One run of a case, with what is needed to judge it."""

    case: str
    allocator: str
    load_average: tuple[float, float, float]
    shape: Shape
    equalities: list[Equality]
    timings: list[Timing]

    @property
    def holds(self) -> bool:
        """Whether every equality holds; if not, there are no timings."""
        return all(equality.holds for equality in self.equalities)


class Effort(NamedTuple):
    """How much a run measures: numbers of tokens to time, the first of which is also compared, and timed repeats."""

    tokens: tuple[int, ...] = TOKENS
    repeats: int = REPEATS


STANDARD = Effort()


def run_case(name: str, effort: Effort = STANDARD) -> BenchRecord:
    """Run a case.

    Raises:
        InputError: there is no such case.
    """
    if name not in CASES:
        raise InputError(f"--case: there is no case '{name}'.{nearest(name, CASES)}")
    return CASES[name](effort)


def parallel_vs_scan(effort: Effort) -> BenchRecord:
    """Compare ``parallel`` with ``scan``, the definition, and time both forward and backward, on one thread of the CPU.

    All runs are interleaved in one process, so that whatever else the machine does falls on all of them alike.
    """
    shape, began, load = Shape(), measurement(threads=1), os.getloadavg()
    with _steady() as allocator:
        equalities = [_equality(name, memory, shape, effort.tokens[0]) for name, memory in MEMORIES.items()]
        timings = _timings(shape, effort) if all(equality.holds for equality in equalities) else []
    return BenchRecord(
        **dict(began),
        case="parallel_vs_scan",
        allocator=allocator,
        load_average=load,
        shape=shape,
        equalities=equalities,
        timings=timings,
    )


def _equality(name: str, memory: Memory, shape: Shape, tokens: int) -> Equality:
    stream = _stream(shape, tokens, torch.float64)
    got, expected = (_pass(form, memory, stream, shape) for form in (parallel, scan))
    # relative_rms of something that is not finite is not finite, and such an equality does not hold
    errors = {key: relative_rms(got[key], value) for key, value in expected.items()}
    worst = max(errors, key=lambda key: (errors[key] != errors[key], errors[key]))
    return Equality(memory=name, tokens=tokens, error=errors[worst], worst=worst)


def _timings(shape: Shape, effort: Effort) -> list[Timing]:
    streams = {tokens: _stream(shape, tokens, torch.float32) for tokens in effort.tokens}
    timings = [
        Timing(
            memory=memory,
            form=form,
            seconds={tokens: [] for tokens in streams},
            cpu_seconds={tokens: [] for tokens in streams},
        )
        for memory in MEMORIES
        for form in FORMS
    ]
    for repeat in range(effort.repeats + 1):
        for timing in timings:
            for tokens, stream in streams.items():
                started, cpu_started = time.perf_counter(), time.process_time()
                _pass(FORMS[timing.form], MEMORIES[timing.memory], stream, shape)
                if repeat > 0:  # the first round warms up
                    timing.seconds[tokens].append(time.perf_counter() - started)
                    timing.cpu_seconds[tokens].append(time.process_time() - cpu_started)
    return timings


def _stream(shape: Shape, tokens: int, dtype: torch.dtype) -> list[Tensor]:
    """Return random q, k, v and the gradient of the output, ``[B, H, T, D]`` each."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch, shape.heads, tokens, shape.head_dim)
    return [torch.randn(size, generator=generator, dtype=dtype) for _ in range(4)]


def _pass(form: Callable, memory: Memory, stream: list[Tensor], shape: Shape) -> dict[str, Tensor]:
    """Run forward and backward and return outputs, leaves of the state and gradients by name."""
    *inputs, upstream = stream
    q, k, v = (tensor.clone().requires_grad_() for tensor in inputs)
    out, state = form(memory, q, k, v, segment_length=shape.segment_length)
    # the state takes part in the loss too, or the writes of the last segment would go unchecked
    loss = (out * upstream).sum() + sum(leaf.sum() for leaf in state)
    gradients = torch.autograd.grad(loss, (q, k, v))
    leaves = {f"state {name}": leaf for name, leaf in zip(state._fields, state, strict=True)}
    return {"output": out, **leaves, **{f"gradient of {x}": g for x, g in zip("qkv", gradients, strict=True)}}


@contextmanager
def _steady() -> Iterator[str]:
    """Compute on one thread, with an allocator that keeps what is freed, and yield what the allocator was told.

    By default glibc hands large blocks back to the system after every pass, and the next pass faults them in again page
    by page. That takes up to 40 % of the time at 32K tokens and nothing at 8K, and has nothing to do with the memories.
    """
    threads = torch.get_num_threads()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    torch.set_num_threads(1)
    kept = mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
    try:
        yield "glibc, freed memory is kept" if kept else "default"
    finally:
        torch.set_num_threads(threads)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
            mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)


CASES: dict[str, Callable[[Effort], BenchRecord]] = {"parallel_vs_scan": parallel_vs_scan}
