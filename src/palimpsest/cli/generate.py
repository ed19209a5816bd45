"""``palimpsest generate``: read a text of any length once, then continue it, or answer questions about it."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from palimpsest.cli.console import resumable, say
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from palimpsest.data.streaming import TextReader
    from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
    from palimpsest.models.snapshot import Source

STANDARD_INPUT = Path("-")
Progressed = Callable[[int, int], None]
"""Is told how many bytes and tokens have been read."""


class Context(NamedTuple):
    """What has been read: the state, the logits after the last token (None: not known) and the texts."""

    cache: "PalimpsestCache"
    logits: "Tensor | None"
    sources: "tuple[Source, ...]" = ()


class Writing(NamedTuple):
    """How text is written."""

    max_new_tokens: int
    temperature: float
    seed: int


def generate(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or a run directory (its newest).", show_default=False),
    ],
    prompt: Annotated[str | None, typer.Option("--prompt", help="The text to read.", show_default=False)] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file", help="A file with the text, of any length; - is standard input.", show_default=False
        ),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            "--ask",
            metavar="QUESTION",
            help="Read this after the text, on a new line unless it begins with a space, and write what follows. "
            "May be given again: each is asked of the same state.",
            show_default="the text is continued",
        ),
    ] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", metavar="FILE", help="Save the state after reading here.", show_default=False),
    ] = None,
    from_snapshot: Annotated[
        Path | None,
        typer.Option("--from-snapshot", metavar="FILE", help="Begin with a saved state.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=0, help="Tokens to write at most.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 writes the likeliest token, 1 draws as the model says.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Read a text of any length, in memory that does not grow, and continue it or answer questions about it."""
    questions = _questions(ask or [])
    _check_files(prompt, prompt_file, snapshot, from_snapshot)
    import torch

    from palimpsest.cli.evaluation import open_checkpoint

    subject = open_checkpoint(checkpoint).subject
    model, tokenizer = subject.model, subject.tokenizer
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    kept = "Stopped; nothing is kept, and the same command starts over."
    with resumable(kept):
        context = _begin(model, from_snapshot)
        if prompt is not None or prompt_file is not None:
            context = _read(model, tokenizer, context, prompt, prompt_file)
        if snapshot is not None:
            _save(model, context, snapshot)
            kept = f"Stopped; --from-snapshot {snapshot} goes on from what was read."
    with resumable(kept):
        _write(model, tokenizer, context, questions, Writing(max_new_tokens, temperature, seed))


def _questions(ask: list[str]) -> list[str]:
    """Return the questions as they are read.

    Raises:
        InputError: one of them is empty, or not UTF-8.
    """
    for question in ask:
        if not question.strip():
            raise InputError("--ask: the question is empty: it must have at least one character.")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise InputError("--ask: the question is not UTF-8 text.") from error
    return [question if question[0].isspace() else f"\n{question}" for question in ask]


def _check_files(prompt: str | None, prompt_file: Path | None, snapshot: Path | None, begin: Path | None) -> None:
    """Look at what is to be read and written before any work is done.

    Raises:
        InputError: nothing to read, two prompts, a prompt that is empty or no text, a snapshot that cannot be there.
    """
    if (prompt is not None and prompt_file is not None) or (begin is prompt is prompt_file is None):
        raise InputError("Give either --prompt or --prompt-file, and none only with --from-snapshot.")
    if begin is not None and not begin.is_file():
        raise InputError(f"--from-snapshot: there is no file {begin}.")
    if snapshot is not None and snapshot.is_dir():
        raise InputError(f"--snapshot: {snapshot} is a directory; give the name of a file.")
    if prompt is None and (prompt_file is None or (prompt_file.exists() and not prompt_file.is_file())):
        return  # a pipe can be read but once
    if prompt is None and prompt_file == STANDARD_INPUT:
        return
    with _open(prompt, prompt_file) as reader:  # better now than after an hour of reading
        if not sum(len(piece) for piece in reader):
            raise InputError("The prompt is empty: it must have at least one character.")


@contextlib.contextmanager
def _open(prompt: str | None, path: Path | None) -> "Iterator[TextReader]":
    from palimpsest.data.streaming import TextReader, open_text

    if path is None:
        # what the shell gave that is not UTF-8 becomes the bytes that it was, for the reader to name
        given = io.BytesIO((prompt or "").encode("utf-8", "surrogateescape"))
        yield TextReader(given, "--prompt")
        return
    with open_text(path) as reader:
        yield reader


def _begin(model: "PalimpsestForCausalLM", path: Path | None) -> Context:
    """Return an empty context, or that of a snapshot.

    Raises:
        InputError: the snapshot is damaged, of another model, or of several texts at once.
    """
    from palimpsest.models import PalimpsestCache
    from palimpsest.models.snapshot import Snapshot

    if path is None:
        return Context(PalimpsestCache(model.config), None)
    loaded = Snapshot.load(path)
    cache = model.restore(loaded)
    rows = len(loaded.header.tokens)
    if rows != 1:
        raise InputError(f"{path} is a snapshot of {rows} texts at once; one of a single text can be continued here.")
    logits = None if loaded.logits is None else loaded.logits.to(model.device)
    return Context(cache, logits, loaded.header.sources)


def _read(
    model: "PalimpsestForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    context: Context,
    prompt: str | None,
    path: Path | None,
) -> Context:
    """Read a text after what has been read, and say what that took."""
    from palimpsest.data.streaming import stream_tokens
    from palimpsest.models.snapshot import Source
    from palimpsest.models.streaming import prefill_stream

    began, before = time.monotonic(), context.cache.columns
    total = path.stat().st_size if path is not None and path.is_file() else None
    with _open(prompt, path) as reader, _bar(total) as progressed:
        logits = prefill_stream(
            model,
            stream_tokens(tokenizer, reader),
            context.cache,
            listen=lambda tokens: progressed(reader.bytes, tokens),
        )
        source = Source(bytes=reader.bytes, sha256=reader.sha256)
    tokens, seconds = context.cache.columns - before, time.monotonic() - began
    memory, local = context.cache.bytes()
    say(
        f"Read {tokens:,} tokens ({tokens / max(seconds, 1e-9):,.0f} tokens/s) into {memory:,} bytes of state and "
        f"{local:,} of keys and values."
    )
    return Context(context.cache, logits, (*context.sources, source))


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Progressed]:
    """Show a bar over the bytes of a text on standard error, if that is a terminal, with tokens per second."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TextColumn("{task.fields[speed_of_tokens]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("reading", total=total, tokens=0, speed_of_tokens=0.0)
        began = time.monotonic()

        def progressed(read: int, tokens: int) -> None:
            speed = tokens / max(time.monotonic() - began, 1e-9)
            bars.update(bar, completed=read, tokens=tokens, speed_of_tokens=speed)

        yield progressed


def _save(model: "PalimpsestForCausalLM", context: Context, path: Path) -> None:
    model.snapshot(context.cache, logits=context.logits, sources=context.sources).save(path)
    say(f"Saved what was read to {path} ({path.stat().st_size:,} bytes).")


def _write(
    model: "PalimpsestForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    context: Context,
    questions: list[str],
    writing: Writing,
) -> None:
    """Answer the questions, each from the same state, or continue the text if there are none.

    Raises:
        InputError: the text cannot be continued, because its snapshot has no logits.
    """
    from palimpsest.data.streaming import stream_tokens
    from palimpsest.models.streaming import prefill_stream

    if not questions:
        if context.logits is None:
            raise InputError("The snapshot was saved without logits, so its text cannot be continued; use --ask.")
        _continue(model, tokenizer, context.cache, context.logits, writing)
    for number, question in enumerate(questions):
        branch = context.cache.clone()
        logits = prefill_stream(model, stream_tokens(tokenizer, [question]), branch)
        typer.echo(f"{'' if number == 0 else chr(10)}> {question.strip()}")
        _continue(model, tokenizer, branch, logits, writing)


def _continue(
    model: "PalimpsestForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    cache: "PalimpsestCache",
    logits: "Tensor",
    writing: Writing,
) -> None:
    import torch

    from palimpsest.data.tokenizer import end_of_text_number
    from palimpsest.models.streaming import continue_from, text_pieces

    written = continue_from(
        model,
        logits,
        cache,
        max_new_tokens=writing.max_new_tokens,
        temperature=writing.temperature,
        generator=torch.Generator().manual_seed(writing.seed),  # anew for each, so that none depends on those before
        stop=(end_of_text_number(tokenizer),),
    )
    for piece in text_pieces(tokenizer, written):
        typer.echo(piece, nl=False)
    typer.echo()
