"""Compare autoencoders on the same held-out tokens: figures, paired differences, and which latents they share.

  monosem compare runs/first runs/second
  monosem compare runs/demo/saes/topk runs/demo/saes/jumprelu --output compare.html
  monosem compare runs/seed-0 runs/seed-1 runs/seed-2 --loss-windows 0 --json
  monosem compare runs/grid --site resid_post.12 --sae "topk-k32-*"

Figures are those of monosem evaluate. Differences are to the first autoencoder, with 95 % intervals from pairs of
windows: both are measured on each, so what is hard for both cancels. They say what other text would change, not what
other training seeds would. Two latents match by the cosine of their decoder rows: each with its nearest, and one to
one; only latents alive on these tokens take part, and chance is the same with random directions of equal covariance.
Autoencoders of several sites are compared with those of their own site, a table each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import evaluate, flag, subject
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import Comparison, Difference, Match

DIFFERENCES = {
    "explained_variance": "ΔEV",
    "l0": "ΔL0",
    "ce_loss_score": "ΔCE rec. (zero)",
    "ce_loss_score_mean": "ΔCE rec. (mean)",
    "kl_div": "ΔKL, nats",
}
_ALL_PAIRS = 10
_LABELS = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    subject.arguments(parser, windows=256)
    parser.add_argument("others", type=Path, nargs="*", help="further runs or autoencoders")
    subject.choosing(parser)
    evaluate.loss_flags(parser)
    parser.add_argument(
        "--one-to-one",
        action=argparse.BooleanOptionalAction,
        help="match latents one to one as well (default: for up to 16,384 alive latents, where it takes minutes)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="write an HTML page with plots as well")
    parser.add_argument("--seed", type=int, default=0, help="draws the random directions of chance (default: 0)")
    parser.epilog = "Nothing is stored beside the autoencoders."
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    from monosem.evaluation import Comparison

    flag.use_threads(parsed)
    opened = subject.open_subject(parsed, parsed.others, subject.Choice(parsed.site, parsed.sae))
    groups = subject.by_site(opened)
    _check(parsed, groups)
    found = {place: _compared(parsed, part) for place, part in groups.items()}
    written = {}
    if parsed.output is not None:
        (one,) = found.values()
        written = {"page": str(_page(parsed.output, opened, one))}
    texts = {place: summary(one, groups[place]) for place, one in found.items()}
    known = _captions(opened)
    labelled = [row for one in found.values() for row in shared_labels(one.matches, known)]
    shown = [f"at {place}\n\n{text}" if len(texts) > 1 else text for place, text in texts.items()]
    text = "\n".join(["\n\n\n".join(shown), *_label_lines(labelled), *_page_lines(written)])
    show(parsed, Comparison.joined(found.values()).to_json() | {"labelled": labelled} | written, text)


def _check(parsed: argparse.Namespace, groups: dict[str, subject.Subject]) -> None:
    """Raises `InputError` unless every group can be compared, and written where that was asked for."""
    choose = f"choose with --site among {', '.join(groups)}"
    for place, part in groups.items():
        if len(part.saes) < 2:
            (name,) = part.saes
            ways = "name another run or autoencoder to compare it with" + (f", or {choose}" if len(groups) > 1 else "")
            raise InputError(f"{name} is the only autoencoder at {place}: {ways}")
    if parsed.output is not None and len(groups) > 1:
        raise InputError(f"--output is a page about one site: {choose}")


def _compared(parsed: argparse.Namespace, part: subject.Subject) -> Comparison:
    from monosem.evaluation import compare

    return compare(
        part.saes,
        part.lm,
        part.windows,
        loss_windows=parsed.loss_windows,
        loss_per_k=parsed.loss_per_k,
        one_to_one=parsed.one_to_one,
        seed=parsed.seed,
        command=subject.command(),
    )


def _page(path: Path, opened: subject.Subject, found: Comparison) -> Path:
    from monosem.report import write_comparison

    return write_comparison(path, found, opened.saes, opened.lm, command=subject.command(), captions=_captions(opened))


def _captions(opened: subject.Subject) -> dict[str, dict[int, str]]:
    from monosem.interpret.caption import captions

    return {name: captions(folder) for name, folder in opened.folders.items()}


def shared_labels(found: list[Match], known: dict[str, dict[int, str]]) -> list[dict[str, Any]]:
    """Labelled latents of either side with their nearest in the other, the nearest first: both labels, where known."""
    rows = []
    for one in found:
        for of, other, pairs in ((one.a, one.b, one.nearest.a_to_b), (one.b, one.a, one.nearest.b_to_a)):
            columns = (pairs.a, pairs.b) if of == one.a else (pairs.b, pairs.a)
            ranked = sorted(zip(*(column.tolist() for column in (*columns, pairs.cosine))), key=lambda row: -row[2])
            rows += [
                {
                    "sae": of,
                    "latent": latent,
                    "label": known[of][latent],
                    "in": other,
                    "nearest": nearest,
                    "nearest label": known[other].get(nearest),
                    "cosine": cosine,
                }
                for latent, nearest, cosine in ranked
                if latent in known[of]
            ]
    return rows


def _label_lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    shown = [
        [
            f"{row['sae']} {row['latent']}: {row['label']}",
            f"{row['cosine']:.3f}",
            f"{row['in']} {row['nearest']}" + (f": {row['nearest label']}" if row["nearest label"] else ""),
        ]
        for row in rows[:_LABELS]
    ]
    more = [f"{len(rows) - _LABELS} further labelled latents: --json"] if len(rows) > _LABELS else []
    return ["", table(["labelled latent", "cosine", "nearest in the other"], shown), *more]


def _page_lines(written: dict[str, str]) -> list[str]:
    return [f"page: {path}" for path in written.values()]


def summary(found: Comparison, opened: subject.Subject) -> str:
    """Figures, differences and matches as tables, with what they mean."""
    figures = {name: one.to_json() for name, one in found.evaluations.items()}
    reference = next(iter(figures))
    parts = [
        evaluate.summary(figures, evaluate.rates(opened)),
        differences(found, reference),
        matches(found.matches, reference),
    ]
    return "\n\n".join(parts)


def differences(found: Comparison, reference: str) -> str:
    """Every other autoencoder minus the first; a star where 0 lies outside the interval."""
    keys = [key for key in DIFFERENCES if any(one.metric == key for one in found.differences)]
    others = [name for name in found.evaluations if name != reference]
    rows = [[name, *(_interval(found.difference(key, reference, name)) for key in keys)] for name in others]
    windows = [found.difference(key, reference, others[0]).interval.windows for key in keys]
    losses = f", {windows[-1]} for losses" if len(keys) > 2 else ""
    return "\n".join(
        [
            table([f"minus {reference}", *(DIFFERENCES[key] for key in keys)], rows),
            f"[95 % interval] over {windows[0]} pairs of windows{losses}, each interval by itself; * 0 lies outside",
        ]
    )


def matches(found: list[Match], reference: str) -> str:
    """Matched cosines of all pairs, or of those with the first where there are many."""
    shown = found if len(found) <= _ALL_PAIRS else [one for one in found if one.a == reference]
    header = ["latents of a in b", "alive", "nearest", "chance", "> 0.7", "> 0.9", "one to one", "> 0.7", "> 0.9"]
    notes = [
        "nearest: mean over the alive latents of a of the greatest cosine with an alive latent of b; chance: with",
        "random directions of equal mean and covariance instead; one to one: the best assignment, of the smaller one",
    ]
    notes += [
        f"{one.a} and {one.b} began from the same random numbers (one seed and site): "
        "what they share is not what training finds from any start"
        for one in shown
        if one.same_start
    ]
    if len(shown) < len(found):
        notes.append(f"{len(found) - len(shown)} further pairs: --json")
    return "\n".join([table(header, [row for one in shown for row in _match(one)]), *notes])


def _match(one: Match) -> list[list[str]]:
    record = one.to_json()
    assigned = _shares(record["one_to_one"]) if record["one_to_one"] else ["–"] * 3
    rows = []
    for name, side, key in ((f"{one.a} in {one.b}", "a", "a_to_b"), (f"{one.b} in {one.a}", "b", "b_to_a")):
        mean, *above = _shares(record["nearest"][key])
        chance, *_ = _shares(record["chance"][key])
        rows.append([name, f"{record['alive'][side]:,}", mean, chance, *above, *assigned])
    return rows


def _shares(record: dict[str, Any]) -> list[str]:
    return [f"{record['mean']:.3f}", f"{record['above_0.7']:.1%}", f"{record['above_0.9']:.1%}"]


def _interval(one: Difference) -> str:
    value, low, high, _ = one.interval
    digits = 2 if one.metric == "l0" else 4
    bounds = f"[{low:+.{digits}f}, {high:+.{digits}f}]" if low <= high else "[–]"
    return f"{value:+.{digits}f} {bounds}{'*' if one.interval.clear else ' '}"
