"""``palimpsest probe profile``: what the memory of every layer and head holds and says, on given text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from palimpsest.cli.console import output, progress
from palimpsest.cli.models import CheckpointPath
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

    from palimpsest.cli.evaluation import Checkpoint
    from palimpsest.models import PalimpsestForCausalLM
    from palimpsest.records import ProfileRecord
    from palimpsest.statistics import Estimate
    from palimpsest.training import Recipe

DOCUMENTS = 8
SEGMENTS = 16
"""Segments that are read of a held-out document unless ``--tokens`` is given."""
RECORDS, PAGE = "profile.jsonl", "profile.html"


class Texts(NamedTuple):
    """Documents by name."""

    names: list[str]
    tokens: "list[NDArray]"


def register(probe_app: typer.Typer) -> None:
    """Add the command to the group ``probe``."""
    probe_app.command("profile", epilog="Example: palimpsest probe profile runs/tiny-ridge --documents 8")(profile)


def profile(
    checkpoint: CheckpointPath,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", metavar="TEXT", help="A text to read, as one document.", show_default=False),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(
            "--documents",
            min=1,
            help="How many held-out documents to read of the corpus that the run was trained on.",
            show_default=f"{DOCUMENTS}, or as many as there are",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            min=2,
            help="Tokens to read of each document.",
            show_default=f"{SEGMENTS} segments, or the whole text of --prompt-file",
        ),
    ] = None,
    effect: Annotated[
        str | None,
        typer.Option(
            "--effect",
            metavar="NAME",
            help="Also make this intervention in one head after the other and measure the loss: swap, zero, ...",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help=f"Where {RECORDS} and {PAGE} go.", show_default="runs/profile"),
    ] = None,
) -> None:
    """Show, for every layer and head, what the memory holds, what comes from it, and what its keys could hold."""
    if prompt_file is not None and documents is not None:
        raise InputError("Give either --prompt-file or --documents, not both.")
    from palimpsest.cli.evaluation import open_checkpoint
    from palimpsest.records import write_jsonl
    from palimpsest.report.profile import correlation, write_profile_page

    opened = open_checkpoint(checkpoint)
    texts = (
        _held_out(opened, checkpoint, documents or DOCUMENTS, tokens)
        if prompt_file is None
        else _from_file(prompt_file, opened.subject.tokenizer, tokens)
    )
    records = _measure(opened, texts, effect)
    folder = out or Path("runs/profile")
    write_jsonl(folder / RECORDS, records)
    page = write_profile_page(folder / RECORDS, folder / PAGE)
    for table in (layers_table(records), thirds_table(records)):
        output().print(table)
    typer.echo(f"Rank correlation of gate and rho over heads: {correlation(records, 'gate', 'rho')}")
    typer.echo(f"Records: {folder / RECORDS}")
    typer.echo(f"Page: {page}")


def _held_out(opened: "Checkpoint", checkpoint: Path, wanted: int, tokens: int | None) -> Texts:
    """Return the beginnings of held-out documents.

    Raises:
        InputError: the run was not trained on text, or there is no document as long as that.
    """
    from itertools import islice

    from palimpsest.data import open_corpus

    directory = _corpus_of(opened.recipe, checkpoint)
    if directory is None:
        raise InputError(
            f"It is not known on which text '{opened.subject.arm}' was trained, so that none of it can be read here; "
            "give a text with --prompt-file."
        )
    length = tokens or SEGMENTS * opened.subject.model.config.attention_spec.segment_length
    found = list(islice(open_corpus(directory).heldout_documents(length), wanted))
    return Texts([name for name, _ in found], [ids[:length] for _, ids in found])


def _corpus_of(recipe: "Recipe | None", checkpoint: Path) -> Path | None:
    """Return where the corpus of a run lies, or of the run that it started from; None if it is not known."""
    from palimpsest.training import MixtureData, TextData, load_recipe, resolve_checkpoint
    from palimpsest.training.run import DATA, RECIPE

    run = resolve_checkpoint(checkpoint).absolute().parent.parent
    while recipe is not None:
        text = recipe.data.text if isinstance(recipe.data, MixtureData) else recipe.data
        if isinstance(text, TextData):
            return text.directory or run / DATA
        if recipe.init is None:
            return None
        run = resolve_checkpoint(recipe.init).absolute().parent.parent
        recipe = load_recipe(run / RECIPE) if (run / RECIPE).is_file() else None
    return None


def _from_file(path: Path, tokenizer: "PreTrainedTokenizerBase", tokens: int | None) -> Texts:
    """Return the text of a file.

    Raises:
        InputError: the file is missing, no UTF-8 text, or empty.
    """
    import numpy as np

    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--prompt-file: {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--prompt-file: {path} is not UTF-8 text (byte {error.start}).") from error
    if not text.strip():
        raise InputError(f"--prompt-file: {path} is empty: it must have at least two segments of text.")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return Texts([path.name], [np.asarray(ids, dtype=np.int64)[:tokens]])


def _measure(opened: "Checkpoint", texts: Texts, effect: str | None) -> "list[ProfileRecord]":
    """Profile document by document, and measure effects of all documents together."""
    import torch

    from palimpsest.probes.profile import Origin
    from palimpsest.probes.profile import profile as measure

    subject = opened.subject
    model = subject.model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(model, device)  # transformers' own loses its signature
    origin = Origin(subject.arm, subject.seed, subject.checkpoint)
    records = []
    with progress("documents") as bars:
        bar = bars.add_task("profile", total=len(texts.names))
        for name, ids in zip(texts.names, texts.tokens, strict=True):
            batch = torch.from_numpy(ids).to(device)[None]
            records += measure(model, [batch], documents=[name], origin=origin)
            bars.advance(bar)
    return records if effect is None else _with_effects(model, texts, records, effect)


def _with_effects(
    model: "PalimpsestForCausalLM", texts: Texts, records: "list[ProfileRecord]", effect: str
) -> "list[ProfileRecord]":
    import numpy as np
    import torch

    from palimpsest.probes.effects import gate_effect

    batch = torch.from_numpy(np.stack(texts.tokens)).to(model.device)
    measured = {
        (found.layer, found.head, name): rise
        for found in gate_effect(model, batch, effect)
        for name, rise in zip(texts.names, found.effect, strict=True)
    }
    return [
        record.model_copy(update={"intervention": effect, "effect": measured[place]})
        if (place := (record.layer, record.head, record.document_id)) in measured
        else record
        for record in records
    ]


def layers_table(records: "Sequence[ProfileRecord]") -> "Table":
    """Return one row for each layer: means over heads and documents, and the heads' range of gate and rho."""
    from rich.table import Table

    from palimpsest.cli.tables import NOTHING
    from palimpsest.report.profile import head_means

    table = Table("layer", "memory", title="Means over heads and documents [lowest, highest head]")
    table.title_justify = "left"
    for heading in ("gate", "rho", "effective rank", "load", "d_eff", "kappa", "n50", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    fields = ("gate", "rho", "effective_rank", "load", "key_dimension", "common_mode", "n50")
    means = {field: head_means(records, field) for field in (*fields, "state_bytes")}
    for layer in sorted({record.layer for record in records}):
        kind = next(record.memory or record.kind for record in records if record.layer == layer)
        of_heads = {field: [x for (at, _), x in found.items() if at == layer] for field, found in means.items()}
        cells = [
            NOTHING if not values else f"{sum(values) / len(values):.3g}"
            for values in (of_heads[field] for field in fields)
        ]
        for column in (0, 1):
            values = of_heads[fields[column]]
            cells[column] += f" [{min(values):.2f}, {max(values):.2f}]" if values else ""
        table.add_row(str(layer), kind, *cells, f"{sum(of_heads['state_bytes']):,.0f}")
    return table


def thirds_table(records: "Sequence[ProfileRecord]") -> "Table":
    """Return one row for each third of the layers."""
    from rich.table import Table

    from palimpsest.report.profile import thirds

    table = Table("third", "layers", title="By third of the layers [95 % t interval over documents]")
    table.title_justify = "left"
    for heading in ("of all heads", "gate", "rho", "of all rho"):
        table.add_column(heading, justify="right")
    for third in thirds(records):
        estimates = (_interval(found) for found in (third.gate, third.rho, third.share))
        table.add_row(third.name, ", ".join(map(str, third.layers)), f"{100 * third.heads:.0f} %", *estimates)
    return table


def _interval(found: "Estimate | None") -> str:
    from palimpsest.cli.tables import NOTHING

    if found is None:
        return NOTHING
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found.bounded else f"{found.mean:.3f}"
