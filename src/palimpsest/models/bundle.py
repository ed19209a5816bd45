"""Code that travels with a model: the modules it needs, as files of one folder that import each other relatively.

transformers loads the code of a model from the model's own folder (``trust_remote_code``), in a process that has never
heard of this package. It takes the file that ``auto_map`` names and what that reaches through ``from .name import ...``
(``transformers.dynamic_module_utils``), nothing else: no packages, no ``from . import name``. So a module ``a.b.c``
becomes the file ``b_c.py``, and a name that a package's ``__init__`` only passes on is imported from where it is
defined, which leaves the ``__init__``, and all else that it imports, behind.
"""

import ast
import importlib.util
from collections.abc import Callable, Iterator
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

LINE = 120
"""Longer imports are written over several lines."""


def bundle(entry: str, flat_name: Callable[[str], str]) -> dict[str, str]:
    """Return a module and all of its package that it imports, each import of the package made relative.

    Followed are also imports inside functions and for type checkers, because transformers looks for those files too.

    Args:
        entry: full name of the module.
        flat_name: gives for the full name of a module that of its file, without ``.py``.

    Returns:
        Texts by full name of the module, sorted.

    Raises:
        ValueError: an import that cannot be made relative, or two modules whose files would have the same name.
    """
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if module in texts:
            continue
        other = names.setdefault(flat_name(module), module)
        if other != module:
            raise ValueError(f"{other} and {module} would both become {flat_name(module)}.py")
        texts[module], reached = _made_relative(module, flat_name)
        waiting += reached
    return dict(sorted(texts.items()))


class _Source(NamedTuple):
    """A module: its text, its syntax tree, and whether it is the ``__init__`` of a package."""

    text: str
    tree: ast.Module
    is_package: bool


class _Origin(NamedTuple):
    """Where a name is defined."""

    module: str
    name: str


def _find(module: str) -> ModuleSpec | None:
    """Return where a module is, without importing what is above it."""
    above, _, leaf = module.rpartition(".")
    if not above:
        return importlib.util.find_spec(leaf)
    package = _find(above)
    places = None if package is None else package.submodule_search_locations
    return None if places is None else PathFinder.find_spec(module, places)


def _read(module: str) -> _Source:
    found = _find(module)
    text = found.loader.get_source(module) if found and isinstance(found.loader, InspectLoader) else None
    if found is None or text is None:
        raise ValueError(f"there is no source of the module {module}")
    return _Source(text, ast.parse(text, module), found.submodule_search_locations is not None)


def _made_relative(module: str, flat_name: Callable[[str], str]) -> tuple[str, list[str]]:
    """Return the text of a module, its imports of its own package relative, and the modules that it imports."""
    source = _read(module)
    lines = source.text.split("\n")
    reached = []
    # from the last to the first, so that the lines of those above stay where they are
    for node in sorted(_imports(source.tree, module), key=lambda found: found.lineno, reverse=True):
        origins: dict[str, list[str]] = {}
        for alias in node.names:
            if alias.name == "*" or node.module is None:
                raise _refused(module, node, "names every name that it imports")
            origin = _origin(_Origin(node.module, alias.name))
            bound = alias.asname or alias.name
            name = origin.name if origin.name == bound else f"{origin.name} as {bound}"
            origins.setdefault(origin.module, []).append(name)
        reached += origins
        statements = [(flat_name(origin), names) for origin, names in origins.items()]
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        indent = lines[first].encode()[: node.col_offset].decode()
        rest = lines[last].encode()[node.end_col_offset :].decode()  # columns of a syntax tree count bytes
        if indent.strip() or rest.split("#")[0].strip():
            raise _refused(module, node, "stands alone on its lines")
        lines[first : last + 1] = ["\n".join(_statement(indent, *statement) for statement in statements) + rest]
    return "\n".join(lines), reached


def _imports(tree: ast.Module, module: str) -> Iterator[ast.ImportFrom]:
    """Yield the imports of the module's own package.

    Raises:
        ValueError: one in a form other than ``from package.module import name``.
    """
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(level=0, module=name) if _is_own(name, module):
                yield node
            case ast.ImportFrom(level=level) if level:
                raise _refused(module, node, "names its module in full")
            case ast.Import(names=aliases) if any(_is_own(alias.name, module) for alias in aliases):
                raise _refused(module, node, "names what it needs: from package.module import name")
            case ast.Call(func=function, args=[ast.Constant(value=name), *_]) if _is_own(name, module):
                if "import" in ast.unparse(function):
                    raise _refused(module, node, "is a statement")


def _is_own(name: object, module: str) -> bool:
    """Whether a name is that of a module of the package that ``module`` belongs to."""
    package = module.partition(".")[0]
    return isinstance(name, str) and (name == package or name.startswith(f"{package}."))


def _origin(place: _Origin) -> _Origin:
    """Follow a name through packages that only pass it on to the module where it is defined."""
    source = _read(place.module)
    if not source.is_package:
        return place
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and _is_own(node.module, place.module):
            for alias in node.names:
                if (alias.asname or alias.name) == place.name:
                    return _origin(_Origin(f"{node.module}", alias.name))
    if _find(f"{place.module}.{place.name}") is not None:
        raise ValueError(f"'from {place.module} import {place.name}' imports a module: import names from it instead")
    if place.name not in _defined(source.tree):
        raise ValueError(f"{place.module} does not say where its name {place.name} comes from")
    return place


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that the top level of a module defines."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _statement(indent: str, module: str, names: list[str]) -> str:
    line = f"{indent}from .{module} import {', '.join(names)}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"{indent}from .{module} import (", *(f"{indent}    {name}," for name in names), f"{indent})"])


def _refused(module: str, node: ast.stmt | ast.expr, rule: str) -> ValueError:
    return ValueError(f"{module}, line {node.lineno}: '{ast.unparse(node)}' cannot be made relative; an import {rule}")
