"""Publish a finished study: its records, compressed, into studies/NAME/results, its figure and table into the README.

python studies/publish.py runs/laptop
python studies/publish.py --readme-only
"""

import argparse
import gzip
import shutil
from pathlib import Path

from palimpsest.report import StudyResults, headline_figure, headline_table, load_records

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"


def publish(records: Path, results: Path) -> None:
    """Replace ``results`` by the records of a study, JSON lines compressed."""
    shutil.rmtree(results, ignore_errors=True)
    for path in sorted(records.rglob("*")):
        target = results / path.relative_to(records)
        if path.suffix == ".jsonl":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        elif path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (results / "figure.svg").write_text(headline_figure(load_records(results)), encoding="utf-8")


def readme_section(results: StudyResults, folder: str) -> str:
    """Return what the README says about a study, all of it from its records."""
    study = results.study
    verdicts = [f"| {v.verdict} | {v.statement} | {v.sentence} |" for v in results.verdicts]
    seeds = f"{len(study.seeds)} training seeds" if len(study.seeds) > 1 else "1 training seed"
    return "\n".join(
        [
            BEGIN,
            f"![Whole keys found against the number of compressions, for every arm]({folder}/figure.svg)",
            "",
            f"{study.question} Whole keys found, in percent, with 95 % Wilson intervals over items; "
            f"{seeds}, items pooled.",
            "",
            headline_table(results).strip(),
            "",
            f"The claims were written down before the first run ([study file](studies/{study.name}.yaml)); what was "
            "changed after earlier runs is in the [log](docs/log.md).",
            "",
            "| verdict | claim | found |",
            "|---|---|---|",
            *verdicts,
            END,
        ]
    )


def update_readme(text: str, section: str) -> str:
    """Return the README with the section between its marks replaced."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + section + after


def main() -> None:
    """Publish from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", help="directory of a finished study")
    parser.add_argument("--name", default="laptop", help="folder under studies/ (default: laptop)")
    parser.add_argument("--readme-only", action="store_true", help="only write the README again")
    arguments = parser.parse_args()
    results = ROOT / "studies" / arguments.name / "results"
    if not arguments.readme_only:
        if arguments.study is None:
            parser.error("give the directory of a finished study, or --readme-only")
        publish(arguments.study / "records", results)
    section = readme_section(load_records(results), f"studies/{arguments.name}/results")
    README.write_text(update_readme(README.read_text(encoding="utf-8"), section), encoding="utf-8")


if __name__ == "__main__":
    main()
