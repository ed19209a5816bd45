"""The suite: which mechanism tests are run on which memories, in an order that a progress bar can follow."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from palimpsest.errors import InputError
from palimpsest.memory import FEATURE_MAPS
from palimpsest.probes.mechanism import ageing, capacity, interference, numerics
from palimpsest.probes.mechanism.cells import FULL, QUICK, Effort
from palimpsest.probes.mechanism.draws import SPARSE, STANDARD, WIDE, check_size
from palimpsest.probes.mechanism.subjects import Subject, known_names, subjects
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord

SIZES, QUICK_SIZES = (16, 32, 64, 128), (64,)
USUAL_SIZE = 64
"""The size at which tests are made that are made at one size; or that nearest to it."""

MORE_FEATURES = {"token_delta": ("elu1_l2", "dpfp3_l2")}
"""Feature maps, beside those of its configuration, with which a kind goes through all tests."""

CODES, FEW_CODES = 1024, 256
SWEEP = (0.25, 0.5, 1, 2, 4, 8, 16)
"""Loads of the curves of all feature maps, as multiples of the size."""
SWEEP_DRAWS = 10

Records = Callable[[], Iterator[MechanismRecord]]


class Job(NamedTuple):
    """One test of one memory: what it is called, and what makes its records."""

    name: str
    records: Records


class _Scope(NamedTuple):
    """What a test is run on."""

    memories: list[Subject]
    features: Sequence[str] | None
    sizes: tuple[int, ...]
    effort: Effort
    seed: int

    @property
    def size(self) -> int:
        """The one size of tests that take one."""
        return min(self.sizes, key=lambda size: (abs(size - USUAL_SIZE), size))

    @property
    def distinct(self) -> list[Subject]:
        """The memories that differ in more than their arithmetic."""
        return [subject for subject in self.memories if not subject.arithmetic]


def run_mechanism(
    tests: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    quick: bool = False,
) -> list[MechanismRecord]:
    """Test memories alone, with synthetic keys and values; nothing is trained.

    Args:
        tests: names in ``TESTS``; all if None.
        kinds: kinds of memory; all if None.
        features: feature maps; if None those of each kind's configuration in every test, and all in a sweep of
            capacity.
        sizes: sizes of keys and values.
        seed: of keys and values; a cell depends on it alone, not on what else is run.
        quick: fewer draws and loads, for a look of some seconds.

    Raises:
        InputError: an unknown name, features that fit none of the kinds, a size below 2.
    """
    return [record for job in jobs(tests, kinds, features, sizes, seed, quick) for record in job.records()]


def jobs(
    tests: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    quick: bool = False,
) -> list[Job]:
    """Return the jobs that ``run_mechanism`` does one after the other."""
    chosen = list(TESTS) if tests is None else list(dict.fromkeys(tests))
    known_names("mechanism test", chosen, TESTS)
    if sizes is not None and not sizes:
        raise InputError("No size is named: keys and values need one, such as 64.")
    for size in sizes or ():
        check_size(size)
    memories = subjects(kinds, features)
    if features is None and not quick:
        memories += [each.with_features(f) for each in memories for f in MORE_FEATURES.get(each.name, ())]
    widths = tuple(sorted(set(sizes or (QUICK_SIZES if quick else SIZES))))
    scope = _Scope(memories, features, widths, QUICK if quick else FULL, seed)
    return [job for test in chosen for job in TESTS[test](scope)]


def _capacity(scope: _Scope) -> Iterator[Job]:
    for subject in scope.memories:
        for size in scope.sizes:
            loads = capacity.loads_of(size, scope.effort)
            for law, code in (
                (STANDARD, Code(CODES, size)),
                (SPARSE, Code(CODES, size)),
                (STANDARD, Code(FEW_CODES, size, unit=False)),
            ):
                curve = capacity.Curve(law, size, code, loads)
                yield _job("capacity", subject, partial(capacity.capacity, subject, curve, scope.effort, scope.seed))
    if scope.features is None and scope.effort is FULL:
        yield from _sweep(scope)


def _sweep(scope: _Scope) -> Iterator[Job]:
    """Yield the capacity of every kind with every feature map that it takes, but for those done already."""
    effort = Effort(draws=SWEEP_DRAWS, loads=SWEEP)
    done = {(subject.name, subject.features) for subject in scope.memories}
    curve = capacity.Curve(STANDARD, scope.size, Code(CODES, scope.size), capacity.loads_of(scope.size, effort))
    plain = [subject for subject in scope.distinct if not subject.option]
    for name in dict.fromkeys(subject.name for subject in plain):
        first = next(subject for subject in plain if subject.name == name)
        for features in FEATURE_MAPS:
            if first.takes(features) and (name, features) not in done:
                subject = first.with_features(features)
                yield _job("capacity", subject, partial(capacity.capacity, subject, curve, effort, scope.seed))


def _features(scope: _Scope) -> Iterator[Job]:
    for name in FEATURE_MAPS if scope.features is None else dict.fromkeys(scope.features):
        for law in (STANDARD, SPARSE, WIDE) if scope.effort is FULL else (STANDARD,):
            yield Job(f"features {name}", partial(capacity.features, name, law, scope.size))


def _interference(scope: _Scope) -> Iterator[Job]:
    for subject in scope.distinct:
        make = partial(interference.interference, subject, scope.size, scope.effort, scope.seed)
        yield _job("interference", subject, make)


def _overwriting(scope: _Scope) -> Iterator[Job]:
    for subject in scope.distinct:
        for law in (STANDARD, WIDE):
            make = partial(interference.overwriting, subject, law, scope.size, scope.effort, scope.seed)
            yield _job("overwriting", subject, make)
        make = partial(interference.replacement, subject, SPARSE, scope.size, scope.effort, scope.seed)
        yield _job("overwriting", subject, make)


def _age(scope: _Scope) -> Iterator[Job]:
    for subject in scope.distinct:
        yield _job("age", subject, partial(ageing.age, subject, scope.size, scope.effort, scope.seed))


def _compressions(scope: _Scope) -> Iterator[Job]:
    for subject in scope.distinct:
        for law in (STANDARD, SPARSE):
            make = partial(ageing.compressions, subject, law, max(scope.sizes), scope.effort, scope.seed)
            yield _job("compressions", subject, make)


def _filler(scope: _Scope) -> Iterator[Job]:
    for subject in scope.distinct:
        make = partial(ageing.filler, subject, STANDARD, max(scope.sizes), scope.effort, scope.seed)
        yield _job("filler", subject, make)


def _precision(scope: _Scope) -> Iterator[Job]:
    for subject in scope.memories:
        if subject.features in MORE_FEATURES.get(subject.name, ()) and scope.features is None:
            continue  # rounding does not ask where features come from
        yield _job("precision", subject, partial(numerics.precision, subject, scope.size, scope.effort, scope.seed))
        plain = not subject.option and subject.spec.width(scope.size) == scope.size
        # longer segments say the same of every state, at a price
        for length in scope.effort.segments if plain else scope.effort.segments[:1]:
            make = partial(numerics.saturation, subject, length, scope.size, scope.effort, scope.seed)
            yield _job("precision", subject, make)


def _bytes(scope: _Scope) -> Iterator[Job]:
    for subject in scope.memories:
        for size in scope.sizes:
            yield _job("bytes", subject, partial(numerics.size_in_bytes, subject, size, scope.seed))


def _job(test: str, subject: Subject, records: Records) -> Job:
    return Job(f"{test} {subject.name} {subject.features}", records)


TESTS: dict[str, Callable[[_Scope], Iterator[Job]]] = {
    "capacity": _capacity,
    "features": _features,
    "interference": _interference,
    "overwriting": _overwriting,
    "age": _age,
    "compressions": _compressions,
    "filler": _filler,
    "precision": _precision,
    "bytes": _bytes,
}
"""What there is to test, by name."""
