"""What a learned write strength writes: of the key, of the sentence around it, of everything else.

python studies/passkey_1m/strengths.py runs/passkey-1m               # on the screen
python studies/passkey_1m/strengths.py runs/passkey-1m --publish     # also into results/
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from palimpsest.attention.memory import WriteStrength
from palimpsest.cli.evaluation import open_checkpoint
from palimpsest.errors import InputError, refused
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.records import Measurement, Record, write_atomic, write_json
from palimpsest.report.tables import markdown_of
from palimpsest.tasks import Passkey, PasskeySpec, Sample
from palimpsest.training.provenance import measurement
from palimpsest.training.run import METRICS

HERE = Path(__file__).parent
ITEMS, LENGTH, SEED = 25, 1024, 500
"""Items of design: none of those that the study asks for."""
LITTLE = 0.05
CLASSES = ("digits of the key", "rest of the needle", "everything else")


class StrengthRecord(Record):
    """The strengths of one class of tokens in one layer of one run, over all heads and items.

    ``little`` is the share of them below ``LITTLE``.
    """

    run: str
    layer: int
    tokens_of: str
    tokens: int
    mean: float
    little: float


class Strengths(Measurement):
    """All strengths of a study's folder, read from items that ``items``, ``length`` and ``seed`` name."""

    items: int
    length: int
    seed: int
    records: tuple[StrengthRecord, ...]


def strengths(model: PalimpsestForCausalLM, tokens: torch.Tensor) -> dict[int, np.ndarray]:
    """Return by layer the strengths ``[H, T]`` that a model gives to the tokens ``[T]``: none where none is learned."""
    found: dict[int, np.ndarray] = {}
    modules = [module for module in model.modules() if isinstance(module, WriteStrength)]
    hooks = [
        module.register_forward_hook(lambda _, __, out, layer=layer: found.__setitem__(layer, out[0].numpy(force=True)))
        for layer, module in enumerate(modules)
    ]
    with torch.no_grad():
        model(tokens[None])
    for hook in hooks:
        hook.remove()
    return found


def classes(sample: Sample, digits: np.ndarray) -> np.ndarray:
    """Return for every token ``[T]`` its place in ``CLASSES``; ``digits`` are the ids that have a digit in them."""
    (needle,) = sample.needles
    found = np.full(sample.input_ids.shape, 2)
    found[needle.start : needle.end] = 1
    found[needle.start : needle.end][np.isin(sample.input_ids[needle.start : needle.end], digits)] = 0
    return found


def measure(run: Path) -> Iterator[StrengthRecord]:
    """Yield what the layers of a run write of each class of tokens: nothing if no strength is learned there."""
    opened = open_checkpoint(run).subject
    if not any(isinstance(module, WriteStrength) for module in opened.model.modules()):
        return
    tokenizer = opened.tokenizer
    digits = np.array([i for i in range(len(tokenizer)) if any(c.isdigit() for c in tokenizer.decode([i]))])
    spec = PasskeySpec(key_digits=5, needle="repeat", max_length=LENGTH)
    task = Passkey(spec, tokenizer, segment_length=opened.model.config.attention_spec.segment_length)
    read: dict[tuple[int, int], list[np.ndarray]] = {}
    for index in range(ITEMS):
        sample = task.sample(split="evaluation", seed=SEED, index=index, length=LENGTH, depth=0.5)
        kinds = classes(sample, digits)
        for layer, given in strengths(opened.model, torch.from_numpy(sample.input_ids.copy())).items():
            for kind in range(len(CLASSES)):
                read.setdefault((layer, kind), []).append(given[:, kinds == kind].ravel())
    for (layer, kind), parts in sorted(read.items()):
        values = np.concatenate(parts)
        yield StrengthRecord(
            run=run.name,
            layer=layer,
            tokens_of=CLASSES[kind],
            tokens=values.size,
            mean=float(values.mean()),
            little=float((values < LITTLE).mean()),
        )


def render(found: Strengths) -> str:
    """Return a table with a row for every layer of every run."""
    cells: dict[tuple[str, int], list[str]] = {}
    for record in found.records:
        row = cells.setdefault((record.run, record.layer), [record.run, str(record.layer)])
        row.append(f"{record.mean:.2f} ({100 * record.little:.0f} %)")
    about = (
        f"Mean write strength, and the share of tokens that get less than {LITTLE}, of {found.items} items of "
        f"{found.length:,} tokens (item seed {found.seed}), over all heads. A strength of one writes a token as a "
        "memory without strengths does."
    )
    return f"{about}\n\n{markdown_of(('run', 'layer', *CLASSES), list(cells.values()))}\n"


def main(
    out: Annotated[Path, typer.Argument(help="The folder of the study, as run.py was given it.")],
    published: Annotated[
        bool, typer.Option("--publish", help="Also write the records and the table to results/.")
    ] = False,
) -> None:
    """Print the table."""
    origin = measurement()
    runs = sorted(path.parent for path in out.glob(f"finetune/*/{METRICS}"))
    records = tuple(record for run in runs for record in measure(run))
    if not records:
        raise InputError(f"{out} holds no run with a learned write strength; run the study first.")
    found = Strengths(**dict(origin), items=ITEMS, length=LENGTH, seed=SEED, records=records)
    typer.echo(render(found))
    if published:
        write_json(HERE / "results" / "strengths.json", found)
        write_atomic(HERE / "results" / "strengths.md", render(found))


if __name__ == "__main__":
    with refused("strengths"):
        typer.run(main)
