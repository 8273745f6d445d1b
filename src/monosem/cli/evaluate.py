"""Measure autoencoders on held-out text: one table for a run, or one autoencoder.

  monosem evaluate runs/first
  monosem evaluate runs/first/saes/topk --windows 512 --loss-windows 128 --json
  monosem evaluate runs/first/saes/topk --k 8,64 --loss-per-k

Explained variance is 1 − Σ‖x−x̂‖²/Σ‖x−mean‖² over all kept tokens; CE recovered is the share of the loss increase
from zero- or mean-ablation that the reconstruction avoids. Tokens the stored rule excludes keep their activation.
Results are stored beside each autoencoder as evaluation.json.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.sae import SAE

COLUMNS = {
    "explained_variance": "EV",
    "l0": "L0",
    "ce_loss_score": "CE rec. (zero)",
    "ce_loss_score_mean": "CE rec. (mean)",
    "kl_div": "KL, nats",
    "kl_div_score": "KL rec.",
    "frac_alive": "dead",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=256)
    loss_flags(parser)
    parser.add_argument(
        "--k",
        default="",
        metavar="K[,K]",
        help="also measure every autoencoder with k latents a token, as further rows NAME@k; topk rule only",
    )
    flag.shared(parser)


def loss_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for the costly part of an evaluation."""
    parser.add_argument(
        "--loss-windows",
        type=int,
        default=64,
        metavar="N",
        help="windows that also go through the whole model (default: 64)",
    )
    parser.add_argument(
        "--loss-per-k",
        action=argparse.BooleanOptionalAction,
        help="losses with the 1, 2, 4, … strongest latents of a token as well, for autoencoders with fixed k "
        "(default: for those trained for several budgets)",
    )


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    further = budgets(parsed.k)
    opened = subject.open_subject(parsed)
    evaluations = measure(opened, parsed.loss_windows, parsed.loss_per_k, further)
    show(parsed, evaluations, summary(evaluations, rates(opened)))


def measure(
    opened: subject.Subject, loss_windows: int, loss_per_k: bool | None = None, further: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Evaluate and, where model and text are those of training, store the result beside each autoencoder.

    What was measured at one of the `further` budgets is named NAME@k, and stored with NAME under `at`.
    """
    from monosem.disk import write_json
    from monosem.evaluation import evaluate

    found = {}
    for part in subject.by_site(opened).values():
        found |= evaluate(
            _with_budgets(part.saes, further),
            part.lm,
            part.windows,
            loss_windows=loss_windows,
            loss_per_k=loss_per_k,
            command=subject.command(),
        )
    evaluations = {name: one.to_json() for name, one in found.items()}
    if opened.own:
        for name, folder in opened.folders.items():
            at = {str(k): evaluations[f"{name}@{k}"] for k in further}
            write_json(folder / "evaluation.json", evaluations[name] | ({"at": at} if at else {}))
    return evaluations


def budgets(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, each once. Raises `InputError`."""
    try:
        return tuple(dict.fromkeys(flag.integer(part) for part in text.split(",") if part))
    except ValueError:
        raise InputError(f"--k {text}: give whole numbers with commas between them, such as 16,128") from None


def _with_budgets(saes: dict[str, SAE], further: tuple[int, ...]) -> dict[str, SAE]:
    """Each autoencoder, followed by itself at every budget."""
    found = {}
    for name, sae in saes.items():
        try:
            found |= {name: sae} | {f"{name}@{k}": sae.at(k) for k in further}
        except InputError as error:
            raise InputError(f"{name} cannot be measured at --k {','.join(map(str, further))}: {error}") from None
    return found


def stored_or_measured(opened: subject.Subject, loss_windows: int, loss_per_k: bool | None = None) -> dict[str, Any]:
    """The evaluations beside the autoencoders, or new ones where there are none of the same text."""
    from monosem.disk import read_json

    paths = {name: folder / "evaluation.json" for name, folder in opened.folders.items()}
    if opened.own and all(path.exists() for path in paths.values()):
        stored = {name: read_json(path) for name, path in paths.items()}
        if len({one["provenance"]["tokens"]["sha256"] for one in stored.values()}) == 1:
            return stored
    return measure(opened, loss_windows, loss_per_k)


def summary(evaluations: dict[str, Any], rates: dict[str, float | None]) -> str:
    """The table a person reads, with what it was measured on."""
    header = ["autoencoder", *COLUMNS.values(), "trained tok/s"]
    rows = [_row(name, one, rates.get(name)) for name, one in evaluations.items()]
    ratios = [one["provenance"].get("cost", {}).get("encoder_over_dense", 1.0) for one in evaluations.values()]
    if any(ratio != 1 for ratio in ratios):
        header.append("encoder ÷ dense")
        rows = [[*row, f"{ratio:.4g}"] for row, ratio in zip(rows, ratios, strict=True)]
    return "\n".join([table(header, rows), *_notes(evaluations)])


def _row(name: str, one: dict[str, Any], rate: float | None) -> list[str]:
    cells = [_cell(one["metrics"].get(key)) for key in COLUMNS]
    error = one["errors"].get("explained_variance")
    cells[0] = f"{one['metrics']['explained_variance']:.4f}" + ("" if error is None else f" ± {error:.4f}")
    cells[-1] = f"{1 - one['metrics']['frac_alive']:.1%}"
    return [name, *cells, f"{rate:,.0f}" if rate else "–"]


def _notes(evaluations: dict[str, Any]) -> list[str]:
    from monosem.evaluation.provenance import whereabouts

    first = next(iter(evaluations.values()))
    origin = first["provenance"]
    sites = ", ".join(dict.fromkeys(whereabouts(one["provenance"]) for one in evaluations.values()))
    notes = [
        f"{first['n_tokens']:,} held-out tokens at {sites} ({first['n_excluded']:,} excluded), losses on "
        f"{origin['loss']['tokens']:,}; {first['space']} space; ± one standard error over batches",
        "dead: silent on these tokens; trained tok/s: this autoencoder's own training steps, without the model",
    ]
    budgets = {name: one["provenance"]["sae"]["info"].get("budget", {}) for name, one in evaluations.items()}
    notes += [
        f"{name}: beyond its trained budget, which is {budget['trained']}"
        for name, budget in budgets.items()
        if budget.get("extrapolated")
    ]
    if any(one["provenance"].get("cost", {}).get("encoder_over_dense", 1) != 1 for one in evaluations.values()):
        notes.append(
            "encoder ÷ dense: multiply-adds a token of the encoder over those of a dense encoder of as many latents; "
            "above 1 it is dearer"
        )
    return notes


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def rates(opened: subject.Subject) -> dict[str, float | None]:
    """Training tokens a second of each autoencoder's own steps, where that was stored."""
    found = {}
    for name, sae in opened.saes.items():
        training = sae.info.get("training", {})
        seconds = training.get("step_seconds")
        found[name] = training["tokens"] / seconds if seconds else None
    return found
