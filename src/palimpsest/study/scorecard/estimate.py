"""How long the stages of a scorecard will take: operations by formula, seconds of training by training a few steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from palimpsest.data import load_tokenizer
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.models import PalimpsestConfig
from palimpsest.models.flops import flops_per_token, forward_flops_per_token
from palimpsest.probes import parse_intervention
from palimpsest.records import read_json
from palimpsest.study.estimate import StageEstimate, Work, step_seconds, torch_threads
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.stages import DONE, is_done
from palimpsest.tasks.symbolic.vocabulary import SIZE
from palimpsest.training.recipe import TrainingSpec
from palimpsest.training.state import model_config, new_model


def estimate_scorecard(
    spec: ScorecardSpec,
    stages: Sequence[Stage],
    root: Path,
    *,
    threads: int,
    timing: bool,
    listen: Callable[[str], None] = lambda arm: None,
) -> list[StageEstimate]:
    """Estimate every stage of a scorecard; only training is timed, evaluations are given their operations.

    Args:
        spec: the study.
        stages: its stages, or some of them.
        root: the directory that holds one directory per stage, some of them perhaps done.
        threads: threads of each worker.
        timing: whether to measure; if not, only stages that are done have seconds.
        listen: told the name of each arm that is about to be measured.
    """
    size = _vocabulary(spec)
    configs = {arm: model_config(spec.model_of(arm), size) for arm in spec.arms}
    paces: dict[tuple[str, int, int], float] = {}
    found = []
    for stage in stages:
        done = is_done(stage, root)
        seconds = float(read_json(root / stage.directory / DONE)["seconds"]) if done else None
        if timing and not done and stage.arm is not None and _trains(stage):
            training = TrainingSpec.model_validate(stage.settings["training"])
            row = _row_length(stage)
            key = (stage.arm, training.batch_size, row)
            if key not in paces:
                listen(stage.arm)
                with torch_threads(threads), torch.random.fork_rng():
                    paces[key] = step_seconds(new_model(configs[stage.arm], seed=0), training, row, row)
            seconds = paces[key] * training.steps
        work = None if stage.arm is None else _work(stage, configs[stage.arm])
        found.append(StageEstimate(stage, work, seconds, done))
    return found


def _vocabulary(spec: ScorecardSpec) -> int:
    """Return how many words the models of a study know."""
    if spec.tokenizer is None:
        return SIZE
    return spec.tokenizer.vocab_size or vocabulary_size(load_tokenizer(str(spec.tokenizer.path)))


def _trains(stage: Stage) -> bool:
    """Whether a stage takes updates; one that puts old weights back takes none."""
    return stage.kind == "train" and "training" in stage.settings


def _row_length(stage: Stage) -> int:
    """Return the tokens of a row of a training stage."""
    data = stage.settings["data"]
    return data["sequence_length" if data["kind"] == "text" else "row_length"]


def _work(stage: Stage, config: PalimpsestConfig) -> Work | None:
    """Return what a stage of an arm computes, None where that is too little to count."""
    settings = stage.settings
    if _trains(stage):
        row = _row_length(stage)
        tokens = settings["training"]["steps"] * settings["training"]["batch_size"] * row
        return Work(tokens, tokens * flops_per_token(config, row))
    if stage.kind == "ask":
        return _asked(settings["part"], config)
    if stage.kind == "documents":
        part = settings["part"]
        tokens = part["count"] * part["tokens"] * (1 + len(part["interventions"]))
        return Work(tokens, tokens * forward_flops_per_token(config, part["tokens"]))
    return None


def _asked(part: dict[str, Any], config: PalimpsestConfig) -> Work:
    """Return the reading of all items, once and again under every intervention that is in force throughout."""
    again = sum(parse_intervention(name).throughout for name in part["interventions"])
    share = 1.0 if part["intervened"] is None else min(1.0, part["intervened"] / part["items"])
    tokens, flops = 0, 0.0
    for length in part["lengths"]:
        read = int(part["items"] * length * (1 + again * share))
        tokens += read
        flops += read * forward_flops_per_token(config, length)
    return Work(tokens, flops)
