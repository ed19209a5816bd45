"""Gather what the stages found into ``records/``, judge the claims, and write the report."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from palimpsest.attention.kinds import exact_reach
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.flops import flops_per_token
from palimpsest.models.streaming import prefill
from palimpsest.records import (
    ArmRecord,
    CostRecord,
    ItemRecord,
    PositionLossRecord,
    StepRecord,
    StudyRecord,
    read_jsonl,
    write_json,
)
from palimpsest.study.claims import judge, nominal_length
from palimpsest.study.kinds import AnyStudy
from palimpsest.study.plan import Evaluation, Stage, evaluations, main_evaluation
from palimpsest.study.preregistration import openings, preregister
from palimpsest.study.run import STAGES
from palimpsest.study.scorecard.collect import collect_scorecard
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.spec import StudySpec
from palimpsest.study.stages import is_done
from palimpsest.training import resolve_checkpoint

RECORDS = "records"


def collect(spec: AnyStudy, stages: Sequence[Stage], out: Path) -> Path:
    """Write ``out/records`` and ``out/report`` from all finished stages and return the path of the page."""
    transformers_logging.disable_progress_bar()
    deviations = preregister(spec, spec.sha256, out)
    if isinstance(spec, ScorecardSpec):
        opened = openings(spec, out)
        return collect_scorecard(spec, stages, out / STAGES, out, deviations=deviations, opened=opened)
    return _collect_study(spec, stages, out, deviations)


def _collect_study(spec: StudySpec, stages: Sequence[Stage], out: Path, deviations: list[str]) -> Path:
    from palimpsest.report import write_report  # matplotlib, which the workers of a study do not need

    root, records = out / STAGES, out / RECORDS
    shutil.rmtree(records, ignore_errors=True)
    finished = [stage for stage in stages if is_done(stage, root)]
    main = main_evaluation(spec)
    items: dict[Evaluation, list[ItemRecord]] = {each: [] for each in evaluations(spec)}
    losses: list[PositionLossRecord] = []
    for stage in finished:
        directory = root / stage.directory
        who = f"{stage.arm}-s{stage.seed}"
        if stage.kind == "finetune":
            runs = _training_runs(stage, finished)
            for run in runs:
                _copy(root / run.directory / "metrics.jsonl", records / "metrics" / f"{who}-{run.kind}.jsonl")
                _copy(root / run.directory / "provenance.json", records / "provenance" / f"{who}-{run.kind}.json")
            write_json(records / "cost" / f"{who}.json", _cost(spec, stage, runs, root))
        if stage.kind == "passkey":
            evaluation = Evaluation.of_facts(stage.settings.get("facts", {}))
            folder = records / evaluation.folder(main) / "items"
            path = _copy(directory / "items.jsonl", folder / f"{who}.jsonl")
            items[evaluation] += read_jsonl(path, ItemRecord)
        if stage.kind == "position_loss":
            path = _copy(directory / "position_loss.jsonl", records / "position_loss" / f"{who}.jsonl")
            losses += read_jsonl(path, PositionLossRecord)
    for evaluation, found in items.items():
        record = study_record(spec, deviations, evaluation, found)
        write_json(records / evaluation.folder(main) / "study.json", record)
    verdicts = judge(spec.claims, [item for found in items.values() for item in found], losses, main=main)
    write_json(records / "verdicts.json", [json.loads(verdict.model_dump_json()) for verdict in verdicts])
    return write_report(records, out / "report")


def study_record(
    spec: StudySpec, deviations: list[str], evaluation: Evaluation, items: Sequence[ItemRecord]
) -> StudyRecord:
    """Return what a study set out to do, with one of its evaluations.

    Lengths are true tokens: of a grid that names lengths otherwise the means over its ``items``.
    """
    arms = []
    for name, arm in spec.arms.items():
        kinds = arm.attention.pattern
        arms.append(
            ArmRecord(
                name=name,
                kinds=list(kinds),
                memory=arm.attention.memory.kind if "memory" in kinds else None,
                reach=exact_reach(arm.attention, spec.model.num_hidden_layers),
                learning_rate=arm.finetune_learning_rate,
            )
        )
    grid = spec.named_grids[evaluation.grid]
    asked = f" Here: the grid {evaluation.grid}, {evaluation.trained} models." if evaluation.name else ""
    return StudyRecord(
        name=spec.name,
        question=spec.question.strip() + asked,
        sha256=spec.sha256,
        arms=arms,
        seeds=list(spec.seeds),
        segment_length=spec.segment_length,
        layers=spec.model.num_hidden_layers,
        heads=spec.model.num_attention_heads,
        lengths=[_true_length(length, items) for length in grid.lengths],
        depths=list(grid.depths),
        trained_length=max(spec.finetuning(arm).row_length for arm in spec.arms),
        interventions=list(grid.interventions),
        deviations=deviations,
    )


def _true_length(nominal: int, items: Sequence[ItemRecord]) -> int:
    """Return the tokens of the items that a study file names by this length, rounded; the name where there are none."""
    found = [item.length for item in items if nominal_length(item) == nominal]
    return round(sum(found) / len(found)) if found else nominal


def _training_runs(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Return the pretraining behind a fine-tuning, and the fine-tuning."""
    return [each for each in stages if each.name in stage.inputs and each.kind == "pretrain"] + [stage]


def _cost(spec: StudySpec, stage: Stage, runs: Sequence[Stage], root: Path) -> CostRecord:
    """Measure what an arm costs: training from its metrics, state from a cache that has read the longest context."""
    last = [list(read_jsonl(root / run.directory / "metrics.jsonl", StepRecord))[-1] for run in runs]
    model = PalimpsestForCausalLM.from_pretrained(resolve_checkpoint(root / stage.directory)).eval()
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    context = longest_context(spec)
    cache = PalimpsestCache(model.config)
    prefill(model, torch.zeros(1, context, dtype=torch.long), cache)
    memory, local = cache.bytes()
    assert stage.arm is not None
    assert stage.seed is not None
    return CostRecord(
        arm=stage.arm,
        seed=stage.seed,
        parameters=model.num_parameters(),
        flops_per_token=flops_per_token(model.config, spec.finetuning(stage.arm).row_length),
        training_tokens=sum(step.tokens for step in last),
        training_seconds=sum(step.seconds for step in last),
        context=context,
        memory_bytes=memory,
        local_bytes=local,
    )


def longest_context(spec: StudySpec) -> int:
    """Return the most tokens of an item; characters count as tokens where no grid counts tokens, and are never less."""
    in_tokens = [max(grid.lengths) for grid in spec.named_grids.values() if not spec.counts_characters(grid)]
    return max(in_tokens or [max(grid.lengths) for grid in spec.named_grids.values()])


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))
