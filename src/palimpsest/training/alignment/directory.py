"""The run directory of an alignment: whose it is, where it comes from, and what it says about preferences."""

import contextlib
import hashlib
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from pydantic import ValidationError

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.flops import flops_per_token
from palimpsest.records import Provenance, read_jsonl, write_json, write_jsonl
from palimpsest.records.base import Record
from palimpsest.training.alignment.recipe import AlignmentRecipe, DpoSpec, load_alignment
from palimpsest.training.alignment.rows import AlignmentRows
from palimpsest.training.checkpoint import disk_full_as_input_error, resolve_checkpoint, sha256_of
from palimpsest.training.provenance import origin
from palimpsest.training.run import PROVENANCE, claimed, write_recipe
from palimpsest.training.state import OPTIMIZER

ALIGNMENT = "alignment.yaml"
"""The recipe of an alignment, in its run directory; ``recipe.yaml`` is that of a training."""

PREFERENCES = "preferences.jsonl"

ALSO = ("trl", "accelerate", "datasets")
"""Packages that decide the result here, and not elsewhere."""

REFERENCE_COST = 1 / 3
"""Operations of the reference, which is only read, as a share of reading and learning."""


class PreferenceRecord(Record):
    """One line of ``preferences.jsonl``: what the pairs of a logged update were worth on average.

    A reward is beta times the log-probability of an answer minus that under the reference, in nats; ``accuracy`` is the
    share of pairs whose chosen answer has the larger one, ``margin`` by how much. All are before the update.
    """

    step: int
    chosen: float
    rejected: float
    accuracy: float
    margin: float


class PreferenceLog:
    """``preferences.jsonl``: one line per logged update, appended as it happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step``, and what a crash has torn of them, so that they are written again."""
        if not self.path.exists():
            return
        kept: list[PreferenceRecord] = []
        with contextlib.suppress(InputError):  # the line that a crash has torn is the last
            kept.extend(takewhile(lambda record: record.step <= step, read_jsonl(self.path, PreferenceRecord)))
        write_jsonl(self.path, kept)

    def append(self, record: PreferenceRecord) -> None:
        """Add a line.

        Raises:
            InputError: the disk is full.
        """
        with disk_full_as_input_error(self.path), open(self.path, "a", encoding="utf-8") as out:
            out.write(record.model_dump_json() + "\n")


def claim_alignment(run_dir: Path, recipe: AlignmentRecipe) -> AbstractContextManager[None]:
    """Hold a run directory for this process, making it if need be.

    Raises:
        InputError: it belongs to another recipe, holds something else, or another process is training in it.
    """
    return claimed(run_dir, recipe, ALIGNMENT, load_alignment)


def record_origin(recipe: AlignmentRecipe, model: PalimpsestForCausalLM, rows: AlignmentRows, run_dir: Path) -> None:
    """Write recipe and provenance of a run that begins; of one that continues, check that data and reference are.

    A run begins when all that its recipe names was found to be good: until then the recipe may be mended.

    Raises:
        InputError: the data or the reference have changed, or the provenance is damaged.
    """
    write_recipe(run_dir / ALIGNMENT, recipe)
    path = run_dir / PROVENANCE
    if not path.exists():
        write_json(path, _provenance(recipe, model, rows))
        return
    try:
        there = Provenance.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is damaged; delete it, and the next call writes it anew.") from error
    if there.data_fingerprint != rows.fingerprint:
        raise InputError(
            f"The data of {run_dir} have changed since the run began (fingerprint {rows.fingerprint[:12]}, then "
            f"{there.data_fingerprint[:12]}); restore them, or choose another run directory."
        )
    if there.reference not in (None, _reference(recipe)):
        raise InputError(
            f"The model of {recipe.init}, the reference of {run_dir}, has changed since the run began; restore it, or "
            "choose another run directory."
        )


def _reference(recipe: AlignmentRecipe) -> str | None:
    """Return a digest of the weights that preferences are measured against, None where nothing is."""
    if not isinstance(recipe.method, DpoSpec):
        return None
    weights = sorted(path for path in resolve_checkpoint(recipe.init).glob("*.safetensors") if path.name != OPTIMIZER)
    return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in weights).encode()).hexdigest()


def _provenance(recipe: AlignmentRecipe, model: PalimpsestForCausalLM, rows: AlignmentRows) -> Provenance:
    """Describe a run that is about to begin; ``flops`` counts the reference too, and rows of mean length."""
    tokens = recipe.training.steps * recipe.training.batch_size * rows.mean_tokens
    passes = 1 + REFERENCE_COST if isinstance(recipe.method, DpoSpec) else 1
    return Provenance(
        **dict(origin(*ALSO)),
        recipe_sha256=recipe.digest(),
        data_fingerprint=rows.fingerprint,
        seeds={"recipe": recipe.seed},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=passes * tokens * flops_per_token(model.config, rows.row_length),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        reference=_reference(recipe),
    )
