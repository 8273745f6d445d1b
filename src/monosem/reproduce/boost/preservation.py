"""C2: whether general text is as well explained as before."""

from __future__ import annotations

from monosem.boost.preserved import CE_LIMIT, EV_LIMIT
from monosem.reproduce.boost.experiment import on_domains
from monosem.reproduce.boost.figure import domains, drop, over_seeds, percent
from monosem.reproduce.boost.gain import make
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, summary
from monosem.reproduce.verdict import LEAST_SEEDS, Verdict

ENOUGH = 100_000_000
"""Tokens of a domain below which the paper itself sees general text suffer: damage then speaks of the budget (C5)."""


def verdict(by_domain: dict[str, list[str]], tokens: int) -> Verdict:
    """From every seed's own: preserved everywhere, or damaged in all seeds of a domain by as many tokens as needed."""
    if any(len(found) < LEAST_SEEDS for found in by_domain.values()):
        return "undecided"
    if all(set(found) == {"preserved"} for found in by_domain.values()):
        return "confirmed"
    damaged = any(set(found) == {"damaged"} for found in by_domain.values())
    return "contradicted" if damaged and tokens >= ENOUGH else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C2."""
    scale = evidence.scale
    found = {
        domain: [evidence.measured(f"gain_{domain}", seed)["arms"]["boost"]["preserved"] for seed in scale.seeds]
        for domain in domains(evidence)
    }
    verdicts = {domain: [one["verdict"] for one in several] for domain, several in found.items()}
    drops = {domain: over_seeds(evidence, f"gain_{domain}", drop("boost")) for domain in found}
    rows = [_row(evidence, domain, verdicts[domain], [one["added_ce"] for one in found[domain]]) for domain in found]
    header = ["domain", "by seed", "general EV lost", "CE added, nats", "alignment in general", "energy in general"]
    return Finding(
        verdict(verdicts, scale.tokens),
        ends_of(max(drops.values(), key=lambda one: one.high)),
        {domain: {"verdicts": verdicts[domain], "drop": summary(drops[domain])} for domain in found},
        {"core_ev": {domain: _core(evidence, domain) for domain in found}},
        [Table("General text beside the core: mean over seeds (least … greatest)", header, rows)],
        note="The interval is that of the share of EV lost, over seeds, where it reaches highest. Alignment "
        "Σ⟨e, a⟩/Σ‖a‖² below 1/2 is harm; energy is Σ‖a‖²/Σ‖e‖².",
    )


def _core(evidence: Evidence, domain: str) -> list[float]:
    return evidence.values(f"gain_{domain}", lambda found: found["arms"]["core"]["general"]["ev"])


def _row(evidence: Evidence, domain: str, verdicts: list[str], losses: list[dict | None]) -> list[str]:
    name = f"gain_{domain}"
    added = [one["value"] for one in losses if one is not None]
    shown = f"{sum(added) / len(added):+.4f} ({min(added):+.4f} … {max(added):+.4f})" if added else "–"
    cells = [domain, ", ".join(verdicts), percent(evidence, name, drop("boost")), shown]
    for key in ("alignment", "energy_ratio"):
        values = evidence.values(name, lambda found, key=key: found["alignment"]["general"][key] or 0.0)
        cells.append(f"{sum(values) / len(values):.3f}")
    return cells


CLAIM = Claim(
    "C2",
    "General text stays as it was",
    f"Of each seed, bootstrap over windows of general text: preserved if the 95 % upper bounds of the lost share of EV "
    f"and of the added cross-entropy (with a model) are below {EV_LIMIT:g} and {CE_LIMIT:g} nats, damaged if a lower "
    f"bound is above. Confirmed if preserved for all seeds and domains; contradicted if damaged for all seeds of a "
    f"domain with at least {ENOUGH // 10**6}M tokens of it: with fewer, the paper says so itself (C5).",
    judge,
    trials=on_domains(make),
)
