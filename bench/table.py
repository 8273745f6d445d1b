"""What bench/peers.py and bench/step.py measured, as a table and a plot: PATH.json, PATH.md and PATH.svg.

Every file holds one result; results of one shape are put side by side.

    python bench/table.py runs/peers-512.json runs/peers-2048.json --write docs/speed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS = {
    "ours": "monosem",
    "sae_lens": "sae-lens",
    "sae_lens_sparse": "sae-lens, sparse codes",
    "dictionary_learning": "dictionary_learning",
    "eai_sparsify": "eai-sparsify, Adam",
    "eai_sparsify_signum": "eai-sparsify, signum",
}
OURS, OTHERS = "#c2410c", "#64748b"
Result = dict[str, Any]


def merged(results: list[Result]) -> list[Result]:
    """One result a shape, in the order in which the shapes come."""
    by_shape: dict[tuple[int, ...], Result] = {}
    for result in results:
        shape = tuple(result[key] for key in ("d_model", "n_latents", "k", "batch", "threads"))
        by_shape[shape] = by_shape.get(shape, {}) | result
    return list(by_shape.values())


def names(result: Result) -> list[str]:
    """What was measured against the encoder product."""
    ending = "_over_product"
    return [key.removesuffix(ending) for key in result if key.endswith(ending)]


def label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def title(result: Result) -> str:
    return "D {d_model:,}, F {n_latents:,}, k {k}, B {batch:,}".format(**result)


def section(result: Result) -> list[str]:
    """One shape as a Markdown table."""
    lines = [
        f"## {title(result)}",
        "",
        "| step | ms | ÷ encoder product | ÷ monosem | peak memory, MiB | ÷ monosem |",
        "|---|---:|---:|---:|---:|---:|",
        f"| encoder product | {result['encoder_product_ms']:,.0f} | 1.00 | | | |",
    ]
    for name in names(result):
        memory, own = result.get(f"{name}_peak_MiB"), result.get("ours_peak_MiB")
        cells = [
            label(name),
            number(result.get(f"{name}_ms"), ",.0f"),
            number(result[f"{name}_over_product"], ".2f"),
            number(1.0 if name == "ours" else result.get(f"{name}_over_ours"), ".2f"),
            number(memory, ",.0f"),
            number(memory / own if memory and own else None, ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [f"Not measured: {label(name)} ({why})." for name, why in result.get("not_measured", {}).items()]
    return [*lines, "", *failed, *[""] * bool(failed)]


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def page(results: list[Result], picture: str) -> str:
    """The tables, what a step includes in each library, and how it was measured."""
    steps = {name: step for result in results for name, step in result.get("step", {}).items()}
    versions = {name: version for result in results for name, version in result.get("versions", {}).items()}
    first = results[0]
    return "\n".join(
        [
            "# One training step, monosem and others",
            "",
            f"![Step time over the encoder product]({picture})",
            "",
            "A step on the same batch, float32, in one process, interleaved: medians of "
            f"{first['repeats']} paired ratios over the encoder product alone, {first['threads']} threads, "
            f"{first['machine']}, torch {first['torch']}. Peak memory is that of a process of its own, beyond the code "
            "and the batch. No latent is dead. Every library keeps its own optimiser and its own order of things.",
            "",
            *[line for result in results for line in section(result)],
            "## What a step includes",
            "",
            *[f"- **{label(name)}**: {step}." for name, step in steps.items()],
            "",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
            "Again: `make bench-peers`.",
            "",
        ]
    )


def bars(axes: Axes, result: Result) -> None:
    """Each step over the encoder product, the first on top."""
    shown = names(result)[::-1]
    heights = [result[f"{name}_over_product"] for name in shown]
    drawn = axes.barh(
        [label(name) for name in shown], heights, color=[OURS if name == "ours" else OTHERS for name in shown]
    )
    axes.bar_label(drawn, fmt="{:.1f}", padding=3)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, max(heights) * 1.15)
    axes.set_xlabel("step ÷ encoder product (dotted: the product alone)")
    axes.set_title(title(result), loc="left", fontsize=10)
    axes.spines[["right", "top"]].set_visible(False)


def plot(results: list[Result], path: Path) -> None:
    with rc_context({"font.size": 9.0, "svg.fonttype": "none", "svg.hashsalt": "monosem"}):
        rows = max(len(names(result)) for result in results)
        figure = Figure(figsize=(5.2 * len(results), 1.1 + 0.38 * rows), layout="constrained")
        for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
            bars(axes, result)
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--write", type=Path, required=True, metavar="PATH")
    options = parser.parse_args()
    results = merged([json.loads(path.read_text()) for path in options.results])
    data, text, picture = (options.write.with_name(options.write.name + end) for end in (".json", ".md", ".svg"))
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps({"results": results}, indent=1, ensure_ascii=False) + "\n")
    text.write_text(page(results, picture.name))
    plot(results, picture)
    print(f"wrote {data}, {text}, {picture}")


if __name__ == "__main__":
    main()
