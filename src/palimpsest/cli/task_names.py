"""Tasks as they are asked for on the command line: ``sym_multikey[needles=16],niah_single_1,passkey``.

    list   task { "," task }
    task   name [ "[" knob "=" value { "," knob "=" value } "]" ]

A name is one of the catalogue, or one of RULER's for a setting of ``niah``. A value is written as in YAML; ``none`` is
none.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import yaml

from palimpsest.errors import InputError, nearest
from palimpsest.schema import parse
from palimpsest.tasks import TASKS, TaskSpec, build_task
from palimpsest.tasks.catalogue import describe
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from palimpsest.tasks.symbolic.vocabulary import names, require_symbolic
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.niah import RULER

if TYPE_CHECKING:
    from rich.table import Table

_OUTSIDE_BRACKETS = re.compile(r",(?![^\[\]]*\])")
_TASK = re.compile(r"(\w+)(?:\[([^\[\]]*)\])?")
ROOM = 1 << 16
"""Tokens of a segment, and of a row, in which every task with its usual knobs has room."""

SPECS: Mapping[str, Any] = {spec.model_fields["kind"].default: spec for spec in get_args(get_args(TaskSpec)[0])}
"""The knobs of every task of the catalogue, as a schema."""


class WantedTask(NamedTuple):
    """A task that was asked for: as it was written, its kind, and the knobs that were given."""

    text: str
    kind: str
    knobs: Mapping[str, object]

    @property
    def symbolic(self) -> bool:
        """Whether it speaks the words of the symbolic tasks."""
        return self.kind in SYMBOLIC_TASKS

    def spec(self, usual: Mapping[str, object] | None = None) -> TaskSpec:
        """Return all knobs; those that were not given are ``usual`` or the defaults.

        Raises:
            InputError: a knob that there is not, a value that it cannot have, or values that do not fit each other.
        """
        return parse(SPECS[self.kind], {**(usual or {}), **self.knobs, "kind": self.kind}, f"--tasks {self.text}")


def parse_tasks(text: str) -> list[WantedTask]:
    """Read a list of tasks, each once; see the module's docstring.

    Raises:
        InputError: no task, an unknown one, or knobs that cannot be.
    """
    wanted = [_task("".join(part.split())) for part in _OUTSIDE_BRACKETS.split(text)]
    for task in wanted:
        task.spec()
    return list({task.text: task for task in wanted}.values())


def is_symbolic(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is that of the symbolic tasks."""
    try:
        require_symbolic(tokenizer)
    except (InputError, KeyError):
        return False
    return True


def tasks_table() -> "Table":
    """Return one row per task: the tokenizer it needs, version, floor with its usual knobs, and what it is."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("task", "tokenizer", "version", "floor", "what it tells and asks", title_justify="left")
    table.title = "Floor: what guessing without the context reaches with the knobs' defaults; the ceiling is 100 %"
    for kind in TASKS:
        what = describe(kind).replace("``", "")
        table.add_row(kind, *_facts(WantedTask(kind, kind, {})), escape(what))
    for name, knobs in RULER.items():
        setting = ",".join(f"{knob}={value}" for knob, value in knobs.items())
        table.add_row(name, *_facts(WantedTask(name, "niah", knobs)), escape(f"RULER's setting niah[{setting}]."))
    return table


class ByteTokenizer:
    """A tokenizer of text, for what does not depend on it: every byte is a token."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode())


class WordTokenizer:
    """The tokenizer of the symbolic words."""

    def __init__(self) -> None:
        self._ids = {word: number for number, word in enumerate(names())}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the numbers of the words of a text."""
        return [self._ids[word] for word in text.split()]


def _facts(task: WantedTask) -> tuple[str, str, str]:
    """Return tokenizer, version and floor of a task."""
    version = str(TASKS[task.kind].version)
    if task.symbolic:
        built = build_task(task.spec(), WordTokenizer(), segment_length=ROOM)
        return "symbolic", version, share(built.floor.exact)
    needed = [name for name, field in SPECS[task.kind].model_fields.items() if field.is_required()]
    if needed:
        return "text", version, f"needs {', '.join(needed)}="
    # the classic filler costs least, and no floor depends on the filler
    spec = WantedTask(task.text, task.kind, {**task.knobs, "max_length": ROOM}).spec()
    lean = spec if "prose" not in type(spec).model_fields else spec.model_copy(update={"prose": "noise"})
    return "text", version, share(build_task(lean, ByteTokenizer(), segment_length=ROOM).floor.exact)


def share(value: float) -> str:
    """Return a share in percent with three digits, however small it is."""
    return f"{100 * value:.3g} %"


def _task(text: str) -> WantedTask:
    match = _TASK.fullmatch(text)
    if match is None:
        raise InputError(
            f"--tasks: '{text}' cannot be read; write names separated by commas, knobs in brackets, such as "
            "sym_multikey[needles=16],niah_single_1."
        )
    name, inside = match.groups()
    if name not in SPECS and name not in RULER:
        hint = nearest(name, [*SPECS, *RULER])
        raise InputError(f"--tasks: there is no task '{name}'.{hint} 'palimpsest eval --list' shows all.")
    knobs = {} if inside is None else dict(_knob(part, text) for part in inside.split(","))
    return WantedTask(text, name, knobs) if name in SPECS else WantedTask(text, "niah", {**RULER[name], **knobs})


def _knob(part: str, text: str) -> tuple[str, object]:
    knob, equals, value = part.partition("=")
    if not (knob and equals and value):
        raise InputError(f"--tasks {text}: '{part}' is no knob; write knob=value, such as needles=16.")
    if value == "none":
        return knob, None
    try:
        return knob, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--tasks {text}: the value of '{part}' cannot be read.") from error
