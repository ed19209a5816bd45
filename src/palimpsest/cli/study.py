"""``palimpsest study``: run, plan, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import available_cores, list_of, output, resumable, say
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from palimpsest.study import AnyStudy

SCORECARD = "scorecard.json"

study_app = typer.Typer(
    no_args_is_help=True,
    help="Train all arms of a study, test their memory, and write the page.",
    epilog="Example: palimpsest study run studies/laptop.yaml",
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Directory of the study.", show_default="runs/NAME")
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="0,1,2", help="Seeds to train, instead of those of the file.", show_default=False),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ARM_OR_KIND",
        help="Only these arms or kinds of stage, with what they need; may be repeated.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Stages to run at the same time.", show_default="cores")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of each stage.")]


@study_app.command("run", epilog="Example: palimpsest study run studies/laptop.yaml --seeds 0,1,2 --only ridge")
def run(
    study: StudyFile,
    out: Out = None,
    seeds: Seeds = None,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = 1,
) -> None:
    """Run every stage that is not done yet and write the page; the same command resumes an interrupted study."""
    spec, directory = _load(study, seeds, out)
    from palimpsest.cli.progress import study_listener
    from palimpsest.study import collect, plan, run_study, select
    from palimpsest.study.directory import open_directory

    stages = plan(spec)
    chosen = select(stages, _names(only))
    for deviation in open_directory(spec, directory):
        say(f"{directory}: {deviation}; the page will say so.")
    kept = f"Stopped; what is finished and the last checkpoints are kept in {directory}; the same command continues."
    with resumable(kept):
        with study_listener(chosen) as listen:
            run_study(
                spec, directory, jobs=jobs or available_cores(), threads=threads, only=_names(only), listen=listen
            )
        page = collect(spec, stages, directory)
    _show_verdicts(directory)
    typer.echo(f"Report: {page}")


@study_app.command("plan", epilog="Example: palimpsest study plan studies/laptop.yaml --jobs 2")
def show_plan(
    study: StudyFile,
    out: Out = None,
    seeds: Seeds = None,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Measure a few training steps of each arm on this machine.")
    ] = True,
) -> None:
    """Show the stages of a study: tokens, operations, and how long they will take here."""
    spec, directory = _load(study, seeds, out)
    from palimpsest.cli.tables import plan_table
    from palimpsest.study import ScorecardSpec, plan, select
    from palimpsest.study.estimate import estimate_stages
    from palimpsest.study.run import STAGES
    from palimpsest.study.scorecard.estimate import estimate_scorecard

    stages = select(plan(spec), _names(only))
    root = directory / STAGES

    def listen(arm: str) -> None:
        say(f"Measuring {arm} ...")

    if isinstance(spec, ScorecardSpec):
        estimates = estimate_scorecard(spec, stages, root, threads=threads, timing=timing, listen=listen)
    else:
        estimates = estimate_stages(spec, stages, root, threads=threads, timing=timing, listen=listen)
    table, summary = plan_table(estimates, jobs or available_cores(), timing=timing)
    output().print(table)
    typer.echo(summary)


@study_app.command("report", epilog="Example: palimpsest study report studies/laptop/results --out /tmp/page")
def report(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY_OR_RECORDS_DIR", help="A study's directory, or one of records.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write the page.", show_default="DIR/report"),
    ] = None,
) -> None:
    """Make the page again, from a study's directory or from its records alone."""
    target = out or directory / "report"
    if (directory / SCORECARD).is_file():
        from palimpsest.report.scorecard import write_scorecard

        typer.echo(f"Report: {write_scorecard(directory, target)}")
        return
    if (directory / "study.json").is_file():
        from palimpsest.report import write_report

        typer.echo(f"Report: {write_report(directory, target)}")
        return
    from palimpsest.report import write_report
    from palimpsest.study import collect, plan
    from palimpsest.study.collect import RECORDS
    from palimpsest.study.directory import read_directory

    spec = read_directory(directory)
    page = collect(spec, plan(spec), directory)
    typer.echo(f"Report: {page if out is None else write_report(directory / RECORDS, target)}")


def _load(study: Path, seeds: str | None, out: Path | None) -> "tuple[AnyStudy, Path]":
    """Return the study with these seeds, and its directory."""
    from palimpsest.study import load_study

    spec = load_study(study)
    if seeds is not None:
        numbers = list_of("--seeds", seeds, int)
        if any(number < 0 for number in numbers) or len(set(numbers)) < len(numbers):
            raise InputError(f"--seeds {seeds!r}: seeds are different whole numbers from 0.")
        spec = spec.model_copy(update={"seeds": tuple(numbers)})
    return spec, out or Path("runs") / spec.name


def _names(only: list[str] | None) -> list[str]:
    return [name for entry in only or [] for name in list_of("--only", entry, str)]


def _show_verdicts(directory: Path) -> None:
    from palimpsest.cli.tables import rows_table, verdict_table
    from palimpsest.records import ScorecardRecord, VerdictRecord, read_json
    from palimpsest.study.collect import RECORDS

    if (directory / RECORDS / SCORECARD).is_file():
        card = ScorecardRecord.model_validate(read_json(directory / RECORDS / SCORECARD))
        output().print(rows_table(card.rows))
        return
    verdicts = [VerdictRecord.model_validate(row) for row in read_json(directory / RECORDS / "verdicts.json")]
    if verdicts:
        output().print(verdict_table(verdicts))
