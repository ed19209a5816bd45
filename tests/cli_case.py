"""How tests run a command, and what every refusal has to be."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from palimpsest.cli import app
from palimpsest.errors import InputError


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object) -> str:
    """Run a command that must refuse its input, and return its sentence."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("palimpsest: ")
    assert "Traceback" not in result.output
    return lines[0].removeprefix("palimpsest: ")


def refusal(call: Callable[[], object]) -> str:
    """Make a call that must refuse its input, and return what it says."""
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)
