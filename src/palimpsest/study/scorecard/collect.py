"""Gather what the stages of a scorecard found into ``records/``, judge the rows, and write the page."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from palimpsest.attention.kinds import exact_reach
from palimpsest.records import Record, ScorecardArm, ScorecardRecord, write_json, write_jsonl
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.findings import Findings, load_findings
from palimpsest.study.scorecard.judge import judge_rows
from palimpsest.study.scorecard.samples import shown_items
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.scorecard.texts import CORPUS, tokenizer_of
from palimpsest.study.stages import is_done


def collect_scorecard(
    spec: ScorecardSpec, stages: Sequence[Stage], root: Path, out: Path, *, deviations: list[str], opened: list[str]
) -> Path:
    """Write ``out/records`` and ``out/report`` from all finished stages and return the path of the page.

    Args:
        spec: the study.
        stages: its plan.
        root: the directory that holds one directory per stage.
        out: the directory of the study.
        deviations: how the study differs from what was fixed before its first run.
        opened: when items of test seeds were opened.
    """
    from palimpsest.report.scorecard import write_scorecard  # matplotlib, which the workers of a study do not need

    findings = load_findings(spec, stages, root)
    records = out / "records"
    shutil.rmtree(records, ignore_errors=True)
    tokenizer = tokenizer_of({stage.kind: root / stage.directory for stage in stages if stage.kind == CORPUS})
    for name, items in findings.items.items():
        write_jsonl(records / "items" / f"{name}.jsonl.gz", items)
        shown = shown_items(spec.ask[name], items, tokenizer, spec.segment_length)
        write_jsonl(records / "items" / f"{name}.samples.jsonl.gz", shown)
    for path, found in _tables(findings).items():
        if found:
            write_jsonl(records / path, found)
    for (arm, seed), phases in findings.steps.items():
        write_jsonl(records / "metrics" / f"{arm}-s{seed}.jsonl.gz", [step for phase in phases for step in phase])
    for (arm, seed), found in findings.turns.items():
        write_jsonl(records / "turns" / f"{arm}-s{seed}.jsonl", found)
    write_json(records / "scorecard.json", scorecard_record(findings, stages, root, deviations, opened))
    return write_scorecard(records, out / "report")


def scorecard_record(
    findings: Findings, stages: Sequence[Stage], root: Path, deviations: list[str], opened: list[str]
) -> ScorecardRecord:
    """Judge the rows, and say what they are about."""
    spec = findings.spec
    judgement = judge_rows(findings)
    missing = [stage.name for stage in stages if not is_done(stage, root)]
    if missing:
        deviations = [*deviations, f"{len(missing)} of {len(stages)} stages have not been run, such as {missing[0]}."]
    return ScorecardRecord(
        name=spec.name,
        question=spec.question.strip(),
        sha256=spec.sha256,
        seeds=spec.seeds,
        arms=tuple(_arm(findings, name) for name in spec.arms),
        segment_length=spec.segment_length,
        deviations=tuple(deviations),
        opened=tuple(opened),
        rows=judgement.rows,
        untested=dict(spec.untested),
        trained=dict(judgement.trained),
        provenance={f"{arm}-s{seed}": found for (arm, seed), found in findings.provenance.items()},
    )


def _arm(findings: Findings, name: str) -> ScorecardArm:
    spec, arm = findings.spec, findings.spec.arms[name]
    attention, layers = spec.attention(name), spec.model_of(name).num_hidden_layers
    kinds = tuple(attention.kind(layer) for layer in range(layers))
    trained = [found for (who, _), found in findings.provenance.items() if who == name]
    return ScorecardArm(
        name=name,
        kinds=tuple(dict.fromkeys(kinds)),
        memory=attention.memory.kind if "memory" in kinds else None,
        parameters=trained[0].parameters if trained else 0,
        learning_rate=arm.learning_rate,
        phases=arm.phases,
        reach=exact_reach(attention, layers),
    )


def _tables(findings: Findings) -> Mapping[str, Sequence[Record]]:
    """Return everything that is not an item, by the file it goes to."""
    tables: dict[str, Sequence[Record]] = {
        "usage/profile.jsonl.gz": findings.profiles,
        "usage/effects.jsonl": findings.effects,
        "cost/cost.jsonl": findings.costs,
        "mechanism/mechanism.jsonl.gz": findings.mechanism,
        "validity/validity.jsonl": findings.validity,
        "audit/audit.jsonl": findings.audited,
        "audit/canaries.jsonl": findings.canaries,
    }
    for kind in ("positions", "places", "perturbations", "forgetting"):
        tables |= {f"documents/{name}.{kind}.jsonl.gz": found for name, found in getattr(findings, kind).items()}
    return tables
