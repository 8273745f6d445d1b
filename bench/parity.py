"""How near recorded and written activations of every family are to a forward pass written out by hand.

    python bench/parity.py --write docs/families.md

Tiny random models of every family, and the embedded SmolLM2 with its real weights, in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from family_model import CASES, Case, by_hand, make, windows
from monosem.lm import LanguageModel
from monosem.shapes import KINDS

SMOLLM2 = Case("Llama", {}, eps=1e-5)
COLUMNS = {
    "states": "hidden states",
    "sums": "sums",
    "read": "read",
    "written": "written",
    "cached": "generating",
}
HEAD = """# Families of models

Where `monosem` finds its sites in Hugging Face models, and how near they are to a computation written out by hand.
`monosem sites MODEL` prints the sites of a model, with their module paths. What every site is:

{sites}

`attn_out` and `mlp_out` are what is added to the residual stream, in every family: `resid_mid = resid_pre + attn_out`,
`resid_post = resid_mid + mlp_out`. Where a norm follows attention or MLP, what the module itself returns is reached by
its path (`model.layers.6.mlp`). Every other causal language model is read and written by module path: `PATH` is the
output of a module, `PATH:in` its input. The module has to run once in a forward pass, on activations [B, T, D].
In multimodal models these are sites of the text part.

| family | `model_type` | sites it lacks | what to know |
|---|---|---|---|
{families}

## Parity

Largest difference over all values, divided by the root mean square of what is compared, in float32 on a CPU
(torch {torch}, transformers {transformers}).

- *hidden states*: `resid_pre` and `resid_post` against `output_hidden_states`, whose last entry, which is behind the
  final norm, is compared with the norm of the last `resid_post`
- *sums*: the identities above
- *read*: the worst of all sites against a forward pass written out by hand: norms, sums, attention's output map,
  embedding and unembedding (the mixing of attention and the inside of the MLP are the model's own)
- *written*: logits after a site was replaced, the worst of all kinds of site, against the same pass by hand
- *generating*: activations collected while generating with a key–value cache against those of one pass, under a hook
  that writes

Models are random with 3 layers and d_model 32, but for the last row.

| model | {columns} |
|---|{rule}
{rows}

Written by `python bench/parity.py --write docs/families.md`.
"""


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.square().mean().sqrt())


def pushed(act: Tensor) -> Tensor:
    """Half the activation and a ramp of its size."""
    return 0.5 * act + torch.linspace(-1, 1, act.shape[-1]) * act.square().mean().sqrt()


def measure(lm: LanguageModel, case: Case, tokens: Tensor) -> dict[str, float]:
    """The five columns of the table."""
    layer, kinds = lm.n_layers // 2, dict.fromkeys(site.kind for site in lm.sites())
    places = [kind if kind == "embed" else f"{kind}.{layer}" for kind in kinds]
    read, _ = by_hand(case, lm.model, tokens)
    acts = {str(site): act for site, act in lm.capture(tokens, lm.sites()).items()}
    written = []
    for place in places:
        with lm.hooks({place: pushed}):
            logits = lm.logits(tokens)
        written.append(error(logits, by_hand(case, lm.model, tokens, {place: pushed})[1]))
    return {
        "states": max(states(lm, tokens, acts)),
        "sums": max(sums(lm, acts)),
        "read": max(error(acts[place], read[place]) for place in acts),
        "written": max(written),
        "cached": max(cached(lm, tokens[:1], places, f"resid_post.{layer}")),
    }


def states(lm: LanguageModel, tokens: Tensor, acts: dict[str, Tensor]) -> list[float]:
    found = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    last = lm.model.get_submodule(lm.family.norm)(acts[f"resid_post.{lm.n_layers - 1}"])
    before = [error(acts[f"resid_pre.{layer}"], found[layer]) for layer in range(lm.n_layers)]
    after = [error(acts[f"resid_post.{layer}"], found[layer + 1]) for layer in range(lm.n_layers - 1)]
    return [*before, *after, error(last, found[-1])]


def sums(lm: LanguageModel, acts: dict[str, Tensor]) -> list[float]:
    errors = []
    for layer in range(lm.n_layers):
        pre, attn, out, post = (acts[f"{kind}.{layer}"] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        errors.append(error(pre + attn + out, post))
        if f"resid_mid.{layer}" in acts:
            mid = acts[f"resid_mid.{layer}"]
            errors += [error(pre + attn, mid), error(mid + out, post)]
    return errors


def cached(lm: LanguageModel, prompt: Tensor, places: list[str], writing: str) -> list[float]:
    """Four tokens more than the prompt, with a hook that writes to the stream."""
    seen: dict[str, list[Tensor]] = {place: [] for place in places if place != writing}
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 4, "do_sample": False}
    with lm.hooks({writing: pushed_alike} | {place: parts.append for place, parts in seen.items()}):
        tokens = lm.model.generate(prompt, eos_token_id=None, pad_token_id=1, **settings)[:, :-1]
    steps = {place: torch.cat(parts, 1) for place, parts in seen.items()}
    with lm.hooks({writing: pushed_alike}):
        acts = lm.capture(tokens, seen)
    return [error(steps[str(site)], act) for site, act in acts.items()]


def pushed_alike(act: Tensor) -> Tensor:
    """The same change for every token, however many of them a pass has."""
    return 0.5 * act + torch.linspace(-1, 1, act.shape[-1])


def rows(embedded: bool) -> dict[str, dict[str, float]]:
    found = {name: measure(make(name), CASES[name], windows()) for name in CASES}
    if embedded:
        lm = LanguageModel.load("smollm2-135m", dtype="float32", device="cpu")
        text = "The birds sang about rain in 1987, and nobody minded the stones in the river."
        tokens = torch.tensor([lm.tokenizer(text)["input_ids"]])
        found["SmolLM2-135M (real weights)"] = measure(lm, SMOLLM2, tokens)
    return found


def document(found: dict[str, dict[str, float]]) -> str:
    families = {}
    for name in CASES:
        lm = make(name)
        families.setdefault(lm.model.config.get_text_config().model_type, lm.family)
    table = []
    for name, family in families.items():
        lacks = ", ".join(f"`{kind}`" for kind in family.lacks)
        table.append(f"| {family.title} | `{name}` | {lacks or '–'} | {family.note or '–'} |")
    return HEAD.format(
        sites="\n".join(f"- `{kind}{'' if kind == 'embed' else '.L'}`: {meaning}" for kind, meaning in KINDS.items()),
        families="\n".join(table),
        torch=torch.__version__,
        transformers=transformers.__version__,
        columns=" | ".join(COLUMNS.values()),
        rule="---|" * len(COLUMNS),
        rows="\n".join(
            f"| {name.replace('_', ' ')} | {' | '.join(f'{row[key]:.0e}' if row[key] else '0' for key in COLUMNS)} |"
            for name, row in found.items()
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="the document (default: print its tables)")
    parser.add_argument("--tiny", action="store_true", help="without the embedded model")
    parser.add_argument("--json", action="store_true", help="the errors as one JSON object")
    options = parser.parse_args()
    with torch.no_grad():
        found = rows(embedded=not options.tiny)
    if options.write:
        options.write.write_text(document(found))
    print(json.dumps(found) if options.json else document(found))


if __name__ == "__main__":
    main()
