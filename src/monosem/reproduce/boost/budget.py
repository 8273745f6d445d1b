"""C5: how much text a domain needs, at one number of updates."""

from __future__ import annotations

from monosem.boost.preserved import EV_LIMIT
from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost.arm import BOOST
from monosem.reproduce.boost.experiment import Experiment, on_domains, trial
from monosem.reproduce.boost.figure import Curve, curve, domains, drop, ev, minus, over_seeds, percent
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.boost.text import Beginning
from monosem.reproduce.claim import Claim, Evidence, Finding, Plot, Table
from monosem.reproduce.figure import Read, band, ends_of, summary, worst
from monosem.reproduce.verdict import LEAST_SEEDS, Interval, Verdict

FLAT = 0.001
"""A drop that shrinks by less than this does not shrink."""


def run(one: Experiment) -> Measured:
    """Residuals of the first tokens of a domain, as many of them as each budget has, over and over."""
    saes = {"core": one.core}
    for tokens in one.scale.extra["unique"]:
        source = Beginning(one.text.source, tokens, one.scale.extra["window"])
        saes[name(tokens)] = one.trained([BOOST], source)[BOOST.name]
    return {"arms": measured(saes, one.text, one.here)}


def name(tokens: int) -> str:
    """The arm of a budget."""
    return f"unique_{tokens}"


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("budget", domain, run, lambda scale: [BOOST] * len(scale.extra["unique"]), read=1)


def gain(tokens: int) -> Read:
    """EV on the domain over the core's."""
    return minus(ev(name(tokens)), ev("core"))


def harm(tokens: int) -> Read:
    """The share of general EV lost."""
    return drop(name(tokens))


def verdict(shrunk: Interval) -> Verdict:
    """`shrunk`: the drop with the fewest tokens minus that with the most."""
    if len(shrunk.values) < LEAST_SEEDS:
        return "undecided"
    if shrunk.low > FLAT:
        return "confirmed"
    return "contradicted" if shrunk.high < FLAT else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C5."""
    budgets = evidence.scale.extra["unique"]
    least, most = min(budgets), max(budgets)
    found = {
        domain: over_seeds(evidence, f"budget_{domain}", minus(harm(least), harm(most))) for domain in domains(evidence)
    }
    verdicts = [verdict(one) for one in found.values()]
    whole = "confirmed" if set(verdicts) == {"confirmed"} else "undecided"
    rows = [_row(evidence, domain, tokens) for domain in found for tokens in budgets]
    header = ["domain", "unique tokens", "EV gained on the domain", "general EV lost", "verdicts on general text"]
    return Finding(
        "contradicted" if "contradicted" in verdicts else whole,
        ends_of(worst(list(found.values()))),
        {domain: summary(one) for domain, one in found.items()},
        {"updates": evidence.scale.tokens // evidence.scale.settings["batch"], "unique_tokens": budgets},
        [Table("Points of EV, and share of general EV: mean over seeds (least … greatest)", header, rows)],
        [
            _plot(evidence, "domain", "EV gained on the domain", gain),
            _plot(evidence, "general", "general EV lost", harm),
        ],
        "The interval is that of the drop with the fewest tokens minus that with the most, where it reaches lowest.",
    )


def _row(evidence: Evidence, domain: str, tokens: int) -> list[str]:
    trial_name = f"budget_{domain}"
    verdicts = [
        evidence.measured(trial_name, seed)["arms"][name(tokens)]["preserved"]["verdict"]
        for seed in evidence.scale.seeds
    ]
    shares = [percent(evidence, trial_name, read(tokens)) for read in (gain, harm)]
    return [domain, f"{tokens:,}", *shares, ", ".join(verdicts)]


def _plot(evidence: Evidence, key: str, words: str, read: Curve) -> Plot:
    budgets = evidence.scale.extra["unique"]
    lines = [
        band(domain, [float(tokens) for tokens in budgets], curve(evidence, f"budget_{domain}", budgets, read))
        for domain in domains(evidence)
    ]
    caption = "Mean over seeds and 95 % interval; every residual makes the same number of updates."
    return Plot(
        f"budget-{key}",
        f"{words[0].upper()}{words[1:]} by unique tokens",
        caption,
        "unique tokens",
        words,
        lines,
        log_x=True,
    )


CLAIM = Claim(
    "C5",
    "With few tokens of a domain general text suffers, with many it does not",
    f"Share of general EV lost by residuals of the first tokens of a domain, repeated so that all make the same number "
    f"of updates. Confirmed if that with the fewest tokens exceeds that with the most by more than {FLAT:g}, "
    f"contradicted if it does not. The paper's limit of {EV_LIMIT:g} is the verdict beside each.",
    judge,
    trials=on_domains(make),
)
