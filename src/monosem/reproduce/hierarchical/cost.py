"""B4: time and memory of a pass."""

from __future__ import annotations

from monosem.reproduce.arm import Trial
from monosem.reproduce.claim import Claim, Evidence, Finding, Line, Plot, Table
from monosem.reproduce.hierarchical import step

STEP = Trial("step", step.run, step.predict, step.settings, seeded=False)
TIME_AT, TIME_BOUND, MEMORY_BOUND = 128, 1.5, 1.05


def cost(evidence: Evidence) -> Finding:
    """Ratios of time and memory against their bounds."""
    found = evidence.measured("step")
    times, memory = found["times"], found["memory"]
    ratios = {k: entry["hierarchical"] / entry["topk"] for k, entry in memory.items()}
    time_ratio = times[str(TIME_AT)]["hierarchical_ratio"]
    holds = time_ratio <= TIME_BOUND and max(ratios.values()) <= MEMORY_BOUND
    rows = []
    for k, entry in times.items():
        milliseconds = [f"{entry[f'{kind}_ms']:.1f}" for kind in step.KINDS]
        mebibytes = [f"{memory[k][kind]:.0f}" if k in memory else "–" for kind in step.KINDS]
        both = [f"{entry['hierarchical_ratio']:.2f}", f"{entry['prefixes_ratio']:.2f}"]
        rows.append([k, *milliseconds, *both, *mebibytes])
    header = ["K", "TopK ms", "nested ms", "plain ms", "nested ÷ TopK", "plain ÷ TopK"]
    header += ["TopK MiB", "nested MiB", "plain MiB"]
    shape = f"D {found['d_model']}, F {found['n_latents']}, B {found['batch']}, {found['device']}"
    title = f"Forward and backward pass without optimiser, {shape}, {found['threads']} thread(s); peak memory of two"
    return Finding(
        "confirmed" if holds else "contradicted",
        None,
        {"time_ratio_at_128": time_ratio, "memory_ratio": ratios, "times": times, "memory_MiB": memory},
        {"plain_form_time_ratio": {k: entry["prefixes_ratio"] for k, entry in times.items()}},
        [Table(title, header, rows)],
        [_cost_plot(times)],
        "The published figures are of a GPU; these are of the device named in the table.",
    )


def _cost_plot(times: dict[str, dict[str, float]]) -> Plot:
    ks = [float(k) for k in times]
    lines = [
        Line(label, ks, [entry[f"{kind}_ratio"] for entry in times.values()])
        for kind, label in (("hierarchical", "nested loss"), ("prefixes", "every prefix in memory"))
    ]
    caption = "Median of paired ratios: time of a forward and backward pass over that of TopK at the same K."
    return Plot("cost", "Time over TopK's", caption, "K", "ratio", lines, log_x=True)


CLAIM = Claim(
    "B4",
    "A pass costs little more than TopK's, and its memory does not grow with K",
    "Time of a forward and backward pass over TopK's at the same K (median of interleaved, paired ratios), and "
    "peak memory over TopK's. Confirmed if time ≤ 1.5 at K = 128 and memory ≤ 1.05 at every K, else contradicted.",
    cost,
    kind="timing",
    trials=lambda scale: (STEP,),
)
