"""Where answers to items are kept: one file for everything that decides them, made of batches that are kept one by one.

    OUT/settings/TASK-DIGEST.json            what was asked of what, the digest of which names the files
    OUT/batches/TASK-DIGEST/NUMBER.jsonl     a finished batch, until all of them are there
    OUT/states/TASK-DIGEST-NUMBER/           the state of a batch that is being read
    OUT/items/TASK-DIGEST.jsonl              all batches

Every file appears whole or not at all, so a run that was cut off goes on after its last batch, and the batches of
several machines make one whole when their directories are put together.
"""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, read_json, read_jsonl, write_json, write_jsonl
from palimpsest.schema import Closed, first_difference, parse
from palimpsest.study.naming import digest

DIGITS = 12
"""Digits of a digest that are written in names and sentences."""


class Place(NamedTuple):
    """The coordinates of an item, ``number`` among those of its length and depth; a depth of None is anywhere."""

    length: int
    depth: float | None
    number: int


class Setting(Closed):
    """Everything that decides the answers to a grid of items.

    Attributes:
        task, version, knobs: the task; ``files`` are the SHA-256 of what its knobs name.
        questions: items of one haystack.
        arm, seed: the names that the records carry.
        checkpoint: SHA-256 of the weights.
        model: digest of the configuration.
        tokenizer: digest of the tokenizer.
        segment_length: tokens per segment.
        lengths, depths: of the items; no depths stand for anywhere.
        items: for each length and depth, whole haystacks.
        item_seed: of the items.
        interventions: what is done to the memory, on the same items.
        batch_size: items answered together, which decides whose memory is swapped for whose.
    """

    task: str
    version: int
    knobs: dict[str, Any]
    files: dict[str, str]
    questions: int
    arm: str
    seed: int
    checkpoint: str
    model: str
    tokenizer: str
    segment_length: int
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    items: int
    item_seed: int
    interventions: tuple[str, ...]
    batch_size: int

    @property
    def sha256(self) -> str:
        """Digest of all of it."""
        return digest(self.model_dump(mode="json"))

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.task}-{self.sha256[:DIGITS]}"

    def batches(self) -> list[list[Place]]:
        """Return the items in batches of about ``batch_size``, of one length each and of whole haystacks.

        A batch has two haystacks or more where there are as many, so that each can be given the memory of another.
        """
        found = []
        for length in self.lengths:
            haystacks = [
                [Place(length, depth, number) for number in range(first, first + self.questions)]
                for depth in self.depths or (None,)
                for first in range(0, self.items, self.questions)
            ]
            count = min(len(haystacks) * self.questions // self.batch_size, len(haystacks) // 2)
            parts = np.array_split(np.arange(len(haystacks)), max(1, count))
            found += [[place for chosen in part for place in haystacks[chosen]] for part in parts]
        return found


class ItemFiles:
    """The files of one setting.

    Attributes:
        setting: what is asked of what.
        batches: the items, batch by batch.
        path: the file of all answers.

    Raises:
        InputError: the directory holds answers that this checkpoint gave with another tokenizer, or answers to another
            version of the task.
    """

    def __init__(self, out: Path, setting: Setting) -> None:
        self.setting = setting
        self.batches = setting.batches()
        self.path = out / "items" / f"{setting.stem}.jsonl"
        self._settings = out / "settings"
        self._parts = out / "batches" / setting.stem
        self._check_others()

    @cached_property
    def _own(self) -> dict[str, Any]:
        return self.setting.model_dump(mode="json")

    @property
    def whole(self) -> bool:
        """Whether all answers are there, in one file."""
        return self.path.is_file()

    def missing(self) -> list[int]:
        """Return the batches that are not answered."""
        return [] if self.whole else [number for number in range(len(self.batches)) if not self._part(number).is_file()]

    def keep(self, number: int, records: Sequence[ItemRecord]) -> None:
        """Write down the answers to a batch."""
        description = self._settings / f"{self.setting.stem}.json"
        if not description.exists():
            write_json(description, self.setting)
        write_jsonl(self._part(number), records)

    def read(self) -> list[ItemRecord]:
        """Return all answers, in the order of the batches, and put them in one file.

        Raises:
            InputError: a file that does not hold what its name says.
        """
        conditions = 1 + len(self.setting.interventions)
        if self.whole:
            return self._read(self.path, conditions * sum(map(len, self.batches)))
        records = []
        for number, batch in enumerate(self.batches):
            records += self._read(self._part(number), conditions * len(batch))
        write_jsonl(self.path, records)
        shutil.rmtree(self._parts, ignore_errors=True)
        return records

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:05d}.jsonl"

    def _read(self, path: Path, count: int) -> list[ItemRecord]:
        """Read one file and check that it answers what is asked."""
        records = list(read_jsonl(path, ItemRecord))
        for record in records:
            for name in ("task", "version", "checkpoint"):
                if getattr(record, name) != self._own[name]:
                    _refuse(path, name, getattr(record, name), self._own[name])
        if len(records) != count:
            raise InputError(f"{path} has {len(records)} answers in place of {count}; remove it to answer them again.")
        return records

    def _check_others(self) -> None:
        """Compare with what else was asked in this directory."""
        for path in sorted(self._settings.glob("*.json")):
            there = parse(Setting, read_json(path), str(path)).model_dump(mode="json")
            if path.stem == self.setting.stem:
                difference = first_difference(there, self._own)
                if difference is not None:
                    _refuse(path, *difference)
            if there["checkpoint"] == self.setting.checkpoint and there["tokenizer"] != self.setting.tokenizer:
                _refuse(path, "tokenizer", there["tokenizer"], self.setting.tokenizer)
            if there | {"version": self.setting.version} == self._own and there["version"] != self.setting.version:
                _refuse(path, "version", there["version"], self.setting.version)


def _refuse(path: Path, name: str, there: object, here: object) -> NoReturn:
    """Say what a file differs in."""
    then, now = (value[:DIGITS] if isinstance(value, str) else value for value in (there, here))
    raise InputError(
        f"{path} belongs to another {name}, {then}, and asked is {now}; restore what it was, or choose another --out."
    )
