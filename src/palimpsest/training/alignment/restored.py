"""Checkpoints in which some weights are those of the checkpoint that the training went on from."""

import shutil
from collections.abc import Collection
from pathlib import Path

from palimpsest.data import load_tokenizer
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.directory import new_directory
from palimpsest.models.restore import Part, part_of, restore, turns
from palimpsest.records import write_jsonl
from palimpsest.records.turns import TurnRecord
from palimpsest.training.checkpoint import resolve_checkpoint
from palimpsest.training.run import METRICS, PROVENANCE
from palimpsest.training.state import ONE_FILE, pretrained_model


def restored_model(checkpoint: Path, base: Path, parts: Collection[Part]) -> PalimpsestForCausalLM:
    """Return the model of a checkpoint with some parts of that of another one; see ``palimpsest.models.restore``.

    Args:
        checkpoint: a checkpoint or run directory.
        base: another one of the same shape.
        parts: what to take from it.

    Raises:
        InputError: a checkpoint cannot be read, or the two do not belong together.
    """
    model, other = (pretrained_model(resolve_checkpoint(path)) for path in (checkpoint, base))
    model.load_state_dict(restore(model.state_dict(), other.state_dict(), parts))
    return model


def write_restored(checkpoint: Path, base: Path, parts: Collection[Part], directory: Path) -> None:
    """Write the restored model and its tokenizer to a new directory.

    Raises:
        InputError: as ``restored_model``; the directory is not free, or cannot be written.
    """
    with new_directory(directory) as partial:
        restored_model(checkpoint, base, parts).save_pretrained(partial, max_shard_size=ONE_FILE)
        load_tokenizer(resolve_checkpoint(checkpoint)).save_pretrained(partial)


def restore_run(run_dir: Path, base: Path, parts: Collection[Part], directory: Path) -> None:
    """Write the restored model of a run to a directory of its own, with what the run says of its training.

    Whatever is in the directory is replaced.

    Raises:
        InputError: as ``write_restored``.
    """
    shutil.rmtree(directory, ignore_errors=True)
    write_restored(run_dir, base, parts, directory)
    for name in (METRICS, PROVENANCE):
        shutil.copyfile(run_dir / name, directory / name)


def write_turns(checkpoint: Path, base: Path, path: Path) -> None:
    """Write how far every weight of a checkpoint has turned from that of the one it was trained from.

    Raises:
        InputError: a checkpoint cannot be read, or the two do not belong together.
    """
    now, then = (pretrained_model(resolve_checkpoint(each)).state_dict() for each in (checkpoint, base))
    records = [
        TurnRecord(weight=turn.name, part=part_of(turn.name), cosine=turn.cosine, distance=turn.distance)
        for turn in turns(now, then)
    ]
    write_jsonl(path, records)
