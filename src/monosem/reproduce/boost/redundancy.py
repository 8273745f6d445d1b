"""C8: whether new latents repeat the core's."""

from __future__ import annotations

from monosem.reproduce.boost.arm import EXTENDED, WORDS
from monosem.reproduce.boost.experiment import on_domains
from monosem.reproduce.boost.figure import domains, mean
from monosem.reproduce.boost.rival import make
from monosem.reproduce.claim import Claim, Evidence, Finding, Table
from monosem.reproduce.figure import Read, ends_of, summary
from monosem.reproduce.verdict import LEAST_SEEDS, Verdict, every, interval

P = 0.001
RANDOM = "random"


def median(arm: str) -> Read:
    """Median over new latents of the cosine with the nearest decoder row of the core."""
    return lambda found: found["redundancy"][arm]["median"]


def against(less: list[float], more: list[float]) -> Verdict:
    """From each seed's p values of being smaller and of being greater."""
    if len(less) < LEAST_SEEDS:
        return "undecided"
    if max(less) < P:
        return "confirmed"
    return "contradicted" if max(more) < P else "undecided"


def judge(evidence: Evidence) -> Finding:
    """C8."""
    verdicts: dict[str, Verdict] = {}
    rows, differences = [], {}
    for domain in domains(evidence):
        name = f"rivals_{domain}"
        rows.append([domain, WORDS["boost"], mean(evidence, name, median("boost"), 3), "–", "–", "–"])
        for arm in (RANDOM, *(one.name for one in EXTENDED)):
            less, more = (
                evidence.values(name, lambda found, arm=arm, side=side: found["redundancy"][arm][side])
                for side in ("less", "more")
            )
            words = "random directions" if arm == RANDOM else WORDS[arm]
            key = f"{domain}, {words}"
            verdicts[key] = against(less, more)
            differences[key] = interval(
                evidence.values(name, lambda found, arm=arm: median("boost")(found) - median(arm)(found))
            )
            cells = [mean(evidence, name, median(arm), 3), f"{max(less):.2g}", f"{max(more):.2g}", verdicts[key]]
            rows.append([domain, words, *cells])
    header = ["domain", "latents", "median cosine", "p, Boost less", "p, Boost more", ""]
    title = "Cosine with the nearest decoder row of the core; p values are the largest of all seeds"
    return Finding(
        every(verdicts.values()),
        ends_of(max(differences.values(), key=lambda one: one.high)),
        {key: summary(one) for key, one in differences.items()},
        {"verdicts": verdicts},
        [Table(title, header, rows)],
        note="The interval is that of the difference of medians, over seeds, that reaches highest.",
    )


CLAIM = Claim(
    "C8",
    "Residual latents are less redundant with the core",
    f"Of each new latent the largest cosine of its decoder row with one of the core's; SAE Boost against random "
    f"directions and against the new latents of extended cores, Mann–Whitney over latents. Confirmed if smaller than "
    f"all with p < {P:g} in every seed on every domain, contradicted if greater than one of them so.",
    judge,
    trials=on_domains(make),
)
