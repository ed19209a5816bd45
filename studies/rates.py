"""Which learning rates a sweep chose: for every arm and stage the one with the lowest training loss at its end.

An arm of a sweep is called ARM-SETTING. Rates of fine-tuning are compared after that rate of pretraining which most
settings share.

python studies/rates.py studies/replica-small-tune/results
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from arm_tables import LOGGED

from palimpsest.records import StepRecord
from palimpsest.report import load_records
from palimpsest.report.load import Stage
from palimpsest.schema import parse_yaml
from palimpsest.study.spec import StudySpec

STUDIES = Path(__file__).parent


class Tried(NamedTuple):
    """Loss of one arm by rate, in nats per labelled token, of both stages of training."""

    pretrain: dict[float, float]
    finetune: dict[float, float]

    @property
    def chosen(self) -> tuple[float, float]:
        """The rates with the lowest loss, of pretraining and of fine-tuning."""
        return min(self.pretrain, key=self.pretrain.__getitem__), min(self.finetune, key=self.finetune.__getitem__)


def tried(records: Path) -> dict[str, Tried]:
    """Return what a sweep found, by arm; ``records`` are those of a study with one seed."""
    results = load_records(records)
    arms = parse_yaml(StudySpec, STUDIES / f"{results.study.name}.yaml").arms
    (seed,) = results.study.seeds
    middle, _ = Counter(arm.pretrain_learning_rate for arm in arms.values()).most_common(1)[0]
    found: dict[str, Tried] = {}
    for name, arm in arms.items():
        losses = found.setdefault(name.partition("-")[0], Tried({}, {}))
        losses.pretrain[arm.pretrain_learning_rate] = _last(results.metrics[Stage(name, seed, "pretrain")])
        if arm.pretrain_learning_rate == middle:
            losses.finetune[arm.finetune_learning_rate] = _last(results.metrics[Stage(name, seed, "finetune")])
    return found


def _last(steps: Sequence[StepRecord]) -> float:
    losses = [step.loss for step in steps][-LOGGED:]
    return sum(losses) / len(losses)


def table(found: Mapping[str, Tried], stage: str) -> str:
    """Return the losses of a stage as a Markdown table, a row for every arm, its lowest in bold."""
    rates = sorted({rate for each in found.values() for rate in getattr(each, stage)})
    lines = [f"| {stage} | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---" * (len(rates) + 1) + "|"]
    for arm, each in found.items():
        losses: dict[float, float] = getattr(each, stage)
        best = min(losses.values())
        cells = [f"**{losses[rate]:.3f}**" if losses[rate] == best else f"{losses[rate]:.3f}" for rate in rates]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="records of a sweep with the settings ARM-SETTING")
    found = tried(parser.parse_args().records)
    print("\n\n".join(table(found, stage) for stage in Tried._fields))


if __name__ == "__main__":
    main()
