"""What each feature adds to the logit of a token after a prompt, and what the autoencoder leaves over.

  monosem attribute runs/first --prompt "The capital of France is" --target " Paris"
  monosem attribute runs/first --prompt "The capital of France is" --target " Paris" --against " Rome"
  monosem attribute runs/demo --sae topk --prompt "The cat sat on the" --target " floor" --method gradient --json

direct: activation × decoder row · unembedding, with the final norm's division held at what it is; of the last token
alone. All addends together are the logit. gradient: activation × gradient through everything after the site, of every
token; all addends together are the first-order change if the site's activations went to 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

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
    from monosem.interpret import attribute

    part, lm = subject.open_saes(parsed, choice=subject.Choice(parsed.site, parsed.sae))
    found = {
        name: attribute(sae, lm, parsed.prompt, parsed.target, parsed.against, method=parsed.method, lead=parsed.lead)
        for name, sae in part.saes.items()
    }
    value = {name: one.to_json(parsed.top) for name, one in found.items()}
    for name, one in value.items():
        for feature in one["features"]:
            feature |= _standing(part.saes[name], feature["latent"])
    texts = [_head(found, lm), *(_features(name, one, value[name]) for name, one in found.items())]
    show(parsed, {"prompt": parsed.prompt, "saes": value}, "\n\n".join(texts))


def _standing(sae: SAE, latent: int) -> dict[str, str]:
    """Group and number there of a latent of a composition."""
    from monosem.sae import origin

    return {"origin": "/".join(map(str, origin(sae, latent)))} if "groups" in sae.info else {}


def _head(found: dict[str, Attribution], lm: LanguageModel) -> str:
    """A line an autoencoder: what its features add, and everything beside them."""
    first = next(iter(found.values()))
    aim = first.contrast
    told = f"logit of {aim.target!r}" + ("" if aim.against is None else f" minus that of {aim.against!r}")
    columns = list(dict.fromkeys(name for one in found.values() for name in one.parts))
    rows = [
        [
            name,
            str(one.site),
            *(_cell(one.parts.get(column)) for column in columns),
            _cell(sum(one.parts.values())),
            _cell(one.total),
            f"{one.rounding:.1e}",
        ]
        for name, one in found.items()
    ]
    total = "logit" if first.method == "direct" else "first order"
    dtype = str(lm.dtype).removeprefix("torch.")
    lines = [
        f"{told} after {''.join(first.tokens)!r}: {first.logit:.4f} ({lm.name} in {dtype}, {first.method})",
        table(["", "site", *columns, "sum", total, "rounding"], rows),
    ]
    if dtype != "float32":
        lines.append(f"rounding is that of the model's {dtype}: --dtype float32 has more digits")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _features(name: str, found: Attribution, value: dict) -> str:
    rows = [
        [
            f"{one['position']} {one['token']!r}",
            f"{one['latent']} ({one['origin']})" if "origin" in one else str(one["latent"]),
            f"{one['activation']:.2f}",
            f"{one['value']:+.4f}",
        ]
        for one in value["features"]
    ]
    head = f"{name}: the strongest {len(rows)} of {len(found.values):,} active features"
    return f"{head}\n{table(['token', 'feature', 'activation', 'adds'], rows)}"
