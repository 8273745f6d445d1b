"""Self-contained HTML pages: the autoencoders of a run, and several compared."""

from monosem.report.comparison import write_comparison
from monosem.report.page import write_report
from monosem.report.portrait import Portrait, read_feature
from monosem.report.subject import Subject

__all__ = ["Portrait", "Subject", "read_feature", "write_comparison", "write_report"]
