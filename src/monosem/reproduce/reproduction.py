"""Re-testing the claims of a paper: plan, work, verdicts, page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from monosem.disk import write_json
from monosem.reproduce import page, plan
from monosem.reproduce.claim import Claim
from monosem.reproduce.ledger import Ledger
from monosem.reproduce.price import Prices
from monosem.reproduce.request import Request
from monosem.reproduce.result import Result, judged, report
from monosem.reproduce.row import Rows
from monosem.reproduce.scale import Scale
from monosem.reproduce.study import Study, chosen_claims, chosen_scale, open_study, with_judge
from monosem.reproduce.work import Work
from monosem.shapes import InputError


def reproduce(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Run what is not done yet within the budget, then write rows, result and page into `request.out`.

    `say` is given the plan before anything runs. Returns the result as written. Raises `InputError` for names,
    claims, budgets and settings that do not make sense; whatever stops it, finished rows are kept.
    """
    study = open_study(request.name)
    scale = chosen_scale(study, request.scale).changed(request.settings, request.seeds)
    if request.judge is not None:
        scale = with_judge(study, scale, request.judge)
    minutes = scale.minutes if request.minutes is None else request.minutes
    if not minutes > 0:
        raise InputError(f"a budget of {minutes:g} minutes leaves no time: give a number above 0")
    claims = chosen_claims(study, request.claims)
    rows = Rows(request.out / f"{study.name}.rows.jsonl")
    ledger = Ledger(study, scale, rows)
    left = _work(ledger, request, claims, 60 * minutes, say)
    results = judged(ledger, request.command, {claim.id for claim in claims}, left)
    results += _others(study, scale.name, rows)
    written = report(study, results)
    write_json(request.out / f"{study.name}.json", written)
    page.write(study, results, rows, request.out)
    return written


def _work(
    ledger: Ledger, request: Request, claims: list[Claim], budget: float, say: Callable[[str], None]
) -> dict[str, float]:
    """Do what fits; seconds that each claim left out would have added."""
    started = time.monotonic()
    device = device_of(ledger.scale)
    prices = Prices(ledger, device)
    if any(ledger.missing(claim) for claim in claims if claim.untestable(ledger.scale) is None):
        say("planning: a few real steps of every kind of arm are timed")
    planned = plan.make(ledger, prices, claims, budget)
    say(plan.text(planned, budget))
    if cost := ledger.study.cost(ledger.scale, len(planned.runs)):
        say(cost)
    work = Work(ledger, planned.claims, request.command, device)
    work.adopt()
    for group in plan.passes(ledger, prices, planned.tuning):
        work.do(group)
    # Learning rates are known now, and with them what the rest is called on disk.
    missing = {run.key: run for claim in planned.claims for run in ledger.missing(claim)}
    for group in plan.passes(ledger, prices, list(missing.values())):
        if time.monotonic() - started > budget:
            say("the budget is used up: what was finished is kept, run the same command again to continue")
            break
        work.do(group)
    return planned.left


def device_of(scale: Scale) -> str:
    """Where autoencoders are trained: as the settings say, `auto` is CUDA where there is one."""
    asked = scale.settings.get("device", "auto")
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def _others(study: Study, name: str, rows: Rows) -> list[Result]:
    """Results of other scales whose rows are all there."""
    results = []
    for other in study.scales.values():
        if other.name != name and any(row["scale"] == other.name for row in rows.all):
            command = Request(study.name, other.name).command
            results += [
                one
                for one in judged(Ledger(study, other, rows), command, set(), {})
                if one.finding.verdict != "not tested"
            ]
    return results
