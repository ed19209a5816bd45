"""How the text of an item is read without a model: the seam between tasks and the reference answerers of ``toys``.

A task gives a ``Parser`` for its name. It works on the decoded words of an item and nothing else, shares no code with
what makes the items, and so proves that the answer is in the text.
"""

from collections.abc import Callable
from typing import NamedTuple

from palimpsest.tasks.draws import Draws


class Excerpt(NamedTuple):
    """What a reader may see of an item.

    Attributes:
        context: the haystack, or its last part.
        question: what is asked.
        whole: whether ``context`` is all of the haystack.
    """

    context: str
    question: str
    whole: bool


class Parser(NamedTuple):
    """How one task is read.

    Attributes:
        answer: gives what the context says about the question, as ``Sample.answer`` writes it, or None where this
            excerpt leaves it open. Must be right whenever the excerpt is whole.
        guess: gives one answer at random among those that a whole context offers, without regard to which of them is
            asked for; where it offers one only, any answer of this form. It reaches ``Task.floor``.
    """

    answer: Callable[[Excerpt], str | None]
    guess: Callable[[Excerpt, Draws], str]
