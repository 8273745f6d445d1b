"""Where a model's activations can be read and replaced: its sites, with widths, module paths and other names.

  monosem sites                                 the embedded model: embedding and first block
  monosem sites google/gemma-2-2b --layer 12    one block of a model of the hub
  monosem sites EleutherAI/pythia-70m --json    every site

Only the configuration is read, no weights. A site may be given by any of its names: resid_post.12,
blocks.12.hook_resid_post, or model.layers.12. Besides these sites the input and the output of every module can be
used that a forward pass runs once: model.layers.12.mlp.down_proj:in, model.layers.12.mlp.down_proj:out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monosem.cli import flag
from monosem.cli.output import show
from monosem.shapes import InputError, Site

if TYPE_CHECKING:
    from monosem.lm import LanguageModel

_ENDS = {"in": ":in", "out": ""}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="smollm2-135m",
        help="hub name, local folder, or the embedded smollm2-135m (the default)",
    )
    parser.add_argument("--layer", type=int, metavar="N", help="sites of this block alone")
    flag.shared(parser)


def run(parsed: argparse.Namespace) -> None:
    from monosem.lm import LanguageModel

    lm = LanguageModel.without_weights(parsed.model)
    if parsed.layer is not None and not 0 <= parsed.layer < lm.n_layers:
        raise InputError(f"{lm.name} has no layer {parsed.layer}: give one from 0 to {lm.n_layers - 1}")
    found = describe(lm, parsed.layer)
    show(parsed, found, text(lm, found, parsed.layer))


def describe(lm: LanguageModel, layer: int | None = None) -> dict[str, Any]:
    """The model and its sites, of one block or of all, JSON-able."""
    sites = [site for site in lm.sites() if layer is None or site.layer == layer]
    return {
        "model": lm.name,
        "model_type": lm.model.config.model_type,
        "family": lm.family.title,
        "layers": lm.n_layers,
        "d_model": lm.d_model,
        "vocabulary": lm.vocab_size,
        "sites": [_row(lm, site) for site in sites],
        "lacks": lm.family.lacks,
        "note": lm.family.note,
        "modules": [] if sites else _modules(lm, layer or 0),
    }


def _row(lm: LanguageModel, site: Site) -> dict[str, Any]:
    return {
        "site": str(site),
        "layer": site.layer,
        "width": lm.width(site),
        "module_path": lm.module_path(site),
        "where": lm.where(site),
        "transformer_lens": site.transformer_lens,
        "meaning": site.meaning,
    }


def _modules(lm: LanguageModel, layer: int) -> list[str]:
    """Module paths of a block of a model whose sites have no names."""
    block = f"{lm.family.blocks}.{layer}"
    return [name for name, _ in lm.model.named_modules() if name == block or name.startswith(f"{block}.")]


def text(lm: LanguageModel, found: dict[str, Any], layer: int | None) -> str:
    """A table for people: embedding and first block, which stand for all, or one block."""
    lines = [
        f"{found['model']}: {found['family']} ({found['model_type']}), {found['layers']} layers, "
        f"d_model {found['d_model']:,}, vocabulary {found['vocabulary']:,}",
        "",
    ]
    if not found["sites"]:
        return "\n".join(
            [*lines, "Sites of this family have no names here. Give module paths, such as:", *found["modules"]]
        )
    rows = [row for row in found["sites"] if layer is not None or row["layer"] in (None, 0)]
    lines += _columns([("site", "width", "module path", "TransformerLens", "what it is"), *map(_cells, rows)])
    if layer is None and lm.n_layers > 1:
        lines.append(f"… and so on to layer {lm.n_layers - 1}")
    lines += [f"\nno {kind}: {reason}" for kind, reason in found["lacks"].items()]
    return "\n".join(lines + ([f"\nNote: {found['note']}."] if found["note"] else []))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A module's output is its bare path."""
    path = row["module_path"] + _ENDS.get(row["where"], f" ({row['where']})")
    return row["site"], f"{row['width']:,}", path, row["transformer_lens"], row["meaning"]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]
