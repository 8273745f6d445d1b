"""What will be run: whole claims, the cheapest first, as long as they fit the time there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from monosem.reproduce.arm import Trial
from monosem.reproduce.claim import Claim
from monosem.reproduce.ledger import Ledger, Run
from monosem.reproduce.price import Prices
from monosem.reproduce.study import Study

Part = tuple[str, str, int | None]
"""A piece of work that claims may share: (data | tuning | run, name, seed)."""


class Plan(NamedTuple):
    """Claims that will be finished, the runs for them, and seconds; what each claim left out would add."""

    claims: list[Claim]
    tuning: list[Run]
    runs: list[Run]
    tokens: int
    seconds: dict[str, float]
    left: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def make(ledger: Ledger, prices: Prices, claims: list[Claim], budget: float) -> Plan:
    """The plan for `budget` seconds."""
    testable = [claim for claim in claims if claim.untestable(ledger.scale) is None]
    missing = {claim.id: ledger.missing(claim) for claim in testable}
    needs = {claim.id: parts(ledger, prices, missing[claim.id]) for claim in testable}
    chosen, left = fit(needs, budget)
    kept = [claim for claim in testable if claim.id in chosen]
    runs = list({run.key: run for claim in kept for run in missing[claim.id]}.values())
    tuning = _tuning(ledger, runs)
    seconds = {"data": 0.0, "tuning": 0.0, "run": 0.0}
    for (kind, *_), value in _union(needs, chosen).items():
        seconds[kind] += value
    return Plan(kept, tuning, runs, sum(map(prices.tokens, tuning + runs)), seconds, left)


def _tuning(ledger: Ledger, runs: list[Run]) -> list[Run]:
    grids = [run for family in ledger.families(runs) for run in ledger.grid(family)]
    return [run for run in grids if ledger.found(run) is None]


def parts(ledger: Ledger, prices: Prices, runs: list[Run]) -> dict[Part, float]:
    """Seconds of everything that these runs take, learning rates and data included."""
    found: dict[Part, float] = {}
    tuning = _tuning(ledger, runs)
    for kind, several in (("tuning", tuning), ("run", runs)):
        for run in several:
            found[kind, run.name, run.seed] = prices.run(run)
            if not isinstance(run.work, Trial):
                found["data", run.work.data, _reading(ledger, run)] = prices.data(run.work.data)
    return found


def _reading(ledger: Ledger, run: Run) -> int | None:
    """What is read again: nothing, data of each seed, or a model that runs for every seed."""
    return run.seed if ledger.scale.settings.get("activations") == "live" else data_seed(ledger.study, run)


def data_seed(study: Study, run: Run) -> int | None:
    """Which of the data a run reads: those of its seed, or the one there is."""
    assert not isinstance(run.work, Trial)
    return run.seed if study.data[run.work.data].seeded else None


def fit(needs: Mapping[str, Mapping[Part, float]], budget: float) -> tuple[list[str], dict[str, float]]:
    """Claims in the order chosen, and what each of the others would still add.

    Again and again the claim that adds least is taken, if it fits; parts that claims share count once.
    """
    chosen: list[str] = []
    while True:
        spent = sum(_union(needs, chosen).values())
        rest = {name: sum(_union(needs, [*chosen, name]).values()) - spent for name in needs if name not in chosen}
        cheapest = min(rest, key=lambda name: rest[name], default=None)
        if cheapest is None or spent + rest[cheapest] > budget:
            return chosen, rest
        chosen.append(cheapest)


def _union(needs: Mapping[str, Mapping[Part, float]], names: list[str]) -> dict[Part, float]:
    return {part: seconds for name in names for part, seconds in needs[name].items()}


def passes(ledger: Ledger, prices: Prices, runs: list[Run]) -> list[list[Run]]:
    """Runs that go through the stream together: same data, same seed, as long as the scale says; trials alone."""
    most = 60 * ledger.scale.pass_minutes
    groups: dict[tuple, list[list[Run]]] = {}
    for number, run in enumerate(runs):
        if isinstance(run.work, Trial):
            groups[number, run.name] = [[run]]
            continue
        config = ledger.config(run, ledger.scale.rates[0])
        together = groups.setdefault((run.work.data, run.seed, config.seed, config.batch, config.block), [[]])
        if together[-1] and sum(map(prices.run, [*together[-1], run])) > most:
            together.append([])
        together[-1].append(run)
    return [group for together in groups.values() for group in together]


def text(plan: Plan, budget: float) -> str:
    """The plan as a person reads it, before anything is run."""
    names = ", ".join(claim.id for claim in plan.claims) or "none"
    head = f"plan: claims {names}; {len(plan.runs)} runs and {len(plan.tuning)} to choose learning rates"
    words = {"data": "data", "tuning": "learning rates", "run": "runs"}
    costs = ", ".join(f"{words[kind]} {seconds / 60:.1f}" for kind, seconds in plan.seconds.items())
    lines = [
        f"{head}, {plan.tokens:,} training tokens",
        f"predicted: {plan.total / 60:.1f} of {budget / 60:g} minutes ({costs})",
    ]
    lines += [f"left out: {name} would add {seconds / 60:.1f} minutes" for name, seconds in plan.left.items()]
    return "\n".join(lines)
