"""Verdicts from rows, and the result as it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from monosem.reproduce.claim import Claim, Finding
from monosem.reproduce.ledger import Ledger
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study


class Result(NamedTuple):
    """A claim at a scale and what it came to."""

    claim: Claim
    scale: Scale
    finding: Finding
    command: str


def judged(ledger: Ledger, command: str, asked: set[str], left: Mapping[str, float]) -> list[Result]:
    """Every claim of the study at one scale; `left` has the predicted seconds of those that did not fit."""
    return [
        Result(claim, ledger.scale, _finding(ledger, claim, asked, left), f"{command} --claims {claim.id}")
        for claim in ledger.study.claims
    ]


def _finding(ledger: Ledger, claim: Claim, asked: set[str], left: Mapping[str, float]) -> Finding:
    reason = claim.untestable(ledger.scale)
    if reason is not None:
        return not_tested(reason)
    evidence = ledger.evidence(claim)
    if evidence is not None:
        return claim.judge(evidence)
    if claim.id in left:
        minutes = left[claim.id] / 60
        return not_tested(f"does not fit the budget: predicted {minutes:.1f} minutes more", minutes)
    return not_tested("not finished" if claim.id in asked else "not asked for")


def not_tested(reason: str, minutes: float | None = None) -> Finding:
    """A claim for which nothing was measured, and what measuring would take."""
    cost = {} if minutes is None else {"predicted_minutes": round(minutes, 1)}
    return Finding("not tested", None, {"reason": reason, **cost}, {}, note=reason)


def report(study: Study, results: list[Result]) -> dict[str, Any]:
    """The result as JSON."""
    return {"paper": study.paper, "claims": [_entry(result) for result in results]}


def _entry(result: Result) -> dict[str, Any]:
    claim, finding = result.claim, result.finding
    tested = finding.verdict != "not tested" and claim.kind == "statistical"
    return {
        "id": claim.id,
        "claim": claim.claim,
        "kind": claim.kind,
        "scale": result.scale.name,
        "verdict": finding.verdict,
        "seeds": list(result.scale.seeds) if tested else [],
        "interval": _finite(finding.interval and list(finding.interval)),
        "measured": _finite({"definition": claim.definition, **finding.measured}),
        "control": _finite(finding.control),
        "command": result.command,
    }


def _finite(value: Any) -> Any:
    """JSON has no word for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
