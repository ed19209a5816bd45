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
from palimpsest.study.claims import judge
from palimpsest.study.kinds import AnyStudy
from palimpsest.study.plan import Stage
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
    items: list[ItemRecord] = []
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
            items += read_jsonl(_copy(directory / "items.jsonl", records / "items" / f"{who}.jsonl"), ItemRecord)
        if stage.kind == "position_loss":
            path = _copy(directory / "position_loss.jsonl", records / "position_loss" / f"{who}.jsonl")
            losses += read_jsonl(path, PositionLossRecord)
    write_json(records / "study.json", study_record(spec, deviations))
    write_json(records / "verdicts.json", [json.loads(v.model_dump_json()) for v in judge(spec.claims, items, losses)])
    return write_report(records, out / "report")


def study_record(spec: StudySpec, deviations: list[str]) -> StudyRecord:
    """Return what a study set out to do."""
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
    return StudyRecord(
        name=spec.name,
        question=spec.question.strip(),
        sha256=spec.sha256,
        arms=arms,
        seeds=list(spec.seeds),
        segment_length=spec.segment_length,
        layers=spec.model.num_hidden_layers,
        heads=spec.model.num_attention_heads,
        lengths=list(spec.passkey.lengths),
        depths=list(spec.passkey.depths),
        trained_length=spec.finetune.passkey.max_length,
        interventions=list(spec.passkey.interventions),
        deviations=deviations,
    )


def _training_runs(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Return the pretraining behind a fine-tuning, and the fine-tuning."""
    return [each for each in stages if each.name in stage.inputs and each.kind == "pretrain"] + [stage]


def _cost(spec: StudySpec, stage: Stage, runs: Sequence[Stage], root: Path) -> CostRecord:
    """Measure what an arm costs: training from its metrics, state from a cache that has read the longest item."""
    last = [list(read_jsonl(root / run.directory / "metrics.jsonl", StepRecord))[-1] for run in runs]
    model = PalimpsestForCausalLM.from_pretrained(resolve_checkpoint(root / stage.directory)).eval()
    context = max(spec.passkey.lengths)
    cache = PalimpsestCache(model.config)
    with torch.inference_mode():
        model(torch.zeros(1, context, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
    memory, local = cache.bytes()
    assert stage.arm is not None
    assert stage.seed is not None
    return CostRecord(
        arm=stage.arm,
        seed=stage.seed,
        parameters=model.num_parameters(),
        flops_per_token=flops_per_token(model.config, spec.finetune.passkey.max_length),
        training_tokens=sum(step.tokens for step in last),
        training_seconds=sum(step.seconds for step in last),
        context=context,
        memory_bytes=memory,
        local_bytes=local,
    )


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))
