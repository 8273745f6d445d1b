"""C1 and C2: what a residual gains on its domain, and what general text keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monosem.boost import Alignment
from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost import core as cores
from monosem.reproduce.boost import rate
from monosem.reproduce.boost.arm import BOOST, GENERAL, WORDS
from monosem.reproduce.boost.experiment import Experiment, everywhere, on_domains, trial
from monosem.reproduce.boost.figure import ce, domains, ev, has_losses, header, minus, over_seeds, percent, row
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.boost.text import Part
from monosem.reproduce.boost.threshold import at_l0, l0
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, signed, summary, worst
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, Verdict, above, below, every
from monosem.sae import SAE, added, groups, without

CONTROLS = ("core", "more_k", "general")
IN_LOSS = ", CE"


def run(one: Experiment) -> Measured:
    """Core, core with as many latents active as with the residual, the residual, and one trained on general text."""
    boost = one.load(one.residual())
    saes = {
        "core": one.core,
        "boost": boost,
        "more_k": at_l0(one.core, one.batches, l0(boost, one.batches)),
        "general": one.load(one.on(one.here.general).residual()),
    }
    losses = one.scale.extra["losses"] if one.text.name in one.scale.extra["domains"] else 0
    inside = {"domain": saes, "general": ("core", "boost")}
    arms = measured(saes, one.text, one.here, losses=losses, inside=inside)
    texts = {"domain": one.text.held_out, "general": one.here.general.held_out}
    return {"arms": arms, "alignment": {name: alignment(boost, part) for name, part in texts.items()}}


@torch.no_grad()
def alignment(sae: SAE, part: Part) -> dict[str, Any]:
    """How what the first residual adds lies to what the core leaves."""
    name = groups(sae)[1].name
    core, found = without(sae, *(group.name for group in groups(sae)[1:])), Alignment([name])
    for acts in part.acts.split(1024):
        x = acts.to(sae.W_dec.device)
        found.update(x - core(x), added(sae, x))
    return found.figures(name)


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("gain", domain, run, lambda scale: [BOOST, GENERAL], read=2, losses=3)


def wide(scale: Scale) -> list[Trial]:
    """The same on all domains there are."""
    return [rate.TRIAL, cores.TRIAL, *(make(domain) for domain in everywhere(scale))]


def better(evidence: Evidence, domain: str) -> dict[str, Interval]:
    """Boost minus each control in EV; each control minus Boost in cross-entropy."""
    name = f"gain_{domain}"
    found = {control: over_seeds(evidence, name, minus(ev("boost"), ev(control))) for control in CONTROLS}
    if has_losses(evidence, name):
        for control in CONTROLS:
            found[control + IN_LOSS] = over_seeds(evidence, name, minus(ce(control), ce("boost")))
    return found


def decided(found: dict[str, Interval]) -> Verdict:
    """Better than all: confirmed; no better than the core with more latents active: contradicted."""
    if every(above(one.values) for one in found.values()) == "confirmed":
        return "confirmed"
    return "contradicted" if below(found["more_k"].values) == "confirmed" else "undecided"


def gained(evidence: Evidence) -> Finding:
    """C1."""
    return _gained(evidence, domains(evidence))


def gained_widely(evidence: Evidence) -> Finding:
    """C1.wide."""
    return _gained(evidence, everywhere(evidence.scale))


def _gained(evidence: Evidence, names: Sequence[str]) -> Finding:
    found = {domain: better(evidence, domain) for domain in names}
    verdicts = {domain: decided(one) for domain, one in found.items()}
    of_ev = [one[control] for one in found.values() for control in CONTROLS]
    tables = [_differences(found, verdicts), _gains(evidence, names)]
    tables += [_figures(evidence, domain) for domain in names]
    return Finding(
        every(verdicts.values()),
        ends_of(worst(of_ev)),
        {domain: {key: summary(value) for key, value in one.items()} for domain, one in found.items()},
        {"verdicts": verdicts},
        [*tables, rate.table(evidence.scale, evidence.measured("rates"))],
        note="The interval is that of the domain and control whose EV difference reaches lowest.",
    )


def _differences(found: dict[str, dict[str, Interval]], verdicts: dict[str, Verdict]) -> Table:
    columns = list(dict.fromkeys(key for one in found.values() for key in one))
    rows = [
        [domain, *(" ".join(signed(one[key])) if key in one else "–" for key in columns), verdicts[domain]]
        for domain, one in found.items()
    ]
    names = [WORDS[key.removesuffix(IN_LOSS)] + key[len(key.removesuffix(IN_LOSS)) :] for key in columns]
    title = "SAE Boost against each control, in EV (and nats where the model is run): mean and 95 % interval over seeds"
    return Table(title, ["domain", *names, ""], rows)


def _gains(evidence: Evidence, names: Sequence[str]) -> Table:
    """The gain in every way of saying it: the published figures do not say which they are."""

    def relative(found: Measured) -> float:
        return ev("boost")(found) / ev("core")(found) - 1

    def unexplained(found: Measured) -> float:
        return 1 - (1 - ev("boost")(found)) / (1 - ev("core")(found))

    def damage(found: Measured) -> float:
        clean, core, boost = (
            found["arms"][a]["domain"][k] for a, k in (("core", "ce_clean"), ("core", "ce"), ("boost", "ce"))
        )
        return 1 - (boost - clean) / (core - clean)

    reads = [minus(ev("boost"), ev("core")), relative, unexplained]
    rows = []
    for domain in names:
        name = f"gain_{domain}"
        cells = [percent(evidence, name, read) for read in reads]
        rows.append([domain, *cells, percent(evidence, name, damage) if has_losses(evidence, name) else "–"])
    header = ["domain", "EV, points", "EV, relative", "unexplained variance removed", "CE damage removed"]
    return Table("The gain over the core: mean over seeds (least … greatest)", header, rows)


def _figures(evidence: Evidence, domain: str) -> Table:
    name = f"gain_{domain}"
    rows = [row(evidence, name, WORDS[arm], arm) for arm in ("core", "boost", "more_k", "general")]
    return Table(f"{domain}: means over seeds", header(evidence, name), rows, folded=True)


TESTED = "SAE Boost against the core, the core with as many latents active, and a residual trained on general text: "
RULED = (
    "EV and, where the model is run, its cross-entropy, on held-out text of the domain. Confirmed if better than all "
    "three on every domain, contradicted if not better in EV than the core with more latents active on one."
)

GAIN = Claim("C1", "A residual explains its domain better", TESTED + RULED, gained, trials=on_domains(make))

WIDE = Claim(
    "C1.wide",
    "It does so on every domain at hand",
    TESTED + RULED + " The tables show what general text loses.",
    gained_widely,
    trials=wide,
    untestable=lambda scale: None if scale.extra["wide"] else "this scale has no further domains",
)
