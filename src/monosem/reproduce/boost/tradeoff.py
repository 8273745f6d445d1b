"""C4: domain against general text, for every way of adding a domain at one L0 and one number of latents."""

from __future__ import annotations

from monosem.reproduce.boost.arm import RIVALS, WORDS
from monosem.reproduce.boost.experiment import on_domains
from monosem.reproduce.boost.figure import domains, drop, ev, header, minus, over_seeds, row
from monosem.reproduce.boost.rival import EQUAL, GENERAL, OWN, make
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.figure import ends_of, signed, summary
from monosem.reproduce.verdict import LEAST_SEEDS, Interval, Verdict, above, below, every


def against(gain: Interval, harm: Interval) -> Verdict:
    """A baseline minus Boost, in domain EV and in lost general EV: worse on one confirms, better on both refutes."""
    if len(gain.values) < LEAST_SEEDS:
        return "undecided"
    if "confirmed" in (below(gain.values), above(harm.values)):
        return "confirmed"
    return "contradicted" if above(gain.values) == below(harm.values) == "confirmed" else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C4."""
    verdicts: dict[str, Verdict] = {}
    pairs: dict[str, tuple[Interval, Interval]] = {}
    rows, tables, plots = [], [], []
    for domain in domains(evidence):
        name = f"rivals_{domain}"
        for rival in RIVALS:
            arm, key = rival + EQUAL, f"{domain}, {WORDS[rival]}"
            gain = over_seeds(evidence, name, minus(ev(arm), ev("boost")))
            harm = over_seeds(evidence, name, minus(drop(arm), drop("boost")))
            pairs[key], verdicts[key] = (gain, harm), against(gain, harm)
            rows.append([domain, WORDS[rival], *signed(gain), *signed(harm), verdicts[key]])
        tables.append(_all(evidence, domain))
        plots.append(_plot(evidence, domain))
    nearest = max(pairs, key=lambda key: min(pairs[key][0].mean, -pairs[key][1].mean))
    title = "Baseline minus SAE Boost, at SAE Boost's L0 on the domain: EV gained, general EV lost (both as shares)"
    return Finding(
        every(verdicts.values()),
        ends_of(pairs[nearest][0]),
        {key: {"domain_ev": summary(gain), "general_drop": summary(harm)} for key, (gain, harm) in pairs.items()},
        {"verdicts": verdicts},
        [Table(title, ["domain", "baseline", "EV", "interval", "drop", "interval", ""], rows), *tables],
        plots,
        f"The interval is that of the domain EV of the baseline nearest to being better on both: {nearest}. "
        + _price(pairs),
    )


def _price(pairs: dict[str, tuple[Interval, Interval]]) -> str:
    """What the baseline with the most domain EV has to pay for it."""
    most = max(pairs, key=lambda key: pairs[key][0].mean)
    gain, harm = (one.mean for one in pairs[most])
    return (
        f"Not being beaten on both axes is not being first on one: {most} explains {gain:+.3f} and loses {harm:+.3f}."
    )


def _all(evidence: Evidence, domain: str) -> Table:
    name = f"rivals_{domain}"
    shown = [(WORDS[arm], arm) for arm in ("core", "boost", "more_k")]
    for rival in RIVALS:
        shown += [
            (f"{WORDS[rival]}, {words}", rival + at)
            for at, words in CALIBRATIONS.items()
            if (rival, at) != ("grafted", GENERAL)
        ]
    rows = [row(evidence, name, *pair) for pair in shown]
    return Table(f"{domain}: every method, means over seeds", header(evidence, name), rows, folded=True)


CALIBRATIONS = {EQUAL: "Boost's L0", OWN: "own L0 on the domain", GENERAL: "own L0 in general"}


def _plot(evidence: Evidence, domain: str) -> Plot:
    name, lines = f"rivals_{domain}", []
    for arm in ("core", "boost", "more_k", *RIVALS):
        key = arm + EQUAL if arm in RIVALS else arm
        x = [100 * value for value in evidence.values(name, drop(key))]
        lines.append(Line(WORDS[arm], x, evidence.values(name, ev(key)), points=True))
    return Plot(
        f"tradeoff-{domain}",
        f"Domain against general text: {domain}",
        "One point a seed; all at SAE Boost's L0 on the domain but the core alone. Up and to the left is better.",
        "general EV lost, %",
        "EV on the domain",
        lines,
    )


CLAIM = Claim(
    "C4",
    "SAE Boost has the best trade-off between domain and general text",
    "Domain EV and the share of general EV lost, all at SAE Boost's L0 on domain training text, with as many new "
    "latents and tokens. Baselines: core extended by random latents and by copies of those most active on the domain, "
    "with all or only new latents learning; latents of a fine-tuned core that changed most, put beside the core; the "
    "fine-tuned core. Confirmed if every baseline is worse on at least one axis on every domain, contradicted if one "
    "is better on both.",
    judge,
    trials=on_domains(make),
)
