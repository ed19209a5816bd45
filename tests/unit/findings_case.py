"""Records with known effects, for the measures that are not made of answers alone."""

from dataclasses import replace

import numpy as np
from synthetic_findings import SEEDS, head, losses, provenance, spec, steps

from palimpsest.records import (
    AuditRecord,
    EffectRecord,
    ItemRecord,
    LayerMetrics,
    MechanismRecord,
    PerturbationRecord,
    StateCostRecord,
    StepRecord,
    ValidityRecord,
)
from palimpsest.study.scorecard.findings import Findings


def cell(test, measure, share, *, load=16, theory=None, draws=24, asked=64, **changed):
    """A cell of a mechanism test of the linear memory with this share of right answers; ``changed`` replaces fields."""
    rng = np.random.default_rng(load)
    shares = tuple((rng.binomial(asked, share, draws) / asked).tolist())
    return MechanismRecord(
        test=test,
        kind="linear",
        memory="linear",
        features="elu1",
        keys="N(0,1)",
        segment_length=32,
        load=load,
        codes=1024,
        measure=measure,
        mean=float(np.mean(shares)),
        low=max(share - 0.05, 0.0),
        high=min(share + 0.05, 1.0),
        n=draws * asked,
        draws=shares,
        method="m",
        theory=theory,
        **{"size": 64, "decoding": "raw"} | changed,
    )


def recall(load, n50):
    """Recall that is one half at ``n50`` pairs."""
    return 1 / (1 + (load / n50) ** 3)


def curve(n50, predicted, *, size=64, decoding="raw"):
    """A capacity curve with a measured and a predicted n50."""
    return [
        cell(
            "capacity",
            "accuracy",
            recall(load, n50),
            load=load,
            theory=recall(load, predicted),
            size=size,
            decoding=decoding,
        )
        for load in (2, 4, 8, 16, 32, 64, 128)
    ]


def pairs(n50, seeds=SEEDS, per_load=30):
    """Answers of a trained model that recalls half of ``n50`` pairs."""
    rng = np.random.default_rng(5)
    return [
        ItemRecord(
            task="sym_multikey", version=1, item_id=f"{load}-{i}", arm="memory", seed=seed, checkpoint="c",
            intervention="none", length=512, depth=0.0, segment_length=16, needle_start=0, needle_end=3,
            question_start=500, distance=500, compressions=30, segments=32, locally_reachable=False, answer="1",
            output="1", exact=bool(rng.random() < recall(load, n50)), error_class="correct", rank=1, candidates=16,
            answer_logprob=-1.0, facts={"needles": load},
        )
        for seed in seeds
        for load in (1, 2, 4, 8, 16, 32, 64, 128)
        for i in range(per_load)
    ]  # fmt: skip


FACTORS = {"short_off": "short", "long_off": "local", "long_on": "memory"}
GAIN = {"documents": "text", "arm": "memory", "from_position": 16, "factors": FACTORS}
SHARE = {"documents": "text", "from_position": 16, "factors": FACTORS}


def text(levels, swapped=None, seeds=SEEDS, **more):
    """Losses of arms around these levels, and those of the memory when it is swapped."""
    records = losses(levels, seeds=seeds, **more)
    if swapped is not None:
        records += losses({"memory": swapped}, seeds=seeds, intervention="swap", noise=7)
    return Findings(spec(seeds), positions={"text": records})


MATCHED = {
    "documents": "text",
    "arm": "memory",
    "baselines": ["local", "window"],
    "from_position": 64,
    "ask": "passkey",
}


def answer(seed, index, exact, intervention, reachable_by=()):
    """An answer of the memory that no segment reaches, and perhaps the window of an arm."""
    return ItemRecord(
        task="passkey",
        version=1,
        item_id=f"i{index}",
        arm="memory",
        seed=seed,
        checkpoint="c",
        intervention=intervention,
        length=64,
        depth=0.0,
        segment_length=16,
        needle_start=0,
        needle_end=3,
        question_start=60,
        distance=58,
        compressions=3,
        segments=4,
        locally_reachable=False,
        answer="1",
        output="1",
        exact=exact,
        error_class="correct" if exact else "absent_value",
        rank=1,
        candidates=16,
        answer_logprob=-1.0,
        reachable_by=reachable_by,
        facts={"needles": 2 ** (index % 6)},
    )


def matched(levels, *, right=0.9, parameters=1000, tokens=1000):
    """Losses, sizes and tokens of arms, and answers: 100 that need the memory, 300 that a window reaches."""
    runs = [(arm, seed) for arm in levels for seed in SEEDS]
    sizes = {run: provenance(parameters if run[0] == "memory" else 1000) for run in runs}
    logs = {run: [steps(tokens=tokens if run[0] == "memory" else 1000)] for run in runs}
    items = [
        answer(seed, i, name == "none" and i < 100 * right, name)
        for seed in SEEDS
        for i in range(100)
        for name in ("none", "swap")
    ]
    reached = [
        answer(seed, 100 + i, True, name, ("window",))
        for seed in SEEDS
        for i in range(300)
        for name in ("none", "swap")
    ]
    return replace(text(levels), provenance=sizes, steps=logs, items={"passkey": items + reached})


SCHEDULE = {
    "documents": "text",
    "arm": "memory",
    "baseline": "local",
    "from_position": 16,
    "design": "schedules",
    "arm_schedules": ["memory", "full"],
    "baseline_schedules": ["local", "short", "window"],
}


def perturbed(rise, distances=(16, 64, 128)):
    """Losses that rise by ``rise(distance)`` where the text beyond a distance is that of another document."""
    rng = np.random.default_rng(3)
    return [
        PerturbationRecord(
            arm="memory",
            seed=seed,
            checkpoint="c",
            condition=condition,
            document_id=f"d{number}",
            other_id="o",
            context=192,
            distance=distance,
            segment_length=16,
            tokens=64,
            nll=64 * (2.0 + (rise(distance) if condition == "other" else 0.0) + rng.normal(0, 0.002)),
            not_finite=0,
        )
        for seed in SEEDS
        for number in range(20)
        for condition, distance in (("true", 192), *(("other", d) for d in distances))
    ]


def heads(seeds=SEEDS, **values):
    """Profiles of two heads in each of two layers, all alike."""
    return [head(seed, layer, number, **values) for seed in seeds for layer in (0, 1) for number in (0, 1)]


def effects(early, late):
    """What it costs to swap a head, in nats per token: of both heads of layer 0, and of layer 1."""
    rng = np.random.default_rng(2)
    return [
        EffectRecord(
            arm="memory", seed=seed, checkpoint="c", layer=layer, head=number, gate=0.5, rho=0.5,
            effect=tuple((mean / 2 + rng.normal(0, 0.002, 20)).tolist()),
        )
        for seed in SEEDS
        for layer, mean in ((0, early), (1, late))
        for number in (0, 1)
    ]  # fmt: skip


FORMULA = 4 * 2 * 2 * (32 * 32 + 32)
"""Bytes of the linear memory in all heads of all layers."""


def costs(sizes, seconds):
    """Bytes and time of the memory after four contexts, and the growing cache of full attention."""

    def cost(arm, context, memory, local, time):
        return StateCostRecord(
            arm=arm, seed=0, context=context, memory_bytes=memory, local_bytes=local, seconds_per_token=time,
            flops_per_token=1.0, parameters=1,
        )  # fmt: skip

    lengths = (1024, 4096, 16384, 65536)
    own = [cost("memory", *each) for each in zip(lengths, sizes, (9,) * 4, seconds, strict=True)]
    return own + [cost("full", length, 0, 1024 * length, 1.0) for length in lengths]


def audited(hits, reasons=()):
    """A held-out text with this many n-grams of the training text."""
    return AuditRecord(
        document_id="d", source="s", words=100, tokens=150, ngrams=88, hits=hits, covered=0.0, eightgrams_seen=0.0,
        longest_words=3, longest_tokens=60 if reasons else 4, same_id=False, boilerplate_cuts=0, reasons=reasons,
        offending=(), passages=(),
    )  # fmt: skip


def answered(responder, exact, n=1000, floor=0.25):
    """How many of n items an answerer that is known has right."""
    return ValidityRecord(
        task="t", knobs="{}", responder=responder, n=n, exact=exact, first=exact, floor=floor, ceiling=1.0
    )


UPDATES = 10


def run(norms, *, gates=(), loss=2.0, late=0.0):
    """Metrics of ten updates; norms per layer; the last two updates have ``late`` decades less of them."""
    return [
        [
            StepRecord(
                step=10 * number,
                tokens=number,
                loss=loss + (UPDATES - number) * 0.1,
                learning_rate=1e-3,
                gate_learning_rate=1e-2,
                grad_norm=1.0,
                skipped=0,
                seconds=1.0,
                layers=tuple(
                    LayerMetrics(
                        layer=layer,
                        kind="memory",
                        grad_norm=norm * 10 ** (-late if number > 8 else 0.0),
                        gates=tuple(0.5 + (gate - 0.5) * number / UPDATES for gate in gates),
                    )
                    for layer, norm in enumerate(norms)
                ),
            )
            for number in range(1, UPDATES + 1)
        ]
    ]


def of(**arms) -> Findings:
    """Metrics of trainings, made for each arm from the place of the seed among all."""
    return Findings(spec(), steps={(arm, seed): make(i) for arm, make in arms.items() for i, seed in enumerate(SEEDS)})


def gradients(shift, *, spread=0.05) -> Findings:
    """``local`` has norms of 1 and 2 in its layers; in ``memory`` those of layer 0 are ``shift`` decades larger."""
    return of(
        local=lambda i: run((1.0, 2.0)),
        memory=lambda i: run((10 ** (shift + spread * (i - 2)), 2.0), loss=2.5),
    )


def gates(mean: float, *, spread=0.02, reference=0.5) -> Findings:
    """Gates of ``memory`` that end at ``mean`` on average, and of ``local`` at ``reference``."""
    return of(
        local=lambda i: run((1.0, 1.0), gates=(reference, reference)),
        memory=lambda i: run((1.0, 1.0), gates=(mean - 0.25 + spread * (i - 2), mean + 0.25 + spread * (i - 2))),
    )
