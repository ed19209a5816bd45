"""How a bug is planted, and the cases on which the laws are tried against it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from .cases import Case

Law = Callable[[Any, Case], None]
Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

CASE = Case(
    seed=1,
    heads=2,
    segment_length=4,
    d_k=3,
    d_v=2,
    document_ids=(
        (-1, -1, 0, 0, 0, 0, 0, -1, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2),
        (0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, -1, -1),
    ),
    begun=True,
)
PACKED = replace(CASE, packed=True, masked=True)
SMALL = replace(CASE, segment_length=2, document_ids=((0,) * 5,))
WEIGHTED = replace(SMALL, weighted=True)
LONG = replace(CASE, segment_length=32, document_ids=((0,) * 128,))


class Bug(NamedTuple):
    """A bug by the name of the function that plants it, the memory it is seen in, and the law that sees it."""

    plant: Plant
    row: str
    law: Law
    case: Case


BUGS: list[Bug] = []


def killed_by(law: Law, row: str, case: Case = CASE) -> Callable[[Plant], Plant]:
    """Put the decorated plant on the list of bugs."""

    def register(plant: Plant) -> Plant:
        BUGS.append(Bug(plant, row, law, case))
        return plant

    return register
