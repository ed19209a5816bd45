"""Answers with known effects, for the measures that ask for many kinds of them."""

import numpy as np
from synthetic_answers import SEEDS, item, many

from palimpsest.records import ProfileRecord

NEEDLES = {
    "ask": ["asked"],
    "arm": "ridge",
    "x": "needles",
    "knots": 4,
    "crossings": {"k90": 0.9, "k50": 0.5},
    "at": {"supported": 64},
    "ratios": {"two_to_one": [2, 1]},
    "resamples": 200,
}


def loads(share_at, error="other_value"):
    """Answers about 1 to 128 pairs, of which a share is right that depends on how many there are."""
    draws = np.random.default_rng(5)
    return [
        item(f"{k}-{at}", draws.random() < share_at(k), seed=seed, facts={"needles": k}, error=error)
        for seed in SEEDS
        for k in (1, 2, 4, 8, 16, 32, 64, 128)
        for at in range(40)
    ]


EACH = 60


def drops(own, other):
    """Items whose needle is in segment 0, 1 or 2 of 4; ``own`` and ``other`` are right answers under a drop, of 60."""
    items = []
    for seed in SEEDS:
        for at in range(3 * EACH):
            segment = at % 3
            place = {"length": 64, "distance": 64 - 1 - (segment * 16 + 8), "needle_start": segment * 16 + 3}
            items.append(item(at, True, seed=seed, **place))
            for gone in range(3):
                right = at // 3 < (own if gone == segment else other)
                items.append(item(at, right, seed=seed, intervention=f"drop[{gone}]", **place))
    return items


PROFILE = {
    "checkpoint": "sha",
    "document_id": "d",
    "tokens": 64,
    "segment_length": 16,
    "layers": 2,
    "kind": "memory",
    "memory": "ridge",
    "features": "elu1",
    "state_bytes": 1,
    "gate": 0.5,
    "gate_initial": 0.5,
    "gate_shift": 0.0,
    "memory_output": 1.0,
    "local_output": 1.0,
    "read_norm": 1.0,
}
HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def halves(costs, rho):
    """Items of a model whose answers are lost in proportion to what heads are swapped, and what its heads say."""
    items, profiles = many(1.0), []
    for seed in SEEDS:
        for (layer, head), share in zip(HEADS, rho, strict=True):
            profiles.append(ProfileRecord(**PROFILE, arm="ridge", seed=seed, layer=layer, head=head, rho=share))

    def swapped(name, lost):
        return [item(at, at >= round(lost * 100), seed=seed, intervention=name) for seed in SEEDS for at in range(100)]

    items += swapped("swap", sum(costs))
    for a, (layer, head) in enumerate(HEADS):
        items += swapped(f"swap[layer={layer},head={head}]", costs[a])
        for b in range(a + 1, 4):
            first, second = (f"swap[layer={HEADS[i][0]},head={HEADS[i][1]}]" for i in (a, b))
            name = f"swap[layer={layer}]" if HEADS[b][0] == layer else f"{first}+{second}"
            items += swapped(name, costs[a] + costs[b])
    return items, profiles


def summary(number, told, seed, arm, length=256):
    """A summary of three facts, told at 20, 100 and near the end; ``told`` are those that are recalled."""
    names = ("n1 r1", "n2 r2", "n3 r3")
    starts = (20, 100, length - 16)
    said = " ".join(fact if right else f"{fact[:3]}r9" for fact, right in zip(names, told, strict=True))
    return item(
        number,
        all(told),
        seed=seed,
        arm=arm,
        length=length,
        distance=7,
        answer=" ".join(names),
        output=said,
        needle_end=starts[-1] + 3,
        facts={"starts": " ".join(map(str, starts)), "needles": 3},
    )
