"""What memories do by themselves, nothing trained."""

from typing import Literal

from palimpsest.records.base import Record


class MechanismSetting(Record):
    """What was done to one memory in one cell of a mechanism test: synthetic keys and values, nothing trained.

    Attributes:
        test: the name of the test.
        kind: the kind of memory, as in a configuration.
        memory: the kind, with the option that differs from its defaults.
        features: the feature map.
        keys: the distribution of a key's numbers, as in ``N(0,1)`` (mean, variance).
        size: d, of keys and of values.
        segment_length: tokens per segment.
        load: pairs, or tokens, that were written.
        codes: V, how many values there are; the answer is the one that has the largest product with the read. None
            where nothing is decoded.
        unit_codes: whether values have length one; otherwise their numbers are normal with variance 1 / d.
        decoding: ``raw``, or ``centred``: the mean read is taken away first.
        age: writes since the pair was written.
        rewrites: how often every key was written again, with another value.
        similarity: cosine between two keys.
        filler: whether the load is pairs that never come again, or a few that are repeated.
        strength: how much of each token of the load was written.
        updates: segments that were written.
        state: the precision that the state was rounded to after every write.
    """

    test: str
    kind: str
    memory: str
    features: str
    keys: str
    size: int
    segment_length: int
    load: int
    codes: int | None = None
    unit_codes: bool = True
    decoding: Literal["raw", "centred"] | None = None
    age: int | None = None
    rewrites: int | None = None
    similarity: float | None = None
    filler: Literal["novel", "repeated"] | None = None
    strength: float | None = None
    updates: int | None = None
    state: Literal["float32", "bfloat16"] = "float32"


class MechanismRecord(MechanismSetting):
    """What was measured in that cell (``records/mechanism.jsonl``), and what theory says.

    Attributes:
        measure: what ``mean`` is the mean of.
        mean: over all draws, in [``low``, ``high``] at 95 %.
        n: outcomes behind the mean.
        draws: the mean of each independent draw of keys and values, the unit that was sampled.
        method: of the interval.
        theory: the prediction, None without one.
        law: the name of the prediction.
    """

    measure: str
    mean: float
    low: float
    high: float
    n: int
    draws: tuple[float, ...]
    method: str
    theory: float | None = None
    law: str | None = None
