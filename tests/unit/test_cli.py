"""The command line itself: what there is, how fast it starts, how it ends, and what it shows."""

import errno
import importlib.metadata
import json
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from palimpsest.cli import app, main
from palimpsest.cli.console import list_of, resumable
from palimpsest.errors import InputError

HELP = "--help"
COMMANDS = {
    "study run": {"--out", "--seeds", "--only", "--jobs", "--threads"},
    "study plan": {"--out", "--seeds", "--only", "--jobs", "--threads", "--timing", "--no-timing"},
    "study report": {"--out"},
    "train": {"--out"},
    "align": {"--out"},
    "restore": {"--parts"},
    "eval": {"--tasks", "--list", "--lengths", "--depths", "--items", "--seed", "--shard", "--out"},
    "probe checkpoint": {
        "--interventions",
        "--tasks",
        "--lengths",
        "--depths",
        "--items",
        "--seed",
        "--shard",
        "--out",
    },
    "probe memory": {"--kinds", "--features", "--sizes", "--tests", "--out", "--seed", "--quick"},
    "probe profile": {"--prompt-file", "--documents", "--tokens", "--effect", "--out"},
    "probe perplexity": {"--source", "--config", "--split", "--text-column", "--documents", "--words"}
    | {"--interventions", "--out"},
    "probe text": {"--documents", "--tokens", "--tests", "--source", "--seed", "--out"},
    "generate": {"--prompt", "--prompt-file", "--ask", "--snapshot", "--from-snapshot"}
    | {"--max-new-tokens", "--temperature", "--seed"},
    "info": set(),
    "convert": {"--segment-length", "--memory", "--pattern", "--attention", "--gate-init"},
    "export": {"--title", "--license", "--base-model"},
    "data prepare": {"--tokenizer", "--vocab-size", "--config", "--split", "--text-column", "--id-column", "--limit"}
    | {"--heldout-fraction", "--workers"},
    "data stats": {"--longer", "--json"},
    "data audit": {"--against", "--ngram", "--out", "--canaries", "--seed", "--boilerplate", "--heldout-fraction"}
    | {"--text-column", "--against-column"},
    "data benchmarks": {"--sets", "--from"},
    "data needles": {
        "--tokenizer",
        "--form",
        "--lengths",
        "--count",
        "--split",
        "--segment-length",
        "--row-length",
        "--seed",
    },
    "bench": {"--case", "--out"},
}
HEAVY = {"torch", "transformers", "datasets", "pandas", "numpy", "scipy", "matplotlib", "pyarrow"}


def commands_of(group, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_the_list_of_commands_and_flags_is_this_one():
    found = {
        name: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts) if flag[0] == "-"}
        for name, command in commands_of(typer.main.get_command(app))
    }
    assert {name: flags - {HELP} for name, flags in found.items()} == COMMANDS


@pytest.mark.parametrize("command", ["", "study", "data", "probe", *COMMANDS])
def test_every_help_ends_with_an_example(command):
    shown = CliRunner().invoke(app, [*command.split(), HELP], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    last = shown.stdout.strip().splitlines()[-1].strip()
    assert last.startswith(f"Example: palimpsest {command}".strip())


def test_the_examples_use_flags_that_exist():
    for name, command in commands_of(typer.main.get_command(app)):
        words = command.epilog.removeprefix(f"Example: palimpsest {name}").split()
        assert {word for word in words if word.startswith("--")} <= COMMANDS[name]


@pytest.mark.parametrize("command", [[], ["study", "run"], ["bench"]])
def test_help_starts_in_less_than_a_second_of_processor_time(command):
    def cost() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cost()
    program = "from palimpsest.cli import main; main()"
    shown = subprocess.run([sys.executable, "-c", program, *command, HELP], capture_output=True, text=True, check=True)
    assert cost() - before < 1.0
    assert "Usage:" in shown.stdout


def test_importing_the_command_line_imports_nothing_heavy():
    program = "import json, sys, palimpsest.cli; print(json.dumps([n.split('.')[0] for n in sys.modules]))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(shown.stdout))


def test_version():
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert shown.stdout.strip() == f"palimpsest {importlib.metadata.version('palimpsest-lm')}"


def test_the_package_runs_as_a_module():
    shown = subprocess.run(
        [sys.executable, "-m", "palimpsest", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == f"palimpsest {importlib.metadata.version('palimpsest-lm')}"


def test_the_entry_point_is_installed():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="palimpsest")
    assert script.load() is main


ENDINGS = [
    (InputError("the first line\nand the second."), 2, "palimpsest: the first line and the second.\n"),
    (
        OSError(errno.ENOSPC, "No space left on device", "x"),
        2,
        "palimpsest: x cannot be used: No space left on device.",
    ),
    (PermissionError(errno.EACCES, "Permission denied", "/y"), 2, "palimpsest: /y cannot be used: Permission denied."),
    (KeyboardInterrupt(), 130, "palimpsest: Interrupted; run the same command again"),
]


@pytest.mark.parametrize(("error", "code", "line"), ENDINGS)
def test_an_error_ends_in_one_line_and_its_code(monkeypatch, error, code, line):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("palimpsest.study.load_study", fail)
    shown = CliRunner().invoke(app, ["study", "plan", "x.yaml"])
    assert shown.exit_code == code
    assert shown.stderr.startswith(line)
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("palimpsest.study.load_study", fail)
    assert CliRunner().invoke(app, ["study", "plan", "x.yaml"]).exception is error


def test_an_interrupted_command_says_how_to_go_on(capsys):
    with pytest.raises(typer.Exit) as stop, resumable("Stopped; the same command continues."):
        raise KeyboardInterrupt
    assert stop.value.exit_code == 130
    assert capsys.readouterr().err == "palimpsest: Stopped; the same command continues.\n"


def test_lists():
    assert list_of("--lengths", "160, 288", int) == [160, 288]
    assert list_of("--depths", "0,0.5", float) == [0.0, 0.5]
    assert list_of("--only", "ridge", str) == ["ridge"]
    for text in ("", "1,,2", "1;2", "1.5"):
        with pytest.raises(InputError, match=r"--lengths .* whole numbers separated by commas"):
            list_of("--lengths", text, int)
