"""Sets of needle prompts in the hub's schema: read from the hub or from local files, checked, and written."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StrictInt, StrictStr

from palimpsest.data.tables import TABLES, listed_files, table_rows
from palimpsest.errors import InputError
from palimpsest.records import Record
from palimpsest.schema import Closed, parse

COLUMNS = ("prompt", "answer", "context_length", "depth_percent")
"""What every row of such a set has."""

Ending = Literal["answer", "question"]


class NeedleRow(Record):
    """One row of a set, with the columns of ``nanotron/needle_in_a_hay_stack_finetune_dataset`` and its relatives.

    Attributes:
        id: any identifier.
        prompt: the text, which ends with the answer in sets to fine-tune on, and with the question in sets to test on.
        answer: the key, a number or its digits.
        context_length: as the set counts it, which in the older sets is in characters.
        depth_percent: where the key is told: 0 is furthest from the question.
        num_tokens: true tokens of the prompt, where they were counted.
    """

    id: StrictStr | StrictInt = ""
    prompt: StrictStr = Field(min_length=1)
    answer: StrictInt | Annotated[StrictStr, Field(pattern=r"^[0-9]+$")]
    context_length: StrictInt
    depth_percent: float
    num_tokens: StrictInt | None = None


class StoredNeedles(Closed):
    """A set of needle prompts that exists: a local ``.jsonl`` or ``.parquet`` file, a folder of them, or a hub dataset.

    Attributes:
        source: the file, the folder, or ``owner/name`` on the hub.
        config, split, revision: select within a hub dataset.
        limit: keep the first so many rows.
        ends: with what the prompts end. ``answer``: as in the sets to fine-tune on. ``question``: as in those to test
            on; the answer and a full stop are then added.
    """

    kind: Literal["stored"] = "stored"
    source: Annotated[str, Field(min_length=1)]
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    ends: Ending = "answer"


class NeedleText(NamedTuple):
    """A prompt with its answer, the place of the last character of the key's first mention, and that of the answer."""

    text: str
    told: int
    asked: int


def stored_rows(spec: StoredNeedles) -> Iterator[NeedleRow]:
    """Yield the rows of a set in its order.

    Raises:
        InputError: when reading begins: no such source; other columns than ``COLUMNS``; a value of the wrong type; an
            empty set; the hub is out of reach.
    """
    rows = table_rows(spec.source, config=spec.config, split=spec.split, revision=spec.revision)
    empty = True
    for row in islice(rows, spec.limit):
        empty = False
        yield _checked(row.values, row.where)
    if empty:
        raise InputError(f"The needle set '{spec.source}' has no rows.")


def needle_files(source: Path) -> list[Path]:
    """Return the files of a local set, in the order of their names.

    Raises:
        InputError: there is none.
    """
    return listed_files(source, TABLES)


def finished_text(row: NeedleRow, ends: Ending, where: str) -> NeedleText:
    """Return the text to train on and where in it the key is told and asked for.

    Raises:
        InputError: a prompt that does not end as it should, or never tells its key.
    """
    key = str(row.answer)
    mention = rf"(?<!\d){re.escape(key)}(?!\d)"
    if ends == "question":
        text = f"{row.prompt}{'' if row.prompt[-1].isspace() else ' '}{key}."
        asked = len(text) - len(key) - 1
    else:
        text = row.prompt.rstrip()
        closing = re.search(rf"{mention}\.?$", text)
        if closing is None:
            raise InputError(
                f"{where}: the prompt does not end with its answer {key}; in a set to test on give ends: question, and "
                "it is added."
            )
        asked = closing.start()
    told = re.search(mention, text)
    if told is None or told.start() >= asked:
        raise InputError(f"{where}: the prompt asks for the key {key}, but does not tell it.")
    return NeedleText(text, told.end() - 1, asked)


def _checked(row: Mapping[str, Any], where: str) -> NeedleRow:
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        raise InputError(
            f"{where} is no row of a needle set: it has no column {_listed(missing)} (its columns: "
            f"{_listed(row) or 'none'})."
        )
    return parse(NeedleRow, {key: row[key] for key in NeedleRow.model_fields if row.get(key) is not None}, where)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
