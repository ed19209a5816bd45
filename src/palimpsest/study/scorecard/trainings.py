"""The trainings that led to a model."""

from collections.abc import Mapping

from palimpsest.study.plan import Stage


def trainings(last: Stage, by_name: Mapping[str, Stage]) -> list[Stage]:
    """Return a training stage and those that it goes on from, the first one first."""
    chain = [last]
    while before := [by_name[name] for name in chain[0].inputs if by_name[name].kind == "train"]:
        chain[:0] = before
    return chain
