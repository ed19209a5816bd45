"""Adding a memory costs one file, one law row, one configuration class and one page: held against all there are."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch

import palimpsest
from laws.table import MEMORIES
from palimpsest.attention import memories
from palimpsest.attention.memories import MemoryRule, MemorySpec

SOURCE = Path(palimpsest.__file__).parent
PAGES = SOURCE.parents[1] / "docs" / "memories"
LIBRARIES = {"base", "features", "layout", "parallel", "recurrence", "token_rules"}
"""Files of memory/ that serve any memory: none of them knows one."""

REGISTERS = {"memory/__init__.py", "attention/memories.py"}
EXCEPTIONS = {
    "bench.py": {"LinearMemory", "DeltaMemory", "RidgeMemory"},  # what the benchmark times is its own choice
    # token-level kinds of attention keep the same sums as their cache, and token_rules holds their equations
    "attention/linear_attention.py": {"LinearMemory", "LinearState"},
    "attention/delta_net.py": {"FastWeights"},
    "memory/token_rules.py": {"LinearState", "FastWeights"},
}
SECTIONS = ["Equations", "State", "Segment-parallel form", "What it forgets, and why"]

SPECS: dict[str, type[MemoryRule]] = {
    spec.model_fields["kind"].default: spec for spec in get_args(get_args(MemorySpec)[0])
}
every_kind = pytest.mark.parametrize("kind", SPECS)


def choices(spec: type[MemoryRule]) -> list[MemoryRule]:
    """Return the defaults of a kind, and one specification for each value of a field that has a few."""
    found = [spec()]
    for name, field in spec.model_fields.items():
        if name not in ("kind", "strength"):
            found += [
                spec.model_validate({name: value}) for value in get_args(field.annotation) if isinstance(value, str)
            ]
    return found


def built(kind: str) -> list[object]:
    """Return every memory that a kind builds."""
    specs = choices(SPECS[kind])
    return [spec.build({name: torch.zeros(1) for name in spec.learned()}) for spec in specs]


def classes(kind: str) -> set[type]:
    """Return the memory classes of a kind and the classes of their states."""
    found = {type(memory) for memory in built(kind)}
    return found | {type(memory.init(1, 1, 2, 2)) for memory in built(kind)}  # pyright: ignore[reportAttributeAccessIssue]


@cache
def names_in(path: Path) -> set[str]:
    """Return every name that the code of a file uses; comments and texts do not count."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    return imported | used | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_there_are_kinds() -> None:
    assert {"linear", "delta", "ridge", "hebbian", "decayed_ridge"} <= set(SPECS)
    assert {len(classes(kind)) for kind in SPECS} >= {2, 4}  # ridge has two forms


@every_kind
def test_one_file(kind: str) -> None:
    files = {inspect.getfile(type(memory)) for memory in built(kind)}
    assert files == {str(SOURCE / "memory" / f"{kind}.py")}


@every_kind
def test_no_other_file_knows_it(kind: str) -> None:
    """But for other memories, which may be made of it, and for the exceptions."""
    names = {found.__name__ for found in classes(kind)}
    for path in SOURCE.rglob("*.py"):
        where = path.relative_to(SOURCE).as_posix()
        is_a_memory = where.startswith("memory/") and path.stem not in LIBRARIES
        if where in REGISTERS or is_a_memory:
            continue
        known = names & names_in(path) - EXCEPTIONS.get(where, set())
        assert not known, f"{where} knows {', '.join(sorted(known))}"


def test_exceptions_are_needed() -> None:
    for where, names in EXCEPTIONS.items():
        assert names <= names_in(SOURCE / where), f"{where} no longer knows all of {sorted(names)}"


@every_kind
def test_one_configuration_class(kind: str) -> None:
    spec = SPECS[kind]
    assert inspect.getmodule(spec) is memories
    assert [name for name, other in SPECS.items() if other.__name__ == spec.__name__] == [kind]
    for each in choices(spec):
        assert each.flops(64, 32.0) > 0.0


@every_kind
def test_a_law_row_for_every_class(kind: str) -> None:
    lawful = {type(row.build(1)) for row in MEMORIES}
    assert {type(memory) for memory in built(kind)} <= lawful


@every_kind
def test_one_page(kind: str) -> None:
    page = (PAGES / f"{kind}.md").read_text(encoding="utf-8")
    assert f"`palimpsest/memory/{kind}.py`" in page
    sections = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert [section for section in sections if section in SECTIONS] == SECTIONS
    state = page.split("## State", 1)[1].split("\n## ", 1)[0]
    assert "bytes per row and head" in state
    assert re.search(r"arXiv|\(\w+ \d{4}[;)]|[A-Z]\w+ et al\.", page), "a page names its source"
    for found in classes(kind):
        assert f"`{found.__name__}(" in page


def test_no_page_without_a_memory() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*SPECS, "features", "why-memories-fade"}
