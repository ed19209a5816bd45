"""``palimpsest probe perplexity``: how well a model predicts whole long documents, per token, word and byte."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from palimpsest.cli.console import list_of, output, progress, resumable, say
from palimpsest.cli.models import CheckpointPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from palimpsest.data import CorpusSpec, Document
    from palimpsest.records import PositionLossRecord
    from palimpsest.statistics import Estimate
    from palimpsest.study.evaluate import Subject
    from palimpsest.study.perplexity import DocumentLossRecord
    from palimpsest.training import Recipe

DOCUMENTS, POSITIONS = "document_loss.jsonl", "position_loss.jsonl"
SAVE_SECONDS = 10.0
"""Time between two writes of what has been read so far."""


def register(probe_app: typer.Typer) -> None:
    """Add the command to ``palimpsest probe``."""
    example = "Example: palimpsest probe perplexity runs/tiny-ridge --source pg19 --interventions reset"
    probe_app.command("perplexity", epilog=example)(perplexity_probe)


def perplexity_probe(
    checkpoint: CheckpointPath,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="CORPUS",
            help="pg19, arxiv, a prepared corpus (its held-out part), sotu, a file or folder of .txt, .jsonl or "
            ".parquet, or a hub dataset as OWNER/NAME.",
            show_default="the held-out part of the run's own corpus",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Configuration of a hub dataset.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Part of a hub dataset.", show_default="test, or the corpus' own")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", help="The column that holds the text.", show_default="text")
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option("--documents", metavar="N", min=1, help="Read the first N.", show_default="all"),
    ] = None,
    words: Annotated[
        int | None,
        typer.Option("--words", metavar="N", min=2, help="Read the first N words of each.", show_default="all"),
    ] = None,
    interventions: Annotated[
        str | None,
        typer.Option(
            "--interventions",
            metavar="NAME,...",
            help="Read again without memory: reset, zero, gate_closed, or another expression of docs/probes.md.",
            show_default="none",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where records go, and are read again.", show_default="runs/probe"),
    ] = None,
) -> None:
    """Read whole documents once, in bounded memory, and show loss and perplexity with document-clustered intervals."""
    import torch

    from palimpsest.cli.evaluation import open_checkpoint, possible_interventions
    from palimpsest.data.documents import source_signature
    from palimpsest.study.naming import digest

    opened = open_checkpoint(checkpoint)
    subject = opened.subject
    torch.nn.Module.to(subject.model, "cuda" if torch.cuda.is_available() else "cpu")
    names = [] if interventions is None else list_of("--interventions", interventions, str)
    names = possible_interventions(opened, names) if names else []
    texts = _texts(opened.recipe, source, {"config": config, "split": split, "text_column": text_column})
    content = [texts.spec.model_dump(mode="json"), source_signature(texts.spec), texts.heldout, words]
    asked = [subject.checkpoint, subject.arm, *content, names]
    folder = (out or Path("runs/probe")) / f"perplexity-{digest(asked)[:12]}"
    kept = _Kept(folder)
    typer.echo(f"{subject.arm}: {texts.name}.")
    with resumable(f"Stopped; the documents that have been read are kept in {folder}; the same command continues."):
        _read_all(kept, subject, islice(texts.documents(), documents), words, names)
    records, positions = kept.first(documents)
    for table in _tables(records, positions, names):
        output().print(table)
    typer.echo(f"Records: {folder}")


class _Texts(NamedTuple):
    """Documents, the name they are shown by, and whether only those are read that the corpus holds out."""

    name: str
    spec: "CorpusSpec"
    heldout: bool

    def documents(self) -> "Iterator[Document]":
        """Yield the documents in their order; a name that comes again is numbered."""
        from palimpsest.data import documents, is_heldout

        seen: dict[str, int] = {}
        for document in documents(self.spec):
            if not self.heldout or is_heldout(document.id, self.spec.heldout_fraction):
                number = seen[document.id] = seen.get(document.id, 0) + 1
                yield document if number == 1 else document._replace(id=f"{document.id} ({number})")


def _texts(recipe: "Recipe | None", source: str | None, options: dict[str, str | None]) -> _Texts:
    """Return where the documents come from.

    Raises:
        InputError: no source is given and the run has none, or an option does not fit the source.
    """
    from palimpsest.data import CorpusSpec, open_corpus
    from palimpsest.data.shards import MANIFEST
    from palimpsest.errors import InputError
    from palimpsest.schema import parse
    from palimpsest.study.perplexity import LONG_TEXTS

    given = {name: value for name, value in options.items() if value is not None}
    if source is None:
        spec = _own_corpus(recipe)
        if spec is None:
            raise InputError("The run of the checkpoint has no corpus of its own; give one with --source.")
        return _Texts(f"held out of {spec.source}", _changed(spec, given), heldout=True)
    if source in LONG_TEXTS:
        spec = _changed(LONG_TEXTS[source], given)
        return _Texts(f"{source} ({spec.source}, {spec.split})", spec, heldout=False)
    if (Path(source) / MANIFEST).is_file():
        spec = open_corpus(Path(source)).manifest.corpus
        return _Texts(f"held out of {source} ({spec.source})", _changed(spec, given), heldout=True)
    spec = parse(CorpusSpec, {"source": source} | given, "probe perplexity")
    return _Texts(f"all of {source}", spec, heldout=False)


def _changed(spec: "CorpusSpec", given: dict[str, str]) -> "CorpusSpec":
    from palimpsest.data import CorpusSpec
    from palimpsest.schema import parse

    return parse(CorpusSpec, spec.model_dump() | given, "probe perplexity")


def _own_corpus(recipe: "Recipe | None") -> "CorpusSpec | None":
    """Return the corpus that a run was trained on, None if it was trained on none."""
    from palimpsest.data import open_corpus
    from palimpsest.training import MixtureData, TextData

    data = None if recipe is None else recipe.data
    text = data.text if isinstance(data, MixtureData) else data
    if not isinstance(text, TextData):
        return None
    if text.corpus is not None:
        return text.corpus
    assert text.directory is not None  # the schema sees to it
    return open_corpus(text.directory).manifest.corpus


class _Kept:
    """The records of the documents that have been read, on disk."""

    def __init__(self, folder: Path) -> None:
        from palimpsest.records import PositionLossRecord, read_jsonl
        from palimpsest.study.perplexity import DocumentLossRecord

        self.folder = folder
        self.documents: dict[str, list[DocumentLossRecord]] = {}
        self.positions: dict[str, list[PositionLossRecord]] = {}
        self._written = time.monotonic()
        if (folder / DOCUMENTS).is_file():  # written after the positions, so that all of its documents have them
            for record in read_jsonl(folder / DOCUMENTS, DocumentLossRecord):
                self.documents.setdefault(record.document_id, []).append(record)
            for position in read_jsonl(folder / POSITIONS, PositionLossRecord):
                if position.document_id in self.documents:
                    self.positions.setdefault(position.document_id, []).append(position)
        self.order: list[str] = []

    def add(
        self, name: str, documents: "Sequence[DocumentLossRecord]", positions: "Sequence[PositionLossRecord]"
    ) -> None:
        """Keep the losses of one more document."""
        self.documents[name], self.positions[name] = list(documents), list(positions)
        if time.monotonic() - self._written > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all that is kept."""
        from palimpsest.records import write_jsonl

        write_jsonl(self.folder / POSITIONS, (record for each in self.positions.values() for record in each))
        write_jsonl(self.folder / DOCUMENTS, (record for each in self.documents.values() for record in each))
        self._written = time.monotonic()

    def first(self, count: int | None) -> "tuple[list[DocumentLossRecord], list[PositionLossRecord]]":
        """Return the records of the first so many documents of this reading."""
        names = self.order[:count]
        records = [record for name in names for record in self.documents[name]]
        return records, [record for name in names for record in self.positions[name]]


def _read_all(
    kept: _Kept, subject: "Subject", texts: "Iterator[Document]", words: int | None, names: list[str]
) -> None:
    """Read every document that has not been read before; one of a single token is named and left out."""
    from palimpsest.errors import InputError
    from palimpsest.study.perplexity import first_words, whole_document_loss

    with progress("words") as bars:
        bar = bars.add_task("reading", total=None)
        try:
            for document in texts:
                if document.id not in kept.documents:
                    text = document.text if words is None else first_words(document.text, words)
                    try:
                        found = whole_document_loss(subject, document._replace(text=text), names)
                    except InputError as error:
                        if len(text.split()) > 1:
                            raise
                        say(f"Left out: {error}")
                        continue
                    kept.add(document.id, found.documents, found.positions)
                kept.order.append(document.id)
                bars.advance(bar, kept.documents[document.id][0].words)
        finally:
            if kept.documents:
                kept.save()


def _tables(
    records: "Sequence[DocumentLossRecord]", positions: "Sequence[PositionLossRecord]", names: "Sequence[str]"
) -> "list[Table]":
    """Return the losses of the set by unit, and by position in the document.

    Raises:
        InputError: not one document could be scored.
    """
    from palimpsest.errors import InputError

    bad = sorted({record.document_id for record in records if not math.isfinite(record.nll)})
    if bad:
        say(f"Left out, for losses that are not finite: {', '.join(bad[:3])}{' and more' if len(bad) > 3 else ''}.")
    records = [record for record in records if record.document_id not in bad]
    if not records:
        raise InputError("No document could be scored; give some with at least two words.")
    return [_units_table(records, names), _position_table(positions, names)]


def _units_table(records: "Sequence[DocumentLossRecord]", names: "Sequence[str]") -> "Table":
    from rich.table import Table

    from palimpsest.study.perplexity import UNITS, loss_per, perplexity

    title = "Whole documents [95 % t interval, clustered by document]"
    table = Table(title=title, title_justify="left")
    for heading in ("per", "units", "perplexity", "nats", "bits", *(f"{name}: rise in nats" for name in names)):
        table.add_column(heading, justify="left" if heading == "per" else "right", no_wrap=heading == "per")
    for unit in UNITS:
        loss = loss_per(records, unit)
        size = sum(record.size(unit) for record in records if record.intervention == "none")
        rises = (_shown(loss_per(records, unit, intervention=name, against="none"), 4) for name in names)
        shown = (_shown(perplexity(records, unit)), _shown(loss, 4), f"{loss.mean / math.log(2):.4f}")
        table.add_row(unit, f"{size:,}", *shown, *rises)
    return table


def _position_table(positions: "Sequence[PositionLossRecord]", names: "Sequence[str]") -> "Table":
    from rich.table import Table

    from palimpsest.statistics.text_probes import context_gain, mean_loss

    title = "By position: nats per token, each document once [95 % t interval over documents]"
    table = Table(title=title, title_justify="left")
    for heading in ("tokens", "n", "intact", *(f"{name}: rise" for name in names)):
        table.add_column(heading, justify="right", no_wrap=heading == "tokens")
    gains = [context_gain(positions, name) for name in names]
    for where, loss in mean_loss(positions).items():
        rises = (_shown(gain[where].found, 4) for gain in gains)
        row = (f"{where.start:,}–{where.end - 1:,}", str(loss.found.n), _shown(loss.found, 4))
        table.add_row(*row, *rises)
    return table


def _shown(found: "Estimate", digits: int = 2) -> str:
    mean = f"{found.mean:,.{digits}f}"
    return f"{mean} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]" if found.bounded else mean
