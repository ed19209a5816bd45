"""Publish a finished study: its records, compressed, into studies/NAME/results, what they say into the README.

Scorecards and studies with several grids say more than a README should: they have pages of their own,
studies/NAME/README.md, and only the primary rows of a scorecard go into the README, if it has a place for them.

python studies/publish.py runs/laptop
python studies/publish.py runs/scorecard-small --name scorecard-small
python studies/publish.py runs/replica-small-tune --name replica-small-tune --training
python studies/publish.py --readme-only
"""

import argparse
import gzip
import lzma
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import grid_tables
import scorecard_tables

from palimpsest.records import GRIDS, RowRecord, ScorecardRecord
from palimpsest.report import StudyResults, headline_figure, headline_table, load_records
from palimpsest.report.scorecard import load_scorecard
from palimpsest.report.tables import markdown_of
from palimpsest.schema import parse_yaml
from palimpsest.study.spec import StudySpec

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SCORECARD = "scorecard.json"
TRAINING = ("study.json", "metrics", "provenance")


def publish(records: Path, results: Path, *, training: bool = False) -> None:
    """Replace ``results`` by the records of a study, JSON lines compressed well; or by those of its training alone."""
    shutil.rmtree(results, ignore_errors=True)
    for path in sorted(records.rglob("*")):
        if path.is_dir() or (training and path.relative_to(records).parts[0] not in TRAINING):
            continue
        target = results / path.relative_to(records)
        target.parent.mkdir(parents=True, exist_ok=True)
        name, ending, _ = path.name.partition(".jsonl")
        if ending:
            lines = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            target.with_name(f"{name}.jsonl.xz").write_bytes(lzma.compress(lines))
        else:
            shutil.copyfile(path, target)
    if not training and not has_page(results):
        (results / "figure.svg").write_text(headline_figure(load_records(results)), encoding="utf-8")


def is_scorecard(results: Path) -> bool:
    """Whether the records of a study are those of a scorecard."""
    return (results / SCORECARD).exists()


def has_page(results: Path) -> bool:
    """Whether a study has a page of its own besides the README."""
    return is_scorecard(results) or (results / GRIDS).exists()


def readme_section(results: StudyResults, folder: str) -> str:
    """Return what the README says about a study, all of it from its records."""
    study = results.study
    seeds = f"{len(study.seeds)} training seeds" if len(study.seeds) > 1 else "1 training seed"
    return "\n".join(
        [
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
            *_verdicts(results),
        ]
    )


def grids_page(results: Path) -> str:
    """Return the page of a study with several grids: what was claimed, then what every arm did."""
    found = load_records(results)
    spec = parse_yaml(StudySpec, ROOT / "studies" / f"{found.study.name}.yaml")
    lines = [
        f"# {spec.name}",
        "",
        " ".join(spec.question.split()),
        "",
        f"{_source(spec.name)} with figures and single items ([study file](../{spec.name}.yaml)).",
        "",
    ]
    if found.verdicts:
        counts = Counter(each.verdict for each in found.verdicts)
        tally = f"Written down before the run. {_counted(len(found.verdicts), 'claims', counts)}"
        lines += ["## Claims", "", tally, "", *_verdicts(found), ""]
    return "\n".join([*lines, grid_tables.tables(results, spec)]).rstrip() + "\n"


def _verdicts(results: StudyResults) -> list[str]:
    rows = [(each.verdict, each.statement, each.sentence) for each in results.verdicts or ()]
    return [markdown_of(("verdict", "claim", "found"), rows)]


def scorecard_section(card: ScorecardRecord) -> str:
    """Return what the README says about a scorecard: its primary rows, with the numbers that decide them."""
    rows = [(row.id, row.verdict, row.claim, _numbers(row)) for row in card.rows if row.primary]
    return "\n".join(
        [
            f"{card.question} {_tally(card)} {len(card.seeds)} training seeds. The primary rows, judged together by "
            f"Holm's procedure, with 95 % intervals ([all rows, with methods](studies/{card.name}/README.md)):",
            "",
            markdown_of(("row", "verdict", "claim", "found"), rows),
        ]
    )


def _numbers(row: RowRecord) -> str:
    """Return the numbers of a rule in short, each once."""
    shown = {name: found for name, found in row.estimates.items() if not name.endswith("_90")}
    return "; ".join(
        f"{name.replace('_', ' ')} {found.mean:.3g}"
        + (f" [{found.low:.3g}, {found.high:.3g}]" if found.low < found.high else "")
        for name, found in shown.items()
    )


def scorecard_page(card: ScorecardRecord) -> str:
    """Return every row of a scorecard as a page of Markdown."""
    lines = [f"# {card.name}", "", card.question, "", _tally(card), ""]
    lines += [f"{_source(card.name)}", "with figures and single items.", "", "## Rows", ""]
    rows = [(_name(row), row.verdict, row.claim, row.published or "", row.sentence) for row in card.rows]
    lines += [markdown_of(("row", "verdict", "claim", "published", "found"), rows)]
    for title, sentences in (("Deviations from what was fixed before", card.deviations), ("Opened", card.opened)):
        lines += ["", f"## {title}", "", *(f"- {sentence}" for sentence in sentences or ("None.",))]
    return "\n".join(lines) + "\n"


def whole_page(results: Path) -> str:
    """Return the page of a study that has one: rows or claims, then what every arm did."""
    if not is_scorecard(results):
        return grids_page(results)
    card = load_scorecard(results)
    return f"{scorecard_page(card)}\n{scorecard_tables.tables(results, card)}".rstrip() + "\n"


def _source(name: str) -> str:
    return f"Made from the records in `results`; `palimpsest study report studies/{name}/results --out DIR` shows them"


def _tally(card: ScorecardRecord) -> str:
    return _counted(len(card.rows), "rows", Counter(row.verdict if row.tested else "not tested" for row in card.rows))


def _counted(number: int, what: str, verdicts: Mapping[str, int]) -> str:
    counts = Counter(verdicts).most_common()
    return f"{number} {what}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts) + "."


def _name(row: RowRecord) -> str:
    return f"**{row.id}**" if row.primary else row.id


def update_readme(text: str, name: str, section: str) -> str:
    """Return the README with what it says about a study replaced; as it is if it has no place for that study."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text:
        return text
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{section}\n{end}{after}"


def main() -> None:
    """Publish from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", help="directory of a finished study")
    parser.add_argument("--name", default="laptop", help="folder under studies/ (default: laptop)")
    parser.add_argument("--readme-only", action="store_true", help="only write the README again")
    parser.add_argument("--training", action="store_true", help="only what training logged, for a sweep; no page")
    arguments = parser.parse_args()
    results = ROOT / "studies" / arguments.name / "results"
    if not arguments.readme_only:
        if arguments.study is None:
            parser.error("give the directory of a finished study, or --readme-only")
        publish(arguments.study / "records", results, training=arguments.training)
    if arguments.training:
        return
    if has_page(results):
        (results.parent / "README.md").write_text(whole_page(results), encoding="utf-8")
    if is_scorecard(results):
        section = scorecard_section(load_scorecard(results))
    else:
        section = readme_section(load_records(results), f"studies/{arguments.name}/results")
    README.write_text(update_readme(README.read_text(encoding="utf-8"), arguments.name, section), encoding="utf-8")


if __name__ == "__main__":
    main()
