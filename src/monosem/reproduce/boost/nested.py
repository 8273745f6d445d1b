"""U1: one residual for every k, trained as HierarchicalTopK."""

from __future__ import annotations

from monosem.reproduce.boost.experiment import on_domains
from monosem.reproduce.boost.figure import domains, drop, ev, mean, minus, over_seeds, percent
from monosem.reproduce.boost.sweep import BATCH, FIXED, NESTED, make
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, signed, summary, worst
from monosem.reproduce.verdict import above, every

MATCHES = -0.01
"""EV that still matches."""


def judge(evidence: Evidence) -> Finding:
    """U1."""
    found, rows = {}, []
    for domain in domains(evidence):
        name = f"sweep_{domain}"
        for k in evidence.scale.extra["ks"]:
            ours, own, batch = f"{NESTED}_{k}", f"{FIXED}_{k}", f"{BATCH}_{k}"
            gap = over_seeds(evidence, name, minus(ev(ours), ev(own)))
            found[f"{domain}, k {k}"] = gap
            cells = [mean(evidence, name, ev(arm)) for arm in (ours, own, batch)]
            rows.append(
                [
                    domain,
                    str(k),
                    *cells,
                    *signed(gap),
                    *(percent(evidence, name, drop(arm)) for arm in (ours, own, batch)),
                ]
            )
    header = ["domain", "k", "one for all", "TopK at k", "BatchTopK at k", "D", "interval"]
    header += [f"general EV lost, {arm}" for arm in ("one for all", "TopK", "BatchTopK")]
    return Finding(
        every(above(gap.values, MATCHES) for gap in found.values()),
        ends_of(worst(list(found.values()))),
        {key: summary(gap) for key, gap in found.items()},
        {"within": MATCHES},
        [Table("EV on the domain, means over seeds; D = one for all − TopK trained at k", header, rows)],
        note="The interval is that of the D that reaches lowest. TopK spends its k on general text too.",
    )


CLAIM = Claim(
    "U1",
    "One hierarchical residual serves every k (unpublished)",
    "D(k) = EV on the domain of a residual trained for all budgets up to K, cut at k, minus that of a TopK residual "
    f"trained at k on as many tokens. Confirmed if D > {MATCHES:g} at all k and domains, contradicted if below at any.",
    judge,
    trials=on_domains(make),
)
