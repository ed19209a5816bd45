"""Judge the claims of a study on its records."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, PositionLossRecord, VerdictRecord
from palimpsest.statistics import Estimate, decide, estimate, estimate_across_seeds
from palimpsest.statistics.seeds import contrast_of_models
from palimpsest.study.plan import THE_ONE, Evaluation
from palimpsest.study.spec import ClaimSpec


class Outcome(NamedTuple):
    """One number: of which seed, of which unit (item or document), in which cluster."""

    seed: int
    unit: str
    value: float


def judge(
    claims: Sequence[ClaimSpec],
    items: Sequence[ItemRecord],
    losses: Sequence[PositionLossRecord],
    *,
    main: Evaluation = THE_ONE,
) -> list[VerdictRecord]:
    """Return the verdict on every claim whose arms have been evaluated.

    With one seed the interval is over items: a statement about those checkpoints. With several it is over seeds, at
    least as wide as that over items: a statement about the way of training. ``main`` is the evaluation whose records
    lie at the top of the study's.
    """
    return [verdict for claim in claims if (verdict := _judge(claim, items, losses, main)) is not None]


def _judge(
    claim: ClaimSpec, items: Sequence[ItemRecord], losses: Sequence[PositionLossRecord], main: Evaluation
) -> VerdictRecord | None:
    def outcomes(arm: str, intervention: str = "none") -> list[Outcome]:
        if claim.measure == "accuracy":
            return _accuracy(claim, items, arm, intervention)
        return _loss(claim, losses, arm, intervention)

    own = outcomes(claim.arm)
    other = None
    if claim.against is not None:
        other = outcomes(claim.against)
    elif claim.intervention is not None:
        other = outcomes(claim.arm, claim.intervention)
    if not own or other == []:
        return None
    found = {}
    for name, need in claim.rule.requires.items():
        source = {"estimate": own, "intervened": other, "difference": own}[need.quantity]
        assert source is not None
        if need.quantity == "difference":
            assert other is not None
            found[name] = _difference(claim, *_paired(claim, own, other), need.level)
        else:
            found[name] = _mean(claim, source, need.level)
    return VerdictRecord(
        claim=claim.id,
        statement=claim.statement,
        rule=claim.rule.sentence(),
        verdict=decide(claim.rule, found),
        estimates={name: number.record() for name, number in found.items()},
        sentence=_in_words(claim, found),
        items=sorted({_file(claim, arm, o.seed, main) for arm in (claim.arm, claim.against) if arm for o in own}),
    )


def _accuracy(claim: ClaimSpec, items: Sequence[ItemRecord], arm: str, intervention: str) -> list[Outcome]:
    return [
        Outcome(item.seed, item.item_id, float(item.exact if claim.score == "exact" else item.contains))
        for item in items
        if item.arm == arm
        and item.intervention == intervention
        and Evaluation.of_facts(item.facts) == (claim.grid, claim.trained)
        and (not claim.lengths or nominal_length(item) in claim.lengths)
        and (not claim.depths or item.depth in claim.depths)
        and not (claim.memory_only and item.locally_reachable)
    ]


def nominal_length(item: ItemRecord) -> float | str:
    """Return the length by which the study file names an item: in characters, if its grid counts them."""
    return item.facts.get("nominal", item.length)


def _loss(claim: ClaimSpec, losses: Sequence[PositionLossRecord], arm: str, intervention: str) -> list[Outcome]:
    """Return the mean loss of every document over the positions that count, in nats per token."""
    sums: dict[tuple[int, str], tuple[float, int]] = {}
    for record in losses:
        if record.arm != arm or record.intervention != intervention or record.position_start < claim.from_position:
            continue
        nll, tokens = sums.get((record.seed, record.document_id), (0.0, 0))
        sums[record.seed, record.document_id] = (nll + record.nll, tokens + record.tokens)
    return [Outcome(seed, name, nll / tokens) for (seed, name), (nll, tokens) in sums.items()]


def _paired(claim: ClaimSpec, own: list[Outcome], other: list[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Bring two lists into the same order of seeds and units."""
    a, b = ({(o.seed, o.unit): o for o in outcomes} for outcomes in (own, other))
    if a.keys() != b.keys():
        raise InputError(
            f"claim '{claim.id}': its two sides have {len(a)} and {len(b)} items, of which only "
            f"{len(a.keys() & b.keys())} are the same; evaluate both sides on the same items."
        )
    return [a[key] for key in sorted(a)], [b[key] for key in sorted(a)]


def _mean(claim: ClaimSpec, outcomes: list[Outcome], level: float) -> Estimate:
    values = [o.value for o in outcomes]
    seeds = [o.seed for o in outcomes]
    within = "clopper_pearson" if claim.measure == "accuracy" else "t"
    if len(set(seeds)) == 1:
        return estimate(values, method=within, level=level)
    return estimate_across_seeds(values, seeds, within=within, level=level)


def _difference(claim: ClaimSpec, own: list[Outcome], other: list[Outcome], level: float) -> Estimate:
    a, b = [o.value for o in own], [o.value for o in other]
    seeds = [o.seed for o in own]
    method = "mcnemar_newcombe" if claim.measure == "accuracy" else "paired_t"
    return contrast_of_models(a, b, seeds, within=method, level=level)


def _file(claim: ClaimSpec, arm: str, seed: int, main: Evaluation) -> str:
    if claim.measure == "loss":
        return f"position_loss/{arm}-s{seed}"
    folder = Evaluation(claim.grid, claim.trained).folder(main)
    return f"{'' if folder == '.' else f'{folder}/'}items/{arm}-s{seed}"


def _in_words(claim: ClaimSpec, found: Mapping[str, Estimate]) -> str:
    """Say in plain words what was found."""
    parts = []
    if "estimate" in found:
        what = "the keys" if claim.measure == "accuracy" else "the loss"
        verb = "finds {} of" if claim.measure == "accuracy" else "has {} as"
        parts.append(f"{claim.arm} {verb.format(_amount(claim, found['estimate']))} {what}")
    if "difference" in found or "difference_90" in found:
        difference = found.get("difference", found.get("difference_90"))
        assert difference is not None
        amount = _amount(claim, difference, signed=True)
        if claim.against is None:
            parts.append(f"{claim.intervention} costs {claim.arm} {amount}")
        else:
            parts.append(f"{claim.arm} minus {claim.against} is {amount}")
    if "intervened" in found:
        parts.append(f"{_amount(claim, found['intervened'])} is left")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _amount(claim: ClaimSpec, number: Estimate, *, signed: bool = False) -> str:
    """Return a number with its interval: percent or points for accuracy, nats per token for loss."""
    sign = "+" if signed else ""
    if claim.measure == "loss":
        text, unit = [f"{x:{sign}.3f}" for x in (number.mean, number.low, number.high)], " nats"
    else:
        text = [f"{100 * x:{sign}.1f}" for x in (number.mean, number.low, number.high)]
        unit = " points" if signed else " %"
    return f"{text[0]}{unit} ({100 * number.level:g} % interval {text[1]} to {text[2]}, n = {number.n})"
