"""Measures of the evidence itself: what overlaps with the training text, what runs again, whether tasks measure."""

from collections.abc import Sequence

from palimpsest.records import FigureRecord, Provenance, Series, ValidityRecord
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, estimate
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, facts_of, needs_some, series

PERFECT, ONE_SIDED = "perfect_recall", "needle_removed"
LIBRARIES = ("python", "torch", "transformers", "numpy")


class AuditGiven(Closed):
    """Nothing to choose: all evaluated texts, all canaries."""


class RerunGiven(Closed):
    """Nothing to choose: every training that was made again, and the manifest of every training."""


class ValidityGiven(Closed):
    """Nothing to choose: every version of every task that the study asks."""


def audit(findings: Findings, given: AuditGiven) -> Measured:
    """Count what the held-out texts of a corpus share with its training text, and the canaries that were found.

    Quantities: ``long_matches``, texts with a longer match than the audit allows; ``ngram_share``, the share of texts
    with an n-gram of the training text; ``canaries``, the share of planted passages that were found. All are counts of
    the whole corpus, not samples; the facts have the intervals that they would have as samples (Clopper-Pearson).
    """
    needs_some(findings.audited, "records of a contamination audit")
    needs_some(findings.canaries, "canaries of a contamination audit")
    long = [record for record in findings.audited if "longest_match" in record.reasons]
    hits = [float(record.hits > 0) for record in findings.audited]
    found = [float(canary.found) for canary in findings.canaries]
    quantities = {
        "long_matches": count_of(len(long), len(hits)),
        "ngram_share": count_of(sum(hits) / len(hits), len(hits)),
        "canaries": count_of(sum(found) / len(found), len(found)),
    }
    facts = facts_of(quantities) | {
        "n-gram share, as a sample": estimate(hits, method="clopper_pearson").record(),
        "canaries found, as a sample": estimate(found, method="clopper_pearson").record(),
    }
    lengths = sorted((record.longest_tokens for record in findings.audited), reverse=True)
    figure = FigureRecord(
        title="Longest match of every held-out text with the training text",
        caption=_audited(findings),
        x_label="held-out texts, longest match first",
        y_label="tokens",
        series=(
            Series(
                name="longest match",
                x=tuple(map(float, range(1, len(lengths) + 1))),
                y=tuple(map(float, lengths)),
                points=True,
            ),
        ),
    )
    dirty = ", ".join(record.document_id for record in long[:10])
    note = f"Texts with a long match: {dirty}. " if dirty else ""
    note += "Losses on clean and on dirty texts are not compared"
    if findings.spec.corpus is None:
        note += ": no model of this study is trained on this corpus"
    note += "."
    return Measured(quantities, facts, figure, ("audit", "canaries"), note)


def rerun(findings: Findings, given: RerunGiven) -> Measured:
    """Compare the weights of trainings that were made twice, and look for gaps in the manifests of all trainings.

    Quantities: ``different``, trainings whose weights differ in any bit; ``gaps``, fields of a manifest that are empty;
    ``reruns``, how many trainings were made again.
    """
    needs_some([*findings.reruns], "trainings that were made again")
    needs_some([*findings.provenance], "manifests of trainings")
    different = [arm for arm, (first, again) in findings.reruns.items() if first != again]
    gaps = {run: missing for run, made in findings.provenance.items() if (missing := gaps_of(made))}
    quantities = {
        "different": count_of(len(different), len(findings.reruns)),
        "gaps": count_of(sum(map(len, gaps.values())), len(findings.provenance)),
        "reruns": count_of(len(findings.reruns), len(findings.reruns)),
    }
    note = f"Trained again: {', '.join(findings.reruns)}; manifests of {len(findings.provenance)} trainings."
    if different:
        note += f" The weights differ for {', '.join(different)}."
    if gaps:
        (arm, seed), missing = next(iter(gaps.items()))
        note += f" The manifest of '{arm}' (seed {seed}) lacks {', '.join(missing)}."
    if any(made.git_dirty for made in findings.provenance.values()):
        note += " Some trainings ran on a working tree with changes that are not committed."
    return Measured(quantities, facts_of(quantities), None, ("rerun", "train"), note)


def validity(findings: Findings, given: ValidityGiven) -> Measured:
    """Let answerers that are known take every task: one that forgets nothing, others that cannot know.

    Quantities: ``perfect``, the lowest share of exact answers of perfect recall; ``astray``, how many pairs of a task
    and an answerer that cannot know are off the floor that the task names: its Clopper-Pearson interval, made wide
    enough for all pairs together (Bonferroni), leaves the floor out. An answerer that reads all but the needles may be
    below the floor, but not above it.
    """
    needs_some(findings.validity, "records of the validity of tasks")
    perfect = [record for record in findings.validity if record.responder == PERFECT]
    blind = [record for record in findings.validity if record.responder != PERFECT]
    if not perfect or not blind:
        raise Missing("The tasks were not answered both by perfect recall and by answerers that cannot know.")

    def interval(record: ValidityRecord, level: float) -> Estimate:
        outcomes = [1.0] * record.exact + [0.0] * (record.n - record.exact)
        return estimate(outcomes, method="clopper_pearson", level=1 - (1 - level) / len(blind))

    def astray(level: float) -> Estimate:
        off = [record for record in blind if is_off(record, interval(record, level))]
        return count_of(len(off), min(record.n for record in findings.validity))(level)

    lowest = min(perfect, key=lambda record: record.exact / record.n)
    shown = [record for record in blind if is_off(record, interval(record, LEVEL))]
    quantities = {"perfect": count_of(lowest.exact / lowest.n, lowest.n), "astray": astray}
    figure = FigureRecord(
        title="Answerers that cannot know, against the floor that the task names",
        caption=f"{len(findings.validity)} pairs of a task and an answerer, {lowest.n} items each; intervals hold for "
        "all pairs together. On the diagonal, the score is the floor.",
        x_label="floor",
        y_label="share of exact answers",
        series=tuple(
            series(
                responder,
                [(record.floor, interval(record, LEVEL)) for record in blind if record.responder == responder],
                dots=True,
            )
            for responder in dict.fromkeys(record.responder for record in blind)
        ),
        share=True,
    )
    note = _offences(shown) if shown else ""
    if lowest.exact < lowest.n:
        note = f"Perfect recall fails {lowest.n - lowest.exact} of {lowest.n} items of {_task(lowest)}. {note}"
    return Measured(quantities, facts_of(quantities), figure, ("validity",), note.strip())


def is_off(record: ValidityRecord, found: Estimate) -> bool:
    """Whether the interval of an answerer that cannot know leaves out the floor of the task."""
    above = found.low > record.floor
    return above or (record.responder != ONE_SIDED and found.high < record.floor)


def gaps_of(made: Provenance) -> list[str]:
    """Return what a manifest does not say."""
    said: dict[str, object] = {
        **{f"the version of {library}": made.versions.get(library) for library in LIBRARIES},
        **{
            name: getattr(made, name)
            for name in ("hardware", "cores", "git_commit", "recipe_sha256", "data_fingerprint", "seeds", "parameters")
        },
        "flops": made.flops,
        "started": made.started,
    }
    return [name for name, value in said.items() if not value]


def _audited(findings: Findings) -> str:
    setting = findings.audit
    if setting is None:
        return f"{len(findings.audited)} texts."
    return (
        f"{', '.join(setting.evaluated)} against {setting.training}: {setting.training_documents:,} training "
        f"documents, n-grams of {setting.ngram} words, matches of up to {setting.longest_allowed} {setting.unit} are "
        "allowed."
    )


def _offences(records: Sequence[ValidityRecord]) -> str:
    return "Off the floor: " + "; ".join(_offence(record) for record in records[:10]) + "."


def _offence(record: ValidityRecord) -> str:
    return f"{record.responder} on {_task(record)}, {record.exact} of {record.n} where the floor is {record.floor:.3g}"


def _task(record: ValidityRecord) -> str:
    return f"{record.task} {record.knobs}"


MEASURES: dict[str, Measure] = {
    "contamination": Measure(AuditGiven, audit, always("long_matches", "ngram_share", "canaries")),
    "rerun": Measure(RerunGiven, rerun, always("different", "gaps", "reruns")),
    "suite_validity": Measure(ValidityGiven, validity, always("perfect", "astray")),
}
