"""One self-contained HTML page about the autoencoders of a run: figures, plots, features in context."""

from monosem.report.page import write_report
from monosem.report.subject import Subject

__all__ = ["Subject", "write_report"]
