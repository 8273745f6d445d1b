"""What a model makes of labelled examples: the activations of the tokens that count, block by block, kept on disk.

A block is written whole when it has been read, so that an interrupted reading continues, and whatever autoencoders are
probed next encode what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosem.disk import digest, save_tensors, whole_file
from monosem.evaluation.place import Place
from monosem.evaluation.prompt import prompt_ids
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.progress import progress
from monosem.sae import SAE
from monosem.shapes import Site

if TYPE_CHECKING:
    from monosem.interpret.probing_example import Labelled

BLOCK = 128
"""Examples a file: what an interruption can lose."""


class Block(NamedTuple):
    """Examples by number, how many tokens of each count, and the activations of those, one example after another.

    `squares`: of transcoders Σ‖y‖² over the same tokens at the site that is predicted, an example; else of x itself.
    """

    rows: Int64[Tensor, " R"]
    counts: Int64[Tensor, " R"]
    acts: Float[Tensor, "N D"]
    squares: Float[Tensor, " R"]

    @property
    def owner(self) -> Int64[Tensor, " N"]:
        """The example of each token."""
        return self.rows.repeat_interleave(self.counts)

    @property
    def weight(self) -> Float[Tensor, " N"]:
        """The part of each token in the mean of its example."""
        return (1 / self.counts.clamp_min(1)).repeat_interleave(self.counts)


def blocks(
    sae: SAE, lm: LanguageModel, place: Place, examples: Labelled, *, batch: int, keep: Path | None = None
) -> Iterator[Block]:
    """Every example once, shorter ones beside each other, each behind the token that begins a text in training.

    With `keep`, a folder, what was read before is taken from there and what is read now is written there.
    """
    lead = _lead(sae, lm)
    order = torch.tensor([len(own) for own in examples.ids]).argsort(stable=True)
    folder = None if keep is None else keep / _digest(lm, place, lead, examples)
    with progress("reading examples", total=len(order), unit="examples") as bar:
        for number, rows in enumerate(order.split(BLOCK)):
            path = None if folder is None else folder / f"{number:05}.safetensors"
            found = _stored(path)
            if found is None:
                found = _joined([_read(lm, place, lead, examples, part) for part in rows.split(batch)])
                _store(found, path)
            yield found
            bar.advance(len(rows))


def _digest(lm: LanguageModel, place: Place, lead: list[int], examples: Labelled) -> str:
    """A name for everything that decides the activations."""
    model = {key: lm.identity()[key] for key in ("fingerprint", "dtype", "quantisation")}
    where = [str(place), place.exclusion.describe(), lm.device.type]
    return digest([model, where, lead, examples.last, digest(examples.ids, 64)])


def _stored(path: Path | None) -> Block | None:
    """A block from disk; None where there is none, or none that can be read."""
    if path is None or not path.is_file():
        return None
    try:
        return Block(**load_file(path))
    except (SafetensorError, TypeError):
        return None


def _store(block: Block, path: Path | None) -> None:
    if path is not None:
        with whole_file(path) as part:
            save_tensors(block._asdict(), part)


def _joined(parts: list[Block]) -> Block:
    return Block(*(torch.cat(column) for column in zip(*parts)))


def _read(lm: LanguageModel, place: Place, lead: list[int], examples: Labelled, rows: Int64[Tensor, " R"]) -> Block:
    """One pass of the model over a few examples."""
    own = [torch.tensor([*lead, *examples.ids[row]]) for row in rows.tolist()]
    tokens = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    # Nothing before a padded end sees it: attention is causal.
    there = torch.arange(tokens.shape[1]) < torch.tensor([len(one) for one in own])[:, None]
    acts = lm.capture(tokens, list(dict.fromkeys([place.site, place.target, *map(lm.site, place.exclusion.max_norm)])))
    kept = _kept(lm, place, tokens, there, acts)
    if examples.last:
        kept = kept & (torch.arange(tokens.shape[1]) == there.sum(1, keepdim=True) - 1)
    squares = (acts[place.target].float().cpu().square().sum(2) * kept).sum(1)
    return Block(rows, kept.sum(1), acts[place.site].cpu()[kept], squares)


def _kept(
    lm: LanguageModel, place: Place, tokens: Tensor, there: Bool[Tensor, "R T"], acts: dict[Site, Tensor]
) -> Bool[Tensor, "R T"]:
    special = torch.tensor(sorted(Spelling(lm.tokenizer).special), dtype=torch.int64)
    out = place.exclusion.mask(torch.isin(tokens, special) | ~there, acts)
    return there & ~out.cpu()


def _lead(sae: SAE, lm: LanguageModel) -> list[int]:
    """What stands before a text in training, as in front of a prompt."""
    some = lm.tokenizer("a", add_special_tokens=False)["input_ids"]
    return prompt_ids(sae, lm, "a").tolist()[: -len(some)]
