"""U2: a residual with a Kronecker encoder."""

from __future__ import annotations

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost.arm import KRON
from monosem.reproduce.boost.experiment import Experiment, on_domains, trial
from monosem.reproduce.boost.figure import domains, drop, ev, header, minus, over_seeds, row
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, signed, summary, worst
from monosem.reproduce.verdict import above, below, every

WITHIN = 0.01
WORDS = {"kron": "equal tokens", "kron_flops": "equal multiply-adds"}


def run(one: Experiment) -> Measured:
    """Dense and Kronecker residuals of one number of latents."""
    saes = {"core": one.core, "boost": one.load(one.residual()), **one.trained(KRON)}
    return {"arms": measured(saes, one.text, one.here)}


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("kron", domain, run, lambda scale: list(KRON), read=2)


def judge(evidence: Evidence) -> Finding:
    """U2."""
    gains, harms, rows, tables = {}, {}, [], []
    for domain in domains(evidence):
        name = f"kron_{domain}"
        for arm, words in WORDS.items():
            key = f"{domain}, {words}"
            gains[key] = over_seeds(evidence, name, minus(ev(arm), ev("boost")))
            harms[key] = over_seeds(evidence, name, minus(drop(arm), drop("boost")))
            rows.append([domain, words, *signed(gains[key]), *signed(harms[key])])
        shown = [("core alone", "core"), ("dense residual", "boost")]
        shown += [(f"Kron residual, {words}", arm) for arm, words in WORDS.items()]
        cells = [row(evidence, name, *pair) for pair in shown]
        tables.append(Table(f"{domain}: means over seeds", header(evidence, name), cells, folded=True))
    title = "Kron minus dense residual: EV on the domain, share of general EV lost"
    return Finding(
        every(
            [
                *(above(one.values, -WITHIN) for one in gains.values()),
                *(below(one.values, WITHIN) for one in harms.values()),
            ]
        ),
        ends_of(worst(list(gains.values()))),
        {key: summary(one) for key, one in gains.items()},
        {"general_drop": {key: summary(one) for key, one in harms.items()}},
        [Table(title, ["domain", "", "EV", "interval", "drop", "interval"], rows), *tables],
        note="The interval is that of the EV difference that reaches lowest.",
    )


CLAIM = Claim(
    "U2",
    "A Kron residual does what a dense one does (unpublished)",
    f"EV on the domain and share of general EV lost, Kron (heads of 2 × 4) minus dense residual, with as many latents, "
    f"at equal tokens and at equal multiply-adds of the whole residual (more tokens for Kron). Confirmed if EV is "
    f"above −{WITHIN:g} and the loss below {WITHIN:g} in both on every domain, contradicted if one is beyond.",
    judge,
    trials=on_domains(make),
)
