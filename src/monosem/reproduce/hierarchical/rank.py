"""B3 and its proxies: whether the latents of later ranks stay clean."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from monosem.reproduce.arm import Arm, Measured
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table, only
from monosem.reproduce.figure import Read, ends_of, mean, summary
from monosem.reproduce.hierarchical.arm import pair, twin
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import below, interval


def pair_and_twin(scale: Scale) -> list[Arm]:
    """The method, its control and the control of chance."""
    return [*pair(scale), twin(scale)]


def decline(key: str) -> Read:
    """Mean score over the first quarter of ranks minus that over the last quarter, ranks that occur alone."""

    def read(found: Measured) -> float:
        scores = [score for score in found[key] if score is not None]
        quarter = max(len(scores) // 4, 1)
        return statistics.fmean(scores[:quarter]) - statistics.fmean(scores[-quarter:])

    return read


def ranks(key: str, word: str, sign: int) -> Callable[[Evidence], Finding]:
    """Whether a score by rank falls less than TopK's; `sign` −1 for a score that rises as latents become less clean."""

    def judge(evidence: Evidence) -> Finding:
        names = "hierarchical", f"topk_{evidence.scale.k}"
        base, read = names[1], decline(key)
        differences = [sign * value for value in evidence.paired("hierarchical", base, read)]
        chance = [sign * value for value in evidence.paired("topk_twin", base, read)]
        found = interval(differences)
        ours, theirs = (
            {"decline": sign * mean(evidence, name, read), **_levels(evidence, name, key)} for name in names
        )
        return Finding(
            below(differences),
            ends_of(found),
            {"decline_difference": summary(found), **ours},
            {**theirs, "twin": {"verdict": below(chance), **summary(interval(chance))}},
            [_rank_table(evidence, key, base, word)],
            [_rank_plot(evidence, key, base, word)],
            f"The height of the curves plays no part in the verdict: over all ranks the mean is {ours['mean']:.4f}, "
            f"TopK's {theirs['mean']:.4f}. Control of chance (another TopK against the first): {below(chance)}.",
        )

    return judge


def _levels(evidence: Evidence, name: str, key: str) -> dict[str, float]:
    scores = _by_rank(evidence, name, key)
    return {"mean": statistics.fmean(scores), "mean_of_last_quarter": statistics.fmean(scores[-(len(scores) // 4) :])}


def _by_rank(evidence: Evidence, name: str, key: str) -> list[float]:
    """Mean over seeds at each rank that occurs in all of them."""
    several = zip(*(evidence.measured(name, seed)[key] for seed in evidence.scale.seeds), strict=True)
    return [statistics.fmean(scores) for scores in several if None not in scores]


def _rank_table(evidence: Evidence, key: str, base: str, word: str) -> Table:
    pairs = zip(_by_rank(evidence, "hierarchical", key), _by_rank(evidence, base, key), strict=False)
    rows = [[str(rank), f"{ours:.4f}", f"{theirs:.4f}"] for rank, (ours, theirs) in enumerate(pairs, 1)]
    return Table(f"{word} of the latents at each rank, means over seeds", ["rank", "hierarchical", base], rows, True)


def _rank_plot(evidence: Evidence, key: str, base: str, word: str) -> Plot:
    lines = []
    for name in ("hierarchical", base):
        scores = _by_rank(evidence, name, key)
        lines.append(Line(name, [float(rank) for rank in range(1, len(scores) + 1)], scores))
    caption = "Rank 1 is a token's strongest latent. Means over tokens active at that rank and over seeds."
    return Plot("ranks", f"{word} by rank", caption, "rank", word, lines)


def crowded(evidence: Evidence) -> Finding:
    """Difference of mean largest cosines."""
    base = f"topk_{evidence.scale.k}"
    read: Read = lambda found: found["crowding"]  # noqa: E731
    found = interval(evidence.paired("hierarchical", base, read))
    rows = [[name, f"{mean(evidence, name, read):.4f}"] for name in ("hierarchical", base)]
    return Finding(
        below(found.values),
        ends_of(found),
        {"difference": summary(found), "crowding": mean(evidence, "hierarchical", read)},
        {"crowding": mean(evidence, base, read)},
        [Table("Mean over latents of the largest cosine with another decoder row", ["arm", "crowding"], rows)],
    )


RECOVERY = Claim(
    "B3",
    "Later ranks stay clean as L0 grows",
    "Recovery at rank r: mean over tokens of the best cosine between the decoder row of the r-th strongest latent "
    "and a known atom. Its decline is the mean over the first quarter of ranks minus that over the last. "
    "Confirmed if it declines less than in TopK-K.",
    ranks("recovery", "best cosine with an atom", 1),
    arms=pair_and_twin,
    untestable=only("sparse", "needs a judge model; proxies stand under their own names"),
)

ENTROPY = Claim(
    "B3.entropy",
    "A proxy for B3: latents of later ranks become less token-specific more slowly than in TopK",
    "Token entropy of a latent: −Σ p log₂ p over the token types it is active on, in bits, by counts. Its rise is "
    "the mean over the last quarter of ranks minus that over the first. Confirmed if it rises less than in TopK-K. "
    "This is not interpretability.",
    ranks("entropy", "token entropy, bits", -1),
    arms=pair_and_twin,
    untestable=only("model", "synthetic data have no tokens"),
)

CROWDING = Claim(
    "B3.crowding",
    "A proxy for B3: decoder rows are less crowded than TopK's",
    "Mean over latents of the largest cosine with another decoder row. Confirmed if lower than in TopK-K. This is "
    "not interpretability.",
    crowded,
    arms=pair,
)
