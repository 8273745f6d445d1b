"""Boosting: residual autoencoders that teach a frozen core new domains (arXiv 2507.12990)."""

from monosem.boost.alignment import Alignment, aligned
from monosem.boost.boosting import BASELINES, Boosting, beside, boost
from monosem.boost.gain import gains
from monosem.boost.preserved import Preserved, preserved
from monosem.boost.redundancy import redundancy
from monosem.boost.result import Result
from monosem.boost.rival import grafted, more_latents

__all__ = [
    "BASELINES",
    "Alignment",
    "Boosting",
    "Preserved",
    "Result",
    "aligned",
    "beside",
    "boost",
    "gains",
    "grafted",
    "more_latents",
    "preserved",
    "redundancy",
]
