"""Every way to get a configuration wrong is answered by one sentence that says what, where, and what would be right."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from palimpsest.errors import InputError
from palimpsest.schema import Closed, first_difference, parse, parse_yaml


class Circle(Closed):
    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0.0)


class Square(Closed):
    kind: Literal["square"] = "square"
    edge: float = 1.0
    circle: Circle = Circle()  # a field named like a sibling's tag


Shape = Annotated[Circle | Square, Field(discriminator="kind")]


class Pen(Closed):
    width: int = Field(default=1, ge=1, le=9)
    colour: Literal["black", "red"] = "black"
    solid: bool = True


class Drawing(Closed):
    title: str
    shape: Shape = Circle()
    shapes: list[Shape] = Field(default=[])
    spare: Shape | None = None
    pen: Pen = Pen()
    pens: dict[str, Pen] = Field(default={})
    size: tuple[int, int] = (1, 1)
    ink: int | Pen = 3
    layers: list[int] = Field(default=[1], min_length=1)

    @field_validator("title")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


TOP = "expected a mapping with keys among ink, layers, pen, pens, shape, shapes, size, spare, title"
WRONG = {
    "a misspelt key": ({"titel": "a"}, "unknown key 'titel'. Did you mean 'title'?"),
    "a key unlike any": (
        {"title": "a", "pen": {"zzz": 1}},
        "unknown key 'pen.zzz'. Known: colour, solid, width.",
    ),
    "a missing key": ({}, "missing key 'title'."),
    "a misspelt key in a union": (
        {"title": "a", "shape": {"kind": "circle", "radios": 1}},
        "unknown key 'shape.radios' of kind 'circle'. Did you mean 'radius'?",
    ),
    "a sibling's key in a union": (
        {"title": "a", "shape": {"kind": "circle", "edge": 1}},
        "unknown key 'shape.edge' of kind 'circle'. Known: kind, radius.",
    ),
    "a key below a field named like a tag": (
        {"title": "a", "shape": {"kind": "square", "circle": {"radius": -1}}},
        "'shape.circle.radius': should be greater than 0 (got -1).",
    ),
    "a misspelt kind": (
        {"title": "a", "shape": {"kind": "cirlce"}},
        "unknown value 'cirlce' of 'shape.kind'. Did you mean 'circle'?",
    ),
    "a kind unlike any": (
        {"title": "a", "shape": {"kind": "prism"}},
        "unknown value 'prism' of 'shape.kind'. Known: circle, square.",
    ),
    "a kind that is no text": (
        {"title": "a", "shape": {"kind": 3}},
        "'shape.kind': should be one of circle, square (got 3).",
    ),
    "no kind": ({"title": "a", "shape": {"edge": 2}}, "missing key 'shape.kind', one of circle, square."),
    "a kind in place of a mapping": (
        {"title": "a", "shape": "circle"},
        "'shape': should be a mapping with the key 'kind' (one of circle, square) (got 'circle').",
    ),
    "in a list of unions": (
        {"title": "a", "shapes": [{"kind": "square"}, {"kind": "square", "edg": 1}]},
        "unknown key 'shapes[1].edg' of kind 'square'. Did you mean 'edge'?",
    ),
    "in an optional union": (
        {"title": "a", "spare": {"kind": "square", "edge": "wide"}},
        "'spare.edge': should be a number (got 'wide').",
    ),
    "in a mapping of schemas": (
        {"title": "a", "pens": {"thin": {"widht": 1}}},
        "unknown key 'pens.thin.widht'. Did you mean 'width'?",
    ),
    "in an open union": (
        {"title": "a", "ink": {"widht": 1}},
        "unknown key 'ink.widht'. Did you mean 'width'?",
    ),
    "of no type of an open union": (
        {"title": "a", "ink": "blue"},
        "'ink': should be a whole number or should be a mapping with keys among colour, solid, width (got 'blue').",
    ),
    "a number that is none": (
        {"title": "a", "pen": {"width": "x"}},
        "'pen.width': should be a whole number (got 'x').",
    ),
    "a fraction": ({"title": "a", "pen": {"width": 1.5}}, "'pen.width': should be a whole number (got 1.5)."),
    "too large": ({"title": "a", "pen": {"width": 10}}, "'pen.width': should be less than or equal to 9 (got 10)."),
    "no truth value": ({"title": "a", "pen": {"solid": "so"}}, "'pen.solid': should be true or false (got 'so')."),
    "a choice that is none": (
        {"title": "a", "pen": {"colour": "rd"}},
        "unknown value 'rd' of 'pen.colour'. Did you mean 'red'?",
    ),
    "a choice that is no text": (
        {"title": "a", "pen": {"colour": None}},
        "'pen.colour': should be one of black, red (got None).",
    ),
    "a number in place of text": ({"title": 3}, "'title': should be text (got 3)."),
    "our own check": ({"title": " "}, "'title': must not be blank (got ' ')."),
    "a schema that is none": (
        {"title": "a", "pen": 7},
        "'pen': should be a mapping with keys among colour, solid, width (got 7).",
    ),
    "a list that is none": ({"title": "a", "layers": 7}, "'layers': should be a list (got 7)."),
    "an empty list": ({"title": "a", "layers": []}, "'layers': should have at least 1 item(s) (got [])."),
    "an item of a list": ({"title": "a", "layers": [1, "b"]}, "'layers[1]': should be a whole number (got 'b')."),
    "an item of a tuple": ({"title": "a", "size": [1, "b"]}, "'size[1]': should be a whole number (got 'b')."),
    "a mapping that is none": (
        {"title": "a", "pens": 7},
        "'pens': should be a mapping of keys to values (got 7).",
    ),
    "infinity": (
        {"title": "a", "shape": {"kind": "square", "edge": float("inf")}},
        "'shape.edge': should be a finite number (got inf).",
    ),
    "a key that is a number": ({"title": "a", 7: 1}, "'7': keys should be text (got 7)."),
    "a key of a mapping that is a number": ({"title": "a", "pens": {7: {}}}, "'pens[7]': should be text (got 7)."),
    "a long value": (
        {"title": "a", "pen": "x" * 99},
        f"'pen': should be a mapping with keys among colour, solid, width (got '{'x' * 56}...).",
    ),
    "nothing at all": (None, f"{TOP}, got nothing."),
    "a list at the top": ([1], f"{TOP}, got [1]."),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_sentence(case: str) -> None:
    value, sentence = WRONG[case]
    with pytest.raises(InputError) as caught:
        parse(Drawing, value, "drawing")
    assert str(caught.value) == f"drawing: {sentence}"


def test_a_right_value() -> None:
    drawing = parse(Drawing, {"title": "a", "shape": {"kind": "square", "edge": 2}, "ink": {"width": 3}}, "drawing")
    assert drawing == Drawing(title="a", shape=Square(edge=2.0), ink=Pen(width=3))


# Files


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "drawing.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


YAML = {
    "a misspelt key": ("title: a\npen:\n  widht: 3\n", ", line 3: unknown key 'pen.widht'. Did you mean 'width'?"),
    "a wrong value": (
        "# a comment\ntitle: a\nshapes:\n  - kind: square\n  - kind: square\n    edge: wide\n",
        ", line 6: 'shapes[1].edge': should be a number (got 'wide').",
    ),
    "a wrong item": ("title: a\nlayers:\n  - 1\n  - b\n", ", line 4: 'layers[1]': should be a whole number (got 'b')."),
    "a missing key": ("pen: {}\n", ": missing key 'title'."),
    "a missing key further down": (
        "title: a\nshape:\n  edge: 2\n",
        ", line 2: missing key 'shape.kind', one of circle, square.",
    ),
    "a key given twice": (
        "title: a\npen:\n  width: 1\n  width: 2\n",
        ", line 4: is not valid YAML: the key 'width' is given twice.",
    ),
    "no YAML": (
        "title: a\npen: {\n",
        ", line 3: is not valid YAML: expected the node content, but found '<stream end>'.",
    ),
    "two documents": ("title: a\n---\ntitle: b\n", ", line 2: is not valid YAML: but found another document."),
    "a Python object": (
        "title: !!python/object:os.system x\n",
        ", line 1: is not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object:os.system'.",
    ),
    "a date that does not exist": ("title: 2024-13-45\n", ": is not valid YAML: month must be in 1..12."),
    "a control character": (
        "title: \x07\n",
        ': is not valid YAML: unacceptable character #x0007: special characters are not allowed in "<unicode string>", '
        "position 7.",
    ),
    "bytes": (b"title: \xff\xfe\n", ": is not a text file (byte 7 is not UTF-8)."),
    "nothing": ("", f": {TOP}, got nothing."),
}


@pytest.mark.parametrize("case", YAML)
def test_one_sentence_about_a_file(case: str, tmp_path: Path) -> None:
    text, sentence = YAML[case]
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        parse_yaml(Drawing, path)
    assert str(caught.value) == f"{path}{sentence}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file or directory\)\.$"):
        parse_yaml(Drawing, tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)\.$"):
        parse_yaml(Drawing, tmp_path)


def test_a_right_file(tmp_path: Path) -> None:
    path = written(tmp_path, "title: a\npens: {thin: &p {colour: red}, thick: {<<: *p, width: 3}}\n")
    drawing = parse_yaml(Drawing, path)
    assert drawing.pens == {"thin": Pen(colour="red"), "thick": Pen(colour="red", width=3)}


def test_schemas_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Pen().width = 3


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}, ("b.d", 3, 4)),
        ({"a": 1}, {}, ("a", 1, None)),
        ({}, {"a": {"b": 1}}, ("a", None, {"b": 1})),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, ("a", 1, 2)),
    ],
)
def test_the_first_difference_is_named(there, here, difference):
    assert first_difference(there, here) == difference
