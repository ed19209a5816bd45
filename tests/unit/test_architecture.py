"""The house rules that a machine can check: who imports whom, what is forbidden, how long things may be."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import palimpsest
from script_case import python

ROOT = Path(palimpsest.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

SHARED = {"records", "errors", "schema"}
"""What everybody may import."""

LAYERS = {
    "memory": 0,
    "attention": 1,
    "models": 2,
    "training": 3,
    "probes": 3,
    "study": 4,
    "bench": 5,
    "cli": 6,
    "__main__": 7,
}
"""memory <- attention <- models <- training, probes <- study <- cli: a layer imports lower ones only."""

WINGS = {
    "data": {"torch"},
    "tasks": {"torch"},
    "statistics": {"torch", "transformers"},
    "report": {"torch", "transformers"},
}
"""Wings import nothing of ours but the shared modules, and not these libraries."""

ALSO = {("report", "statistics"), ("bench", "testing")}
"""Two exceptions: the report computes the intervals that it draws, and a benchmark compares what it times."""

CORE = ("memory", "attention", "models")
"""The layers that know of no wing."""

FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8
"""Soft caps: what is above them is reported, what is half as much again above them fails."""

OPEN_KEYWORDS = {
    ("models/modeling.py", "forward"),
    ("models/modeling.py", "from_pretrained"),
    ("models/configuration.py", "__post_init__"),
    ("attention/cache.py", "update"),
    ("study/lm_eval/model.py", "_model_generate"),
}
"""Functions that transformers and lm-eval call, with whatever keywords they have."""


class Import(NamedTuple):
    """A module, or a name in one, and the line where it is imported."""

    """``module`` is imported on a line; ``local`` says whether only when a function is called."""

    module: str
    line: int


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Return the package or module right under ``palimpsest`` that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    """Yield every import of a file by absolute name, those inside functions and for type checkers too."""
    package = ["palimpsest", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(f"{module}.{alias.name}", node.lineno) for alias in node.names)


def ours(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the parts of palimpsest that a file imports."""
    for module, line in imports(path):
        names = module.split(".")
        if names[0] == "palimpsest" and len(names) > 1:
            yield names[1], line


def libraries(path: Path) -> Iterator[tuple[str, int]]:
    for module, line in imports(path):
        name = module.split(".")[0]
        if name != "palimpsest" and name not in sys.stdlib_module_names:
            yield name, line


def may_import(importer: str, imported: str) -> bool:
    if imported == importer or imported in SHARED or (importer, imported) in ALSO:
        return True
    if importer in SHARED or importer in WINGS or importer == "testing":
        return False
    if imported in WINGS:
        return importer not in CORE
    return LAYERS.get(imported, 99) < LAYERS[importer]


def test_every_part_has_a_place() -> None:
    known = {*LAYERS, *WINGS, *SHARED, "testing", "__init__"}
    assert {part_of(path) for path in FILES} <= known
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    importer = part_of(path)
    if importer == "__init__":
        assert [name for name, _ in ours(path)] == ["models"] * 3  # for type checkers; see test_public_api.py
        return
    wrong = [
        f"{name_of(path)}:{line} imports palimpsest.{part}"
        for part, line in ours(path)
        if not may_import(importer, part)
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    part = part_of(path)
    banned = WINGS.get(part, {"torch", "transformers"} if part in SHARED else set())
    allowed = {"torch"} if part == "memory" else None
    wrong = [
        f"{name_of(path)}:{line} imports {library}"
        for library, line in libraries(path)
        if library in banned or (allowed is not None and library not in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("memory", "attention", False),
        ("attention", "memory", True),
        ("models", "data", False),
        ("training", "probes", False),
        ("training", "data", True),
        ("study", "report", True),
        ("data", "memory", False),
        ("report", "records", True),
        ("records", "models", False),
        ("models", "cli", False),
    ],
)
def test_the_rules_say_what_they_should(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("wing", ["statistics", "report"])
def test_a_wing_works_without_torch(wing: str) -> None:
    modules = sorted(
        ".".join(("palimpsest", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in (ROOT / wing).rglob("*.py")
    )
    assert modules
    python(BLOCKED + "".join(f"import {module}\n" for module in modules))


def test_the_block_works() -> None:
    with pytest.raises(AssertionError, match="torch is blocked"):
        python(BLOCKED + "import palimpsest.memory")


# What is forbidden


def dotted(node: ast.expr) -> str:
    """Return ``torch.load`` for such an expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "os.system"}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_TRUE = {"allow_pickle", "trust_remote_code", "shell"}


def forbidden(module: ast.Module) -> Iterator[str]:
    """Yield what could run code from data: pickle in any dress, eval and exec, code beside a model, a shell."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            if dotted(node.func) in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {dotted(node.func)}"
            for keyword in node.keywords:
                false = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in FORBIDDEN_TRUE and not false:
                    yield f"line {node.lineno}: {keyword.arg}"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_code_from_data(path: Path) -> None:
    assert not list(forbidden(tree(path)))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(p)",
        "eval(x)",
        "exec(x)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_forbidden_code_is_found(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


def test_allowed_code_is_not_forbidden() -> None:
    assert not list(forbidden(ast.parse("model.eval()\nnp.load(p, allow_pickle=False)\nre.compile(x)")))


# How long


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def sizes(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield what is measured in a file, how much it is, and its soft cap."""
    yield name_of(path), len(path.read_text(encoding="utf-8").splitlines()), FILE_LINES
    for function in functions(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        arguments = function.args
        given = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        yield f"{where}()", (function.end_lineno or function.lineno) - function.lineno + 1, FUNCTION_LINES
        yield f"{where}: parameters", len([name for name in given if name not in ("self", "cls")]), PARAMETERS


def test_caps() -> None:
    measured = [size for path in FILES for size in sizes(path)]
    above = sorted((size for size in measured if size[1] > size[2]), key=lambda s: s[1] / s[2], reverse=True)
    for what, size, cap in above:
        print(f"above the soft cap of {cap}: {what} has {size}")
    assert not [size for size in above if size[1] > 1.5 * size[2]]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_open_keywords(path: Path) -> None:
    found = {(name_of(path), function.name) for function in functions(path) if function.args.kwarg}
    assert found <= OPEN_KEYWORDS
