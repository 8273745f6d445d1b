"""C3: whether fine-tuning the core forgets general text."""

from __future__ import annotations

from monosem.reproduce.boost.experiment import on_domains
from monosem.reproduce.boost.figure import domains, drop, header, minus, over_seeds, row
from monosem.reproduce.boost.rival import GENERAL, OWN, make
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import ends_of, signed, summary, worst
from monosem.reproduce.verdict import Interval, Verdict, above, every

LOSS = 0.02
WORDS = {OWN: "L0 set on the domain", GENERAL: "L0 set on general text"}


def verdict(lost: list[Interval], more: list[Interval]) -> Verdict:
    """`lost`: share of general EV under each calibration; `more`: that minus Boost's."""
    if every([*(above(one.values, LOSS) for one in lost), *(above(one.values) for one in more)]) == "confirmed":
        return "confirmed"
    return "contradicted" if "contradicted" in [above(one.values) for one in more] else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C3."""
    lost, more, rows, tables = {}, {}, [], []
    for domain in domains(evidence):
        name = f"rivals_{domain}"
        for calibration, words in WORDS.items():
            arm = f"finetuned{calibration}"
            lost[domain, words] = over_seeds(evidence, name, drop(arm))
            more[domain, words] = over_seeds(evidence, name, minus(drop(arm), drop("boost")))
            rows.append([domain, words, *signed(lost[domain, words]), *signed(more[domain, words])])
        shown = [("core alone", "core"), ("SAE Boost", "boost")]
        shown += [(f"fine-tuned, {words}", f"finetuned{calibration}") for calibration, words in WORDS.items()]
        cells = [row(evidence, name, *pair) for pair in shown]
        tables.append(Table(f"{domain}: means over seeds", header(evidence, name), cells, folded=True))
    title = "Share of general EV that fine-tuning loses, and that minus what SAE Boost loses"
    return Finding(
        verdict(list(lost.values()), list(more.values())),
        ends_of(worst(list(lost.values()))),
        {f"{domain}, {words}": summary(one) for (domain, words), one in lost.items()},
        {"minus_boost": {f"{domain}, {words}": summary(one) for (domain, words), one in more.items()}},
        [Table(title, ["domain", "", "lost", "interval", "minus Boost", "interval"], rows), *tables],
        note="The interval is that of the loss that reaches lowest.",
    )


CLAIM = Claim(
    "C3",
    "Fine-tuning the whole core on the domain forgets general text",
    f"Share of the core's general EV that a copy, trained whole on the same domain tokens, loses; with its L0 set on "
    f"the domain and set on general text. Confirmed if above {LOSS:g} and above SAE Boost's under both on every "
    "domain, contradicted if not above SAE Boost's under one of them.",
    judge,
    trials=on_domains(make),
)
