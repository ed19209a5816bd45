"""Filler of the symbolic tasks: documents that speak a few words of their own in an order of their own.

A document speaks ``TOPIC`` of the 128 filler words; each of them is followed by one of ``SUCCESSORS`` words drawn for
that document. So the entropy of a next word is log 128 to who knows nothing, about log 16 to who remembers the topic,
and log 2 to who remembers what followed what: a model can lower its loss by remembering the document, however far back.
"""

import math

import numpy as np
from numpy.typing import NDArray

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.vocabulary import FILLER

TOPIC = 16
SUCCESSORS = 2

ENTROPY = math.log(SUCCESSORS)
"""Nats per word to who knows the whole chain of a document."""


class Chain:
    """The filler of one document, a Markov chain of order 1 drawn from a label."""

    def __init__(self, draws: Draws) -> None:
        topic = draws.subset(FILLER.size, TOPIC) + FILLER.start
        # the successors of a word are different words, so that its entropy is log 2 exactly
        followers = np.argsort(draws.bits(TOPIC * TOPIC).reshape(TOPIC, TOPIC), 1, kind="stable")[:, :SUCCESSORS]
        self._words: list[int] = topic.tolist()
        self._next: list[list[int]] = followers.tolist()

    def speak(self, draws: Draws, count: int) -> NDArray[np.int32]:
        """Return ``[count]`` words, begun at a random one."""
        if not count:
            return np.empty(0, dtype=np.int32)
        state = draws.integer(0, TOPIC - 1)
        words, follow = self._words, self._next
        said = []
        for turn in draws.integers(SUCCESSORS, count).tolist():
            said.append(words[state])
            state = follow[state][turn]
        return np.array(said, dtype=np.int32)
