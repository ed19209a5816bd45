"""Records in, figures, tables and one self-contained page out; no torch."""

from palimpsest.report.headline import headline_figure, headline_table
from palimpsest.report.load import StudyResults, load_records
from palimpsest.report.page import write_report

__all__ = ["StudyResults", "headline_figure", "headline_table", "load_records", "write_report"]
