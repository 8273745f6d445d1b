"""What the judges of this study read: figures of an arm in a trial, one a seed, and their cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from monosem.reproduce.arm import Measured
from monosem.reproduce.claim import Evidence
from monosem.reproduce.figure import Read
from monosem.reproduce.verdict import Interval, interval


def domains(evidence: Evidence) -> list[str]:
    """The domains of the scale."""
    return evidence.scale.extra["domains"]


def ev(arm: str, text: str = "domain") -> Read:
    """Explained variance on held-out text of the domain, or in general."""
    return lambda found: found["arms"][arm][text]["ev"]


def l0(arm: str, text: str = "domain") -> Read:
    """Active latents a token, those of the core included."""
    return lambda found: found["arms"][arm][text]["l0"]


def ce(arm: str, text: str = "domain") -> Read:
    """The model's cross-entropy with the arm in place, in nats."""
    return lambda found: found["arms"][arm][text]["ce"]


def drop(arm: str) -> Read:
    """The share of the core's EV on general text that is lost."""

    def read(found: Measured) -> float:
        before, after = (found["arms"][name]["general"]["ev"] for name in ("core", arm))
        return (before - after) / abs(before)

    return read


def minus(a: Read, b: Read) -> Read:
    """The difference of two figures of the same trial."""
    return lambda found: a(found) - b(found)


def over_seeds(evidence: Evidence, trial: str, read: Read) -> Interval:
    """The mean of a figure over seeds, with its interval."""
    return interval(evidence.values(trial, read))


def has_losses(evidence: Evidence, trial: str) -> bool:
    """Whether the model's cross-entropy was measured."""
    return "ce" in evidence.measured(trial, evidence.scale.seeds[0])["arms"]["core"]["domain"]


def mean(evidence: Evidence, trial: str, read: Read, digits: int = 4) -> str:
    """Over seeds, as a cell."""
    return f"{statistics.fmean(evidence.values(trial, read)):.{digits}f}"


def percent(evidence: Evidence, trial: str, read: Read) -> str:
    """Mean over seeds, and the least and the greatest, of a share."""
    values = [100 * value for value in evidence.values(trial, read)]
    return f"{statistics.fmean(values):+.2f} % ({min(values):+.2f} … {max(values):+.2f})"


def row(evidence: Evidence, trial: str, name: str, arm: str) -> list[str]:
    """EV, drop and L0 of an arm, means over seeds; with a model its cross-entropies."""
    cells = [
        name,
        mean(evidence, trial, ev(arm)),
        mean(evidence, trial, ev(arm, "general")),
        percent(evidence, trial, drop(arm)),
        mean(evidence, trial, l0(arm), 2),
        mean(evidence, trial, l0(arm, "general"), 2),
    ]
    if has_losses(evidence, trial):
        first = evidence.measured(trial, evidence.scale.seeds[0])["arms"][arm]
        cells += [
            mean(evidence, trial, ce(arm, text)) if "ce" in first[text] else "–" for text in ("domain", "general")
        ]
    return cells


def header(evidence: Evidence, trial: str) -> list[str]:
    """Of such rows."""
    losses = ["CE domain", "CE general"] if has_losses(evidence, trial) else []
    return ["", "EV domain", "EV general", "general EV lost (least … greatest)", "L0 domain", "L0 general", *losses]


Curve = Callable[[int], Read]


def curve(evidence: Evidence, trial: str, at: Sequence[int], read: Curve) -> list[Interval]:
    """A figure at several budgets."""
    return [over_seeds(evidence, trial, read(value)) for value in at]
