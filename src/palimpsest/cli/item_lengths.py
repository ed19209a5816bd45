"""How long the items of an evaluation are: which lengths a task can have, and which are taken unless some are given."""

from collections.abc import Sequence

from palimpsest.errors import InputError
from palimpsest.tasks import Passkey, Task
from palimpsest.tasks.symbolic.base import SymbolicTask
from palimpsest.tasks.text.base import TextTask
from palimpsest.tasks.text.haystack import NoRoom

MULTIPLES = (1, 2, 4)
"""Lengths that are taken unless given, in units of the longest that a model was trained on."""

TRIED = 3
"""Items that must fit, for a length to be taken."""

NEAR = {True: 4096, False: 64}
"""How far from a length every other one is tried, for symbolic tasks and for those in text, which cost more."""

LONGEST = 1 << 18


def usual_lengths(task: Task, trained: int) -> list[int]:
    """Return 1, 2 and 4 times the trained length, or the least that items can have, each moved to one that fits.

    Raises:
        InputError: no item of any length can be made.
    """
    least = nearest_length(task, trained)
    return list(dict.fromkeys(nearest_length(task, least * multiple) for multiple in MULTIPLES))


def check_lengths(task: Task, lengths: Sequence[int]) -> None:
    """Check that items of these lengths can be made.

    Raises:
        InputError: one cannot; the sentence names one that can.
    """
    for length in lengths:
        try:
            task.sample(split="evaluation", seed=0, index=0, length=length, depth=None)
        except InputError as error:
            if not isinstance(task, SymbolicTask):  # the others name a length themselves
                raise
            near = _search(task, length)
            hint = "no length that was tried can be had" if near is None else f"the nearest length that fits is {near}"
            raise InputError(f"{error}; {hint}") from error


def nearest_length(task: Task, wanted: int) -> int:
    """Return the length nearest to ``wanted`` that items can have; of two equally near the shorter.

    Raises:
        InputError: there is none.
    """
    if isinstance(task, Passkey):
        return task.nearest_length(wanted, at_most=max(wanted, task.minimum_length))
    found = _search(task, wanted)
    if found is None:
        task.sample(split="evaluation", seed=0, index=0, length=wanted, depth=None)  # its sentence says why
        raise InputError(f"no {task.name} item of up to {LONGEST} tokens can be made with these knobs")
    return found


def _search(task: Task, wanted: int) -> int | None:
    """Return the nearest length that fits; beyond the lengths that are all tried, longer ones alone."""
    near = NEAR[isinstance(task, SymbolicTask)]
    for gap in range(near):
        for length in dict.fromkeys((wanted - gap, wanted + gap)):
            if length > 0 and _fits(task, length):
                return length
    low, high = wanted + near, 2 * (wanted + near)
    while high <= LONGEST and not _fits(task, high):
        low, high = high, 2 * high
    while high <= LONGEST and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(task, middle) else (middle, high)
    return high if high <= LONGEST else None


def _fits(task: Task, length: int) -> bool:
    """Whether items of exactly this length can be made."""
    try:
        for index in range(TRIED):
            if isinstance(task, TextTask):  # its samples, where they do not fit, look for a length that does
                task.write(f"fits|{length}|{index}", "evaluation", length, None, together=False)
            else:
                task.sample(split="evaluation", seed=0, index=index, length=length, depth=None)
    except (NoRoom, InputError):
        return False
    return True
