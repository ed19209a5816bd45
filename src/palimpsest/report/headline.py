"""The one figure and the one table by which a README tells a study."""

from palimpsest.errors import InputError
from palimpsest.report.answer_figures import accuracy_figure
from palimpsest.report.catalogue import compression_table
from palimpsest.report.load import StudyResults
from palimpsest.report.tables import table_markdown

WIDTH = 6.8


def headline_figure(results: StudyResults) -> str:
    """Return accuracy by the number of compressions before the answer, all arms with bands, as an SVG document.

    Raises:
        InputError: the records hold no answers.
    """
    plot = accuracy_figure(results, "exact", since="start", width=WIDTH)
    if plot is None:
        raise InputError(f"{results.directory} holds no answers to draw: run the study's evaluation first.")
    return plot.svg


def headline_table(results: StudyResults) -> str:
    """Return accuracy by the number of compressions before the answer as a Markdown table.

    Percent, 95 % Wilson interval and n per cell.

    An arm whose memory was swapped has a second row.

    Raises:
        InputError: the records hold no answers.
    """
    table = compression_table(results, "start")
    if not table.rows:
        raise InputError(f"{results.directory} holds no answers to tabulate: run the study's evaluation first.")
    return table_markdown(table)
