"""Closed schemas: one base class, and one way to turn a bad value into one clear sentence."""

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeGuard, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from palimpsest.errors import InputError, nearest


class Closed(BaseModel):
    """A schema that is immutable and refuses keys it does not know, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sparse(Closed):
    """A schema that leaves its ``later`` fields out of what it writes as long as they have their defaults.

    So the digest of a file that never named them, from before there were any, stays the same.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_what_nobody_chose(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content, fields = serialize(self), type(self).model_fields
        left_out = {
            name for name in self.later if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {key: content[key] for key in content if key not in left_out}


C = TypeVar("C", bound=BaseModel)
Keys = tuple[Hashable, ...]


def parse(kind: type[C], value: object, where: str) -> C:
    """Validate ``value`` as ``kind``; ``where`` begins the message of an error, as in ``recipe.yaml``.

    Raises:
        InputError: the first thing that is wrong: its keys, the value, and what would be right.
    """
    try:
        return _validated(kind, value)
    except _Fault as fault:
        raise InputError(f"{where}: {fault.sentence}") from fault.__cause__


def parse_yaml(kind: type[C], path: Path) -> C:
    """Read a YAML file as ``kind``.

    Raises:
        InputError: the file is missing, is not YAML, or gives a key twice, or does not fit the schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file (byte {error.start} is not UTF-8).") from error
    node, value = _load(text, path)
    try:
        return _validated(kind, value)
    except _Fault as fault:
        raise InputError(f"{path}{_line(node, fault.keys)}: {fault.sentence}") from fault.__cause__


class _Fault(Exception):
    """What is wrong with a value, in a sentence, and under which keys."""

    def __init__(self, keys: Keys, sentence: str):
        super().__init__(sentence)
        self.keys = keys
        self.sentence = sentence


def _validated(kind: type[C], value: object) -> C:
    if not isinstance(value, Mapping):
        given = "nothing" if value is None else _shown(value)
        raise _Fault((), f"expected {_mapping(kind)}, got {given}.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explain(kind, error) from error


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, object, object] | None:
    """Return the first key, dotted, at which two sets of values differ, and both values; None if they are equal."""
    for key in dict.fromkeys([*here, *there]):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = first_difference(old, new)
            if inner is not None:
                return f"{key}.{inner[0]}", *inner[1:]
        elif old != new:
            return key, old, new
    return None


# YAML


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML libraries silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(text: str, path: Path) -> tuple[yaml.Node | None, object]:
    """Return the syntax tree of a YAML text, which knows the lines, and its value."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{path}{line}: is not valid YAML: {error.problem}.") from error
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # characters that YAML does not allow; a date that does not exist
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}.") from error


def _line(node: yaml.Node | None, keys: Keys) -> str:
    """Return ``", line 12"`` for the deepest of these keys that is in the file."""
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = {name.value: (name, value) for name, value in node.value}.get(str(key))
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = (node.value[key], node.value[key])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return "" if line is None else f", line {line}"


# Sentences


class _Place(NamedTuple):
    """Where an error is: its keys, and the type annotation there."""

    keys: Keys
    annotation: object


def _explain(kind: type[BaseModel], error: ValidationError) -> _Fault:
    """Say the most telling error of a validation: a misspelt key explains a missing one, so it goes first."""
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    place = _follow(kind, first["loc"])
    if first["type"] == "extra_forbidden":
        return _Fault(place.keys, _unknown_key(kind, first["loc"]))
    if first["type"] == "missing":
        return _Fault(place.keys, f"missing key '{_dotted(place.keys)}'{_choices(place.annotation)}.")
    if first["type"] == "union_tag_not_found":
        return _Fault(place.keys, f"missing key '{_dotted((*place.keys, 'kind'))}'{_choices(place.annotation)}.")
    if first["type"] in ("literal_error", "union_tag_invalid"):
        return _Fault(place.keys, _unknown_value(place.keys, first))
    # the members of a union each say what they expect of the same value
    expected = [_expected(e, here.annotation) for e in errors if (here := _follow(kind, e["loc"])).keys == place.keys]
    subject = f"'{_dotted(place.keys)}': " if place.keys else ""
    given = "" if isinstance(first["input"], Mapping) else f" (got {_shown(first['input'])})"
    return _Fault(place.keys, f"{subject}{' or '.join(dict.fromkeys(expected))}{given}.")


def _unknown_key(kind: type[BaseModel], location: Keys) -> str:
    holder = _follow(kind, location[:-1])
    keys = (*holder.keys, location[-1])
    known = list(holder.annotation.model_fields) if _is_schema(holder.annotation) else []
    tag = _tag(holder.annotation)
    of = f" of kind '{tag}'" if tag else ""
    return f"unknown key '{_dotted(keys)}'{of}.{nearest(str(location[-1]), known) if known else ''}"


def _unknown_value(keys: Keys, error: Any) -> str:
    if error["type"] == "union_tag_invalid":
        expected, given = error["ctx"]["expected_tags"], error["input"].get("kind")
        keys = (*keys, "kind")
    else:
        expected, given = error["ctx"]["expected"], error["input"]
    choices = re.findall(r"'([^']*)'", expected)
    if isinstance(given, str) and choices:
        return f"unknown value '{given}' of '{_dotted(keys)}'.{nearest(given, choices)}"
    return f"'{_dotted(keys)}': should be one of {', '.join(choices) or expected} (got {_shown(given)})."


_WORDS = {
    "int": "should be a whole number",
    "float": "should be a number",
    "finite_number": "should be a finite number",
    "bool": "should be true or false",
    "string": "should be text",
    "list": "should be a list",
    "tuple": "should be a list",
    "dict": "should be a mapping of keys to values",
    "path": "should be a path",
    "invalid_key": "keys should be text",
}


def _expected(error: Any, annotation: object) -> str:
    """Say what a value should be."""
    kind = error["type"]
    if kind in ("model_type", "model_attributes_type"):
        return f"should be {_mapping(annotation)}"
    for begin, words in _WORDS.items():
        if kind == begin or kind in (f"{begin}_type", f"{begin}_parsing", f"{begin}_from_float"):
            return words
    if kind == "too_short":
        return f"should have at least {error['ctx']['min_length']} item(s)"
    message = error["msg"].removeprefix("Value error, ").rstrip(".").replace("Input should", "should", 1)
    return message if kind == "value_error" else message[0].lower() + message[1:]


def _mapping(annotation: object) -> str:
    """Describe the mapping that a schema, or a union of schemas, expects."""
    members = [member for member in _members(annotation) if _is_schema(member)]
    if len(members) == 1:
        return f"a mapping with keys among {', '.join(sorted(members[0].model_fields))}"
    tags = [tag for member in members if (tag := _tag(member))]
    return f"a mapping with the key 'kind' (one of {', '.join(tags)})" if tags else "a mapping of keys to values"


def _choices(annotation: object) -> str:
    """Return ``", one of a, b"`` for an annotation that has few values."""
    if get_origin(annotation) is Literal:
        return f", one of {', '.join(map(str, get_args(annotation)))}"
    tags = [tag for member in _members(annotation) if (tag := _tag(member))]
    return f", one of {', '.join(tags)}" if tags else ""


def _dotted(keys: Iterable[Hashable]) -> str:
    """Write keys as ``attention.pattern[2]``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) and text else f".{key}" if text else str(key)
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Type annotations


def _follow(kind: type[BaseModel], location: Keys) -> _Place:
    """Follow pydantic's location of an error, in which names of union members stand between the keys."""
    keys: list[Hashable] = []
    here: object = kind
    for part in location:
        members = _members(here)
        if part == "[key]":  # the error is in a key of a mapping, not in its value
            break
        if len(members) > 1:
            here = next((member for member in members if _is_named(member, part)), None)
        else:
            keys.append(part)
            here = _below(members[0], part)
    members = _members(here)  # what may also be left out, `X | None`, is described as X
    return _Place(tuple(keys), members[0] if len(members) == 1 else here)


def _members(annotation: object) -> list[Any]:
    """Return the members of a union, None apart; an annotation that is no union is its only member."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _members(members[0]) if len(members) == 1 else members
    return [annotation]


def _below(annotation: object, key: Hashable) -> object:
    """Return the annotation of what stands under a key."""
    if _is_schema(annotation):
        field = annotation.model_fields.get(str(key))
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and Ellipsis not in arguments:
        return arguments[key] if isinstance(key, int) and key < len(arguments) else None
    return (arguments[-1] if get_origin(annotation) is dict else arguments[0]) if arguments else None


def _is_schema(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_named(member: object, name: Hashable) -> bool:
    """Whether pydantic calls this member of a union so: by its tag, or by its class."""
    return _tag(member) == name or (isinstance(member, type) and member.__name__ in str(name))


def _tag(annotation: object) -> str | None:
    """Return the value of ``kind`` that tells a schema from its siblings, if it has one."""
    field = annotation.model_fields.get("kind") if _is_schema(annotation) else None
    values = get_args(field.annotation) if field is not None else ()
    return values[0] if len(values) == 1 else None
