"""C6: the number of active residual latents."""

from __future__ import annotations

from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost.arm import FROZEN, nested, sweep
from monosem.reproduce.boost.experiment import Experiment, on_domains, trial
from monosem.reproduce.boost.figure import curve, domains, drop, ev, l0, mean, minus, over_seeds, percent
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.boost.threshold import at_l0
from monosem.reproduce.boost.threshold import l0 as active
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import Read, band, ends_of, signed, summary, worst
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, Verdict, above, below, every
from monosem.sae import SAE, TopK, without
from monosem.sae.grouped import GroupRule

BATCH, FIXED, NESTED, MORE = "batch_topk", "topk", "nested", "more_k"


def arms(scale: Scale) -> list:
    """Residuals for each k with either rule, one for all of them, and one with a random decoder."""
    return [*sweep(scale, BATCH, "residual"), *sweep(scale, FIXED, "topk"), nested(scale), FROZEN]


def run(one: Experiment) -> Measured:
    """All of them; beside each BatchTopK residual the core with as many latents active in total."""
    trained, core = one.trained(arms(one.scale)), one.core
    whole = trained.pop(nested(one.scale).name)
    saes = {"core": core, **trained}
    for k in one.scale.extra["ks"]:
        saes[f"{MORE}_{k}"] = at_l0(core, one.batches, active(trained[f"{BATCH}_{k}"], one.batches))
        saes[f"{NESTED}_{k}"] = cut(whole, k)
    return {"arms": measured(saes, one.text, one.here)}


def cut(sae: SAE, k: int) -> SAE:
    """A sum whose last group, ranked, keeps the k strongest latents alone; weights are shared."""
    assert isinstance(sae.rule, GroupRule)
    *kept, last = sae.rules
    assert isinstance(last, TopK)
    new = without(sae)
    new.rule = GroupRule([*kept, TopK(new.n_latents, k)])
    return new.eval()


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("sweep", domain, run, arms, read=20)


def specific(arm: str) -> Read:
    """Mean specificity of the residual's latents; 0.5 where none fires."""
    return lambda found: found["arms"][arm]["specificity"] or 0.5


def judge(evidence: Evidence) -> Finding:
    """C6."""
    ks = evidence.scale.extra["ks"]
    few, many = f"{BATCH}_{min(ks)}", f"{BATCH}_{max(ks)}"
    rises, falls = {}, {}
    for domain in domains(evidence):
        name = f"sweep_{domain}"
        rises[domain] = over_seeds(evidence, name, minus(ev(many), ev(few)))
        falls[domain] = over_seeds(evidence, name, minus(specific(many), specific(few)))
    rows = [[domain, *signed(rises[domain]), *signed(falls[domain])] for domain in rises]
    title = f"k = {max(ks)} minus k = {min(ks)}: mean and 95 % interval over seeds"
    tables = [Table(title, ["domain", "EV", "interval", "specificity", "interval"], rows)]
    return Finding(
        verdict(list(rises.values()), list(falls.values())),
        ends_of(worst(list(rises.values()))),
        {"ev": {key: summary(one) for key, one in rises.items()}},
        {"specificity": {key: summary(one) for key, one in falls.items()}},
        [*tables, *(_table(evidence, domain) for domain in rises)],
        [*(_front(evidence, domain) for domain in rises), _specificity(evidence)],
        "The interval is that of the rise in EV that reaches lowest.",
    )


def verdict(rises: list[Interval], falls: list[Interval]) -> Verdict:
    """EV has to rise and specificity to fall; an EV that falls contradicts."""
    if every([*(above(one.values) for one in rises), *(below(one.values) for one in falls)]) == "confirmed":
        return "confirmed"
    return "contradicted" if "contradicted" in [above(one.values) for one in rises] else "undecided"


def _table(evidence: Evidence, domain: str) -> Table:
    name, rows = f"sweep_{domain}", []
    for k in evidence.scale.extra["ks"]:
        arm, other = f"{BATCH}_{k}", f"{MORE}_{k}"
        cells = [mean(evidence, name, read) for read in (ev(arm), ev(other))]
        cells += [mean(evidence, name, l0(arm), 2), mean(evidence, name, specific(arm), 3)]
        rows.append([str(k), *cells, percent(evidence, name, drop(arm))])
    frozen = FROZEN.name
    cells = [mean(evidence, name, ev(frozen)), "–", mean(evidence, name, l0(frozen), 2)]
    cells += [mean(evidence, name, specific(frozen), 3), percent(evidence, name, drop(frozen))]
    rows.append([f"{evidence.scale.k}, random decoder", *cells])
    header = ["k", "EV", "EV of the core at that L0", "L0", "specificity", "general EV lost (least … greatest)"]
    return Table(f"{domain}: means over seeds", header, rows)


def _front(evidence: Evidence, domain: str) -> Plot:
    name, ks = f"sweep_{domain}", evidence.scale.extra["ks"]
    words = {BATCH: "residual for each k", MORE: "core, more latents active", NESTED: "one residual for every k"}
    lines = [
        band(
            label,
            [float(mean(evidence, name, l0(f"{kind}_{k}"), 6)) for k in ks],
            curve(evidence, name, ks, lambda k, kind=kind: ev(f"{kind}_{k}")),
            dashed=kind == MORE,
        )
        for kind, label in words.items()
    ]
    caption = "Held-out text of the domain; latents of core and residual count alike. Mean over seeds, 95 % interval."
    return Plot(
        f"front-{domain}", f"Explained variance against L0: {domain}", caption, "active latents (L0)", "EV", lines
    )


def _specificity(evidence: Evidence) -> Plot:
    ks = evidence.scale.extra["ks"]
    lines = [
        band(domain, [float(k) for k in ks], curve(evidence, f"sweep_{domain}", ks, lambda k: specific(f"{BATCH}_{k}")))
        for domain in domains(evidence)
    ]
    caption = "Mean over residual latents of p_domain / (p_domain + p_general). Mean over seeds, 95 % interval."
    return Plot("specificity", "Specificity by k", caption, "k of the residual", "specificity", lines, log_x=True)


CLAIM = Claim(
    "C6",
    "More active residual latents explain more of the domain and are less specific to it",
    "EV on the domain, and mean over residual latents of p_domain/(p_domain + p_general), p the share of held-out "
    "tokens a latent is active on; residuals trained for each k. Confirmed if from the smallest to the largest k EV "
    "rises and specificity falls on every domain, contradicted if EV falls on one.",
    judge,
    trials=on_domains(make),
)
