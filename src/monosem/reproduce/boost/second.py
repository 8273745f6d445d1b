"""U3: boosting what has been boosted."""

from __future__ import annotations

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost.arm import BOOST, double
from monosem.reproduce.boost.experiment import Experiment, on_domains, trial
from monosem.reproduce.boost.figure import domains, drop, ev, header, minus, over_seeds, row
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, signed, summary, worst
from monosem.reproduce.verdict import above, every

WITHIN = 0.01


def run(one: Experiment) -> Measured:
    """A residual, another trained on what it left, and a single one of twice the latents and twice the k."""
    first = one.residual()
    saes = {"core": one.core, "boost": one.load(first)}
    saes["twice"] = one.trained([BOOST], beside=first, name="second residual")[BOOST.name]
    saes |= one.trained([double(one.scale)])
    return {"arms": measured(saes, one.text, one.here)}


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("second", domain, run, lambda scale: [BOOST, BOOST, double(scale)], read=1)


def judge(evidence: Evidence) -> Finding:
    """U3."""
    found, rows, tables = {}, [], []
    for domain in domains(evidence):
        name = f"second_{domain}"
        found[domain] = over_seeds(evidence, name, minus(ev("twice"), ev("double")))
        others = [minus(ev("twice"), ev("boost")), minus(drop("twice"), drop("double"))]
        cells = [part for read in others for part in signed(over_seeds(evidence, name, read))]
        rows.append([domain, *signed(found[domain]), *cells])
        shown = {
            "core": "core alone",
            "boost": "one residual",
            "twice": "two, one after the other",
            "double": "one of twice the size",
        }
        tables.append(
            Table(
                f"{domain}: means over seeds",
                header(evidence, name),
                [row(evidence, name, words, arm) for arm, words in shown.items()],
            )
        )
    titles = ["EV over one of twice the size", "interval", "EV over the first alone", "interval"]
    titles += ["general EV lost, minus that of one of twice the size", "interval"]
    return Finding(
        every(above(one.values, -WITHIN) for one in found.values()),
        ends_of(worst(list(found.values()))),
        {domain: summary(one) for domain, one in found.items()},
        {"within": WITHIN},
        [Table("A second residual: mean and 95 % interval over seeds", ["domain", *titles], rows), *tables],
        note="The interval is that of the difference from one residual of twice the size that reaches lowest.",
    )


CLAIM = Claim(
    "U3",
    "A boosted autoencoder can be boosted again (unpublished)",
    f"EV on the domain of two residuals of m latents and k, the second trained on what the first left, minus that of "
    f"one of 2m latents and 2k, each of them trained on the same tokens. Confirmed if above −{WITHIN:g} on every "
    "domain, contradicted if below on one.",
    judge,
    trials=on_domains(make),
)
