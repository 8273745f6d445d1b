"""What each feature adds to the logit of a token after a prompt, and what the autoencoder leaves over.

  monosem attribute runs/first --prompt "The capital of France is" --target " Paris"
  monosem attribute runs/first --prompt "The capital of France is" --target " Paris" --against " Rome"
  monosem attribute runs/demo --sae topk --prompt "The cat sat on the" --target " floor" --method gradient --json

direct: activation × decoder row · unembedding, with the final norm's division held at what it is; of the last token
alone. All addends together are the logit. gradient: activation × gradient through everything after the site, of every
token; all addends together are the first-order change if the site's activations went to 0.

Beside each stands the same for a token drawn at random: a feature that adds as much to that says nothing of the target.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.output import show, table
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.interpret import Attribution
    from monosem.lm import LanguageModel
    from monosem.sae import SAE


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a run, or one autoencoder")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the model reads")
    parser.add_argument("--target", required=True, metavar="TOKEN", help="the next token, with the space before a word")
    parser.add_argument(
        "--against", metavar="TOKEN", help="explain how much greater the target's logit is than this one's"
    )
    parser.add_argument(
        "--method", choices=("direct", "gradient"), default="direct", help="how a feature counts (default: direct)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the random tokens that stand beside as a control (default: 0)"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="features to show of each (default: 10)")
    parser.add_argument(
        "--lead",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the token that begins a text in training before the prompt (default: yes)",
    )
    subject.choosing(parser)
    on_model(parser)
    flag.shared(parser)


def on_model(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that reads no text of training."""
    parser.add_argument("--model", help="another copy of the model: hub name or local folder (default: as in training)")
    parser.add_argument("--dtype", help="precision of the model (default: as in training)")
    parser.add_argument("--device", help="device of the model (default: as in training)")
    parser.set_defaults(text=None)


def run(parsed: argparse.Namespace) -> None:
    flag.use_threads(parsed)
    if parsed.top < 1:
        raise InputError(f"--top {parsed.top}: give at least 1 feature")
    if parsed.seed < 0:
        raise InputError(f"--seed {parsed.seed}: give 0 or more")
    from monosem.interpret.caption import captions

    part, lm = subject.open_saes(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    found, controls = {}, {}
    for name, sae in part.saes.items():
        found[name], controls[name] = _both(parsed, name, sae, lm)
    value = {name: _json(parsed, one, controls[name]) for name, one in found.items()}
    for name, one in value.items():
        known = captions(part.folders[name])
        for feature in one["features"]:
            feature |= _standing(part.saes[name], feature["latent"])
            feature |= {"label": known[feature["latent"]]} if feature["latent"] in known else {}
    texts = [_head(found, controls, lm)]
    texts += [_features(name, one, value[name], controls[name]) for name, one in found.items()]
    show(parsed, {"prompt": parsed.prompt, "saes": value}, "\n\n".join(texts))


def _both(parsed: argparse.Namespace, name: str, sae: SAE, lm: LanguageModel) -> tuple[Attribution, Attribution]:
    """What was asked, and the same of random tokens. Raises `InputError` that names the autoencoder."""
    from monosem.interpret import attribute
    from monosem.interpret.attribution import beside_random

    try:
        found = attribute(sae, lm, parsed.prompt, parsed.target, parsed.against, method=parsed.method, lead=parsed.lead)
        return found, beside_random(sae, lm, parsed.prompt, found, seed=parsed.seed, lead=parsed.lead)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _json(parsed: argparse.Namespace, found: Attribution, control: Attribution) -> dict[str, Any]:
    value = found.to_json(parsed.top)
    for feature in value["features"]:
        feature["to_random"] = control.value_of(feature["position"], feature["latent"])
    beside = control.to_json(0)
    return value | {"random": {key: one for key, one in beside.items() if key not in ("features", "site", "method")}}


def _standing(sae: SAE, latent: int) -> dict[str, str]:
    """Group and number there of a latent of a composition."""
    from monosem.sae import origin

    return {"origin": "/".join(map(str, origin(sae, latent)))} if "groups" in sae.info else {}


def _told(found: Attribution) -> str:
    aim = found.contrast
    return f"logit of {aim.target!r}" + ("" if aim.against is None else f" minus that of {aim.against!r}")


def _head(found: dict[str, Attribution], controls: dict[str, Attribution], lm: LanguageModel) -> str:
    """A line an autoencoder and one for its control: what features add, and everything beside them."""
    first, beside = next(iter(found.values())), next(iter(controls.values()))
    columns = list(dict.fromkeys(name for one in found.values() for name in one.parts))
    rows = []
    for name, one in found.items():
        rows += [_parts(name, one, columns), _parts(f"{name}: random token", controls[name], columns)]
    total = "logit" if first.method == "direct" else "first order"
    dtype = str(lm.dtype).removeprefix("torch.")
    lines = [
        f"{_told(first)} after {''.join(first.tokens)!r}: {first.logit:.4f} ({lm.name} in {dtype}, {first.method})",
        f"random token: the {_told(beside)}: {beside.logit:.4f}",
        table(["", "site", *columns, "sum", total, "rounding"], rows),
    ]
    if first.method == "direct" and getattr(lm.model.config, "final_logit_softcapping", None):
        lines.append("logits are those before the model's final soft cap")
    if first.method == "direct" and dtype != "float32":
        lines.append(f"rounding is that of the model's {dtype}: --dtype float32 has more digits")
    return "\n".join(lines)


def _parts(name: str, one: Attribution, columns: list[str]) -> list[str]:
    parts = [_cell(one.parts.get(column)) for column in columns]
    return [name, str(one.site), *parts, _cell(sum(one.parts.values())), _cell(one.total), f"{one.rounding:.1e}"]


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _features(name: str, found: Attribution, value: dict[str, Any], control: Attribution) -> str:
    labelled = any("label" in one for one in value["features"])
    rows = [
        [
            f"{one['position']} {one['token']!r}",
            f"{one['latent']} ({one['origin']})" if "origin" in one else str(one["latent"]),
            f"{one['activation']:.2f}",
            f"{one['value']:+.4f}",
            f"{one['to_random']:+.4f}",
            *([one.get("label", "")] if labelled else []),
        ]
        for one in value["features"]
    ]
    head = f"{name}: the strongest {len(rows)} of {len(found.values):,} active features"
    aim = control.contrast
    other = repr(aim.target) + ("" if aim.against is None else f" − {aim.against!r}")
    header = ["token", "feature", "activation", "adds", f"to {other}", *(["label"] if labelled else [])]
    return f"{head}\n{table(header, rows)}"
