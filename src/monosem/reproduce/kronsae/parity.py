"""C2: Kron against TopK, at equal tokens and at equal FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monosem.reproduce.arm import Arm
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.figure import Read, ends_of, mean, own_ev, signed, silent, summary, worst
from monosem.reproduce.kronsae.arm import TOPK, equal_flops, kron, rows, uncentred
from monosem.reproduce.scale import Scale
from monosem.reproduce.verdict import Interval, above, every, interval

Shape = tuple[int, int]
SHAPES: tuple[Shape, ...] = ((1, 8), (2, 8), (4, 8), (8, 8))
CHEAPER = SHAPES[1:]
"""At m = 1 a Kron has more rows than latents: a dense TopK with as many says nothing."""
CENTRED: Shape = (2, 8)
"""The shape at which inputs with and without their mean are compared."""
PARITY = -0.01


def arms(scale: Scale) -> list[Arm]:
    """TopK, every shape at equal tokens and at equal FLOPs, dense ones with as many rows, one that is not centred."""
    krons = [kron(m, n) for m, n in SHAPES]
    dense = [rows(scale, m, n) for m, n in CHEAPER]
    return [TOPK, *krons, *map(equal_flops, krons), *dense, uncentred(*CENTRED)]


def judge(evidence: Evidence) -> Finding:
    """Equal FLOPs decide; every shape counts."""

    def gaps(make: Callable[[int, int], Arm], shapes: Sequence[Shape] = SHAPES) -> dict[str, Interval]:
        return {f"m{m} n{n}": interval(evidence.paired(make(m, n).name, TOPK.name, own_ev)) for m, n in shapes}

    flops, tokens = gaps(lambda m, n: equal_flops(kron(m, n))), gaps(kron)
    dense = gaps(lambda m, n: rows(evidence.scale, m, n), CHEAPER)
    verdicts = {label: above(one.values, PARITY) for label, one in flops.items()}
    return Finding(
        every(verdicts.values()),
        ends_of(worst(list(flops.values()))),
        {label: {"verdict": verdicts[label], **summary(one)} for label, one in flops.items()},
        {
            "equal_tokens": {
                label: {"verdict": above(one.values, PARITY), **summary(one)} for label, one in tokens.items()
            },
            "dense_topk_with_as_many_rows": {label: summary(one) for label, one in dense.items()},
            "centred_minus_uncentred": summary(_centring(evidence, own_ev)),
            "topk": mean(evidence, TOPK.name, own_ev),
        },
        [_table(evidence, tokens, flops, dense), _centring_table(evidence)],
        [_plot(tokens, flops, dense)],
        "Every shape that was tried is printed; the interval is that of the worst. Below TopK is what the paper's own "
        "Table 4 has for small models.",
    )


def _table(evidence: Evidence, *columns: dict[str, Interval]) -> Table:
    body = []
    for m, n in SHAPES:
        found = [column.get(f"m{m} n{n}") for column in columns]
        cells = ["–" if one is None else " ".join(signed(one)) for one in found]
        body.append([f"m{m} n{n}", f"{1 / m + 1 / n:.3f}", *cells])
    title = f"EV minus that of TopK ({mean(evidence, TOPK.name, own_ev):.4f}), mean and 95 % interval"
    header = ["shape", "encoder rows / F", "equal tokens", "equal FLOPs", "dense TopK with as many rows, equal tokens"]
    return Table(title, header, body)


def _centring(evidence: Evidence, read: Read) -> Interval:
    return interval(evidence.paired(kron(*CENTRED).name, uncentred(*CENTRED).name, read))


def _centring_table(evidence: Evidence) -> Table:
    body = []
    for label, read in (("EV", own_ev), ("share of latents that never fire on held-out tokens", silent)):
        both = [f"{mean(evidence, make(*CENTRED).name, read):.4f}" for make in (kron, uncentred)]
        body.append([label, *both, " ".join(signed(_centring(evidence, read)))])
    m, n = CENTRED
    header = ["", "input − b_dec", "input as it is (the paper's listing)", "difference, 95 % interval"]
    return Table(f"What the encoder of m{m} n{n} sees, equal tokens", header, body)


def _plot(tokens: dict[str, Interval], flops: dict[str, Interval], dense: dict[str, Interval]) -> Plot:
    lines = []
    for label, column in (("equal tokens", tokens), ("equal FLOPs", flops), ("dense, as many rows", dense)):
        found = list(column.values())
        low, high = [one.low for one in found], [one.high for one in found]
        x = [float(m) for m, n in SHAPES if f"m{m} n{n}" in column]
        lines.append(Line(label, x, [one.mean for one in found], low, high))
    caption = "EV minus that of TopK with F latents on the same tokens; n = 8. Mean over seeds and 95 % interval."
    return Plot("parity", "Kron against TopK", caption, "m", "EV − EV of TopK", lines, log_x=True)


CLAIM = Claim(
    "C2",
    "Parity with TopK in explained variance at equal FLOPs",
    "EV of Kron × TopK minus EV of dense TopK with as many latents, m in 1, 2, 4, 8 and n = 8; multiply-adds of a "
    "forward pass by eq. 7, so that Kron gets more tokens (fewer at m = 1; the same text again where it runs out). "
    "Confirmed if above −0.01 for every shape, contradicted if below for any. Controls: equal tokens; a dense TopK "
    "with h(m + n) latents.",
    judge,
    arms=arms,
)
