"""The report of a study: one HTML page that needs nothing else, and the same as CSV, Parquet, LaTeX, SVG and PDF."""

from __future__ import annotations

from pliant.lab.report.data import Box, Detected, ReportData, Scene, Shape, Stage
from pliant.lab.report.files import figure_files, write_figures
from pliant.lab.report.page import PAGE, build, draw
from pliant.lab.report.tables import write_tables

__all__ = [
    "PAGE",
    "Box",
    "Detected",
    "ReportData",
    "Scene",
    "Shape",
    "Stage",
    "build",
    "draw",
    "figure_files",
    "write_figures",
    "write_tables",
]
