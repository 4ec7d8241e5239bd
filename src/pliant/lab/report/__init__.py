"""The report of a study: one HTML page that needs nothing else, and the same numbers as CSV, Parquet and LaTeX."""

from __future__ import annotations

from pliant.lab.report.data import ReportData, Shape, Stage
from pliant.lab.report.page import build
from pliant.lab.report.tables import write_tables

__all__ = ["ReportData", "Shape", "Stage", "build", "write_tables"]
